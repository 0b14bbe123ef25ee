//! The communication encoder: an agent's hidden states, however many, as `M` vectors of width `c`.

use burn::prelude::*;
use burn::tensor::activation::silu;
use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};

use super::cross_attention::{attend, heads, mask, normalise};
use super::init::Draws;
use super::{Thought, Vectors};
use crate::backbone::Parameters;
use crate::error::{Error, Result};

/// Sizes of the learned channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorsConfig {
    /// Vectors per agent, `M`.
    pub num_vectors: usize,
    /// Their width, `c`.
    pub vector_dim: usize,
    /// Attention heads of encoder and cross-agent attention.
    pub vector_heads: usize,
    /// Layers of the receiver that read vectors.
    pub cross_attention_layers: Vec<usize>,
    /// The agents' names in order; each sender has queries and an embedding of its own.
    pub agents: Vec<String>,
}

impl VectorsConfig {
    /// Refuses sizes that make no sense in any model.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check_sizes(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::invalid(message));
        for (name, size) in [
            ("num_vectors", self.num_vectors),
            ("vector_dim", self.vector_dim),
            ("vector_heads", self.vector_heads),
        ] {
            if size == 0 {
                return wrong(format!("{name} must be at least 1"));
            }
        }
        if !self.vector_dim.is_multiple_of(self.vector_heads) {
            return wrong(format!(
                "vector_dim = {} cannot be divided among vector_heads = {} heads",
                self.vector_dim, self.vector_heads
            ));
        }
        if self.cross_attention_layers.is_empty() {
            return wrong("cross_attention_layers is empty: nobody would read the vectors".into());
        }
        Ok(())
    }

    /// Refuses sizes that make no sense for a model of `layers` layers.
    ///
    /// # Errors
    /// As [`VectorsConfig::check_sizes`]; or names a layer that the model does not have.
    pub fn check(&self, layers: usize) -> Result<()> {
        self.check_sizes()?;
        match self.cross_attention_layers.iter().find(|&&l| l >= layers) {
            Some(layer) => Err(Error::invalid(format!(
                "cross_attention_layers names layer {layer}, but the model's layers are 0 to {}",
                layers.saturating_sub(1)
            ))),
            None => Ok(()),
        }
    }

    /// The mask of a message whose vectors are all seen.
    pub(super) fn shown(&self, batch: usize) -> Vec<bool> {
        vec![true; batch * self.num_vectors]
    }

    /// The agents that send.
    pub(super) fn senders(&self) -> &[String] {
        self.agents.split_last().map_or(&[], |(_, senders)| senders)
    }
}

/// Fresh weights of the encoder for hidden states of width `hidden`.
pub(super) fn init<B: Backend>(config: &VectorsConfig, hidden: usize, draws: &mut Draws<B>) {
    let c = config.vector_dim;
    for name in config.senders() {
        draws.normal(format!("encoder.queries.{name}"), [config.num_vectors, c], 1.0);
    }
    draws.linear("encoder.k_proj", [hidden, c]);
    draws.linear("encoder.v_proj", [hidden, c]);
    draws.linear("encoder.up_proj", [c, 2 * c]);
    draws.linear("encoder.down_proj", [2 * c, c]);
}

/// The sender's queries attend over its normalised hidden states; what they gather goes through a small MLP with a residual.
pub(super) fn encode<B: ModelBackend>(
    config: &VectorsConfig,
    parameters: &Parameters<B>,
    thought: &Thought<B>,
) -> Vectors<B> {
    let (m, c) = (config.num_vectors, config.vector_dim);
    let (states, valid) = thought.hidden_states();
    let [batch, n, d] = states.dims();
    let mask = mask(&valid, batch, &states.device());
    let states = normalise(states.reshape([batch * n, d]));
    let project = |name: &str| {
        let y = states.clone().matmul(parameters.get(&format!("encoder.{name}")).clone());
        heads(y, batch, config.vector_heads)
    };
    let queries = parameters.get(&format!("encoder.queries.{}", config.agents[thought.sender])).clone();
    let queries = heads(queries.repeat_dim(0, batch), batch, config.vector_heads);
    let (gathered, _) = attend(queries, project("k_proj"), project("v_proj"), mask, false);
    let gathered = gathered.reshape([batch * m, c]);
    let up = normalise(gathered.clone()).matmul(parameters.get("encoder.up_proj").clone());
    let values = gathered + silu(up).matmul(parameters.get("encoder.down_proj").clone());
    Vectors { values: values.reshape([batch, m, c]), valid: config.shown(batch) }
}
