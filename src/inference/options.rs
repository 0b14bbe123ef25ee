//! How tokens are chosen and where answers end: of a call, and of one row.

use rand_chacha::ChaCha8Rng;

use super::Sampling;
use crate::random::generator;

/// How to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Hugging Face's `repetition_penalty`, on the tokens of the final agent's prompt and of the answer so far; 1 changes nothing.
    /// Upstream agents' prompts do not count: the final agent reads them as keys and values, not as tokens.
    pub repetition_penalty: f64,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Tokens that end an answer; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Seed of all draws; each sample draws from a stream of its own.
    pub seed: u64,
}

impl Default for DecodeOptions {
    /// Up to 256 best tokens.
    fn default() -> Self {
        Self {
            sampling: Sampling::Greedy,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            stop_tokens: Vec::new(),
            seed: 0,
        }
    }
}

impl DecodeOptions {
    /// `ids` without the token that ends them, where they end with one.
    pub fn without_end<'a>(&self, ids: &'a [u32]) -> &'a [u32] {
        match ids.split_last() {
            Some((last, rest)) if self.stop_tokens.contains(last) => rest,
            _ => ids,
        }
    }
}

/// How one row is continued.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowOptions {
    /// How its tokens are chosen, and when it ends.
    pub options: DecodeOptions,
    /// Its draws come from this stream under the seed of the options.
    pub sample_id: u64,
}

impl RowOptions {
    /// The generator of its draws.
    pub(super) fn rng(&self) -> ChaCha8Rng {
        generator(self.options.seed, self.sample_id)
    }
}
