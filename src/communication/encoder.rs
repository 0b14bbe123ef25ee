//! The communication encoder: an agent's hidden states, however many, as `M` vectors of width `c`.

use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::silu;
use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};

use super::cross_attention::{HIDDEN, attend, heads, normalise};
use super::init::{Draws, Projection};
use super::{Thought, Vectors};
use crate::backbone::Parameters;
use crate::error::{Error, Result};

/// How much the score of a state falls with each part of the thought between it and a query's own.
const SLOPE: f32 = 2.0;

fn yes() -> bool {
    true
}

/// The largest size that makes sense, far above that of any model.
const MOST: usize = 1 << 14;

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
    /// Whether query `m` of the encoder prefers the `m`-th part of the thought. On where a file does not say: it was before it could be
    /// set.
    #[serde(default = "yes")]
    pub encoder_position_prior: bool,
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

/// Fresh weights: a vector begins as a mean around its part of the thought.
pub(super) fn init<B: Backend>(config: &VectorsConfig, projection: &Projection<B>, draws: &mut Draws<B>) {
    let c = config.vector_dim;
    for name in config.senders() {
        draws.normal(format!("encoder.queries.{name}"), [config.num_vectors, c], 0.02);
    }
    draws.linear("encoder.k_proj", projection.onto.dims());
    draws.copy("encoder.v_proj", &projection.onto);
    draws.linear("encoder.up_proj", [c, 2 * c]);
    draws.full("encoder.down_proj", [2 * c, c], 0.0);
}

/// What is added to the scores of `m` queries, `[B, m, n]` row-major: each prefers its own of `m` equal parts of the thought, which is where
/// `valid` (`[B, n]` row-major) is true, by `slope` for each part between them; the rest is hidden. Hidden states carry no position, and what
/// is gathered from all of them at once does not tell what stood beside what.
fn places(valid: &[bool], batch: usize, m: usize, slope: f32) -> Vec<f32> {
    let mut scores = Vec::with_capacity(m * valid.len());
    for valid in valid.chunks_exact(valid.len() / batch) {
        let width = m as f32 / valid.iter().filter(|&&v| v).count() as f32;
        for query in 0..m {
            let mut seen = 0.0;
            scores.extend(valid.iter().map(|&v| {
                let between = (seen + 0.5) * width - (query as f32 + 0.5);
                seen += f32::from(v);
                if v { -slope * between.abs() } else { HIDDEN }
            }));
        }
    }
    scores
}

/// The sender's queries attend over its normalised hidden states; what they gather goes through a small MLP with a residual.
pub(super) fn encode<B: ModelBackend>(
    config: &VectorsConfig,
    parameters: &Parameters<B>,
    thought: &Thought<B>,
) -> Vectors<B> {
    let (m, c, h) = (config.num_vectors, config.vector_dim, config.vector_heads);
    let (states, valid) = thought.hidden_states();
    let [batch, n, d] = states.dims();
    let slope = if config.encoder_position_prior { SLOPE } else { 0.0 };
    let places = TensorData::new(places(&valid, batch, m, slope), [batch, 1, m, n]);
    let places = Tensor::from_data(places, &states.device());
    let states = normalise(states.reshape([batch * n, d]));
    let project = |name: &str| {
        let y = B::matmul(states.clone(), parameters.get(&format!("encoder.{name}")).clone());
        heads(y, batch, h)
    };
    let queries = parameters.get(&format!("encoder.queries.{}", config.agents[thought.sender])).clone();
    let queries = heads(queries, 1, h).expand([batch, h, m, c / h]);
    let (gathered, _) = attend(queries, project("k_proj"), project("v_proj"), Some(places), false);
    let gathered = gathered.reshape([batch * m, c]);
    let up = B::matmul(normalise(gathered.clone()), parameters.get("encoder.up_proj").clone());
    let values = gathered + B::matmul(silu(up), parameters.get("encoder.down_proj").clone());
    Vectors { values: values.reshape([batch, m, c]), valid: config.shown(batch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_prefer_their_own_parts_of_what_is_there() {
        let (h, s) = (HIDDEN, SLOPE);
        let left_padded = [false, true, true, true, true];
        let whole = [true; 5];
        let scores = places(&[left_padded, whole].concat(), 2, 2, s);
        // Four states in two parts: a query stands in the middle of its two.
        assert_eq!(scores[..5], [h, -0.25 * s, -0.25 * s, -0.75 * s, -1.25 * s]);
        assert_eq!(scores[5..10], [h, -1.25 * s, -0.75 * s, -0.25 * s, -0.25 * s]);
        assert!(scores.len() == 20 && scores[10..].iter().all(|&x| x > h));
        // As many queries as states: one each.
        let own = places(&[true; 3], 1, 3, s);
        assert_eq!([own[0], own[4], own[8]], [0.0; 3]);
        assert!([own[1], own[3], own[5], own[7]].iter().all(|x| (x + s).abs() < 1e-6), "{own:?}");
        // Without the prior all that is there counts the same, and padding is hidden all the same.
        assert_eq!(places(&left_padded, 1, 1, 0.0), [h, 0.0, 0.0, 0.0, 0.0]);
    }
}
