//! Sizes of the learned channel, as a team file says them and as a team has them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TeamSizes;
use crate::error::{Error, Result};

/// The largest size that makes sense, far above that of any model.
const MOST: usize = 1 << 14;

/// Settings of channels with vectors, keys of the team file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorsSettings {
    /// Vectors per agent, `M`.
    pub num_vectors: usize,
    /// Their width, `c`.
    pub vector_dim: usize,
    /// Attention heads of encoder and cross-agent attention.
    pub vector_heads: usize,
    /// Layers of the receiver that read vectors; every fourth, from the first on, where absent.
    pub cross_attention_layers: Option<Vec<usize>>,
    /// Whether query `m` of the encoder prefers the `m`-th part of the rollout.
    pub encoder_position_prior: bool,
}

impl Default for VectorsSettings {
    fn default() -> Self {
        Self {
            num_vectors: 8,
            vector_dim: 256,
            vector_heads: 4,
            cross_attention_layers: None,
            encoder_position_prior: true,
        }
    }
}

impl VectorsSettings {
    /// Refuses sizes that make no sense in any model, or, where `sizes` are known, in this one.
    ///
    /// # Errors
    /// Names the setting, and the layer that the model does not have.
    pub fn check(&self, sizes: Option<&TeamSizes>) -> Result<()> {
        let wrong = |message: String| Err(Error::invalid(message));
        for (name, size) in [
            ("num_vectors", self.num_vectors),
            ("vector_dim", self.vector_dim),
            ("vector_heads", self.vector_heads),
        ] {
            if size == 0 {
                return wrong(format!("{name} must be at least 1"));
            }
            if size > MOST {
                return wrong(format!("{name} = {size} is too large: at most {MOST}"));
            }
        }
        if self.num_vectors * self.vector_dim > MOST << 10 {
            return wrong(format!(
                "num_vectors = {} times vector_dim = {} is too large: at most {} numbers a message",
                self.num_vectors,
                self.vector_dim,
                MOST << 10
            ));
        }
        if !self.vector_dim.is_multiple_of(self.vector_heads) {
            return wrong(format!(
                "vector_dim = {} cannot be divided among vector_heads = {} heads",
                self.vector_dim, self.vector_heads
            ));
        }
        let layers = self.cross_attention_layers.as_deref();
        if layers.is_some_and(<[usize]>::is_empty) {
            return wrong("cross_attention_layers is empty: nobody would read the vectors".into());
        }
        let Some(count) = sizes.map(|sizes| sizes.num_hidden_layers) else { return Ok(()) };
        match layers.unwrap_or_default().iter().find(|&&l| l >= count) {
            Some(layer) => wrong(format!(
                "cross_attention_layers names layer {layer}, but the model's layers are 0 to {}",
                count.saturating_sub(1)
            )),
            None => Ok(()),
        }
    }

    /// The sizes in a team.
    pub(super) fn of(self, sizes: &TeamSizes) -> VectorsConfig {
        let every_fourth = || (0..sizes.num_hidden_layers).step_by(4).collect();
        VectorsConfig {
            num_vectors: self.num_vectors,
            vector_dim: self.vector_dim,
            vector_heads: self.vector_heads,
            cross_attention_layers: self.cross_attention_layers.unwrap_or_else(every_fourth),
            encoder_position_prior: self.encoder_position_prior,
            agents: sizes.agents.clone(),
        }
    }
}

/// Sizes of the learned channel of one team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorsConfig {
    /// Vectors per agent, `M`.
    pub num_vectors: usize,
    /// Their width, `c`.
    pub vector_dim: usize,
    /// Attention heads of encoder and cross-agent attention.
    pub vector_heads: usize,
    /// Layers of the receiver that read vectors.
    pub cross_attention_layers: Vec<usize>,
    /// Whether query `m` of the encoder prefers the `m`-th part of the rollout.
    pub encoder_position_prior: bool,
    /// The agents' names in order; each sender has queries and an embedding of its own.
    pub agents: Vec<String>,
}

impl VectorsConfig {
    /// The mask of a message whose vectors are all seen.
    pub(super) fn shown(&self, batch: usize) -> Vec<bool> {
        vec![true; batch * self.num_vectors]
    }

    /// The agents that send.
    pub(super) fn senders(&self) -> &[String] {
        self.agents.split_last().map_or(&[], |(_, senders)| senders)
    }

    /// The sizes by name, as files hold them.
    pub(super) fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => unreachable!("sizes are a table of plain data"),
        }
    }
}
