//! Attention weights by sender, on request: those of cross-agent attention to vectors, and those of self-attention to segments.

use burn::prelude::*;
use diffmas_backends::{ModelBackend, host_data};

use super::{AgentInput, Team};
use crate::backbone::{KeyValues, Positions, Recorder};
use crate::communication::ReceivedMessages;

/// The attention weights of an agent over its prompt, by sender: of self-attention to segments, or of cross-agent attention to vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct SenderAttention {
    /// Indices of the senders.
    pub senders: Vec<usize>,
    /// Indices of the layers that the weights belong to.
    pub layers: Vec<usize>,
    /// Weights by layer, row and sender, each a mean over heads and the row's positions; what is missing to 1 stays with the agent's own positions
    /// (segments) or is the null key's (vectors).
    pub weights: Vec<Vec<Vec<f64>>>,
}

impl SenderAttention {
    /// The weights of a row by sender, as a mean over layers.
    pub fn of_row(&self, row: usize) -> Vec<f64> {
        let mean =
            |s: usize| self.weights.iter().map(|rows| rows[row][s]).sum::<f64>() / self.layers.len() as f64;
        (0..self.senders.len()).map(mean).collect()
    }
}

impl<B: ModelBackend> Team<B> {
    /// How much agent `j`, reading `prompt` once more, attends to the segments of `received`; `None` where no message has one.
    pub fn segment_attention(
        &self,
        j: usize,
        prompt: &AgentInput,
        received: &ReceivedMessages<B>,
    ) -> Option<SenderAttention> {
        let context = self.read(received);
        let past: Vec<&KeyValues<B>> = context.kv.iter().collect();
        if past.iter().all(|kv| kv.is_empty()) {
            return None;
        }
        let backbone = &self.roles[j];
        let at = Positions::issue(prompt.valid(), &mut context.start.clone());
        let x = self.embed(prompt, backbone).x;
        let layers = backbone.attention_weights(x, &at, &past, context.hook());
        let segments: Vec<usize> = received.segments().map(KeyValues::len).collect();
        let of_rows = prompt.valid().chunks_exact(prompt.len());
        let real: Vec<usize> = of_rows.map(|row| row.iter().filter(|v| **v).count()).collect();
        let by_row = |weights: Tensor<B, 4>| -> Vec<Vec<f64>> {
            let [rows, heads, len, keys] = weights.dims();
            let values: Vec<f64> = host_data(weights).iter::<f64>().collect();
            let mut sums = vec![vec![0.0; segments.len()]; rows];
            for (row, query) in values.chunks_exact(keys).enumerate() {
                let (b, t) = (row / (heads * len), row % len);
                if prompt.valid()[b * len + t] {
                    let mut from = 0;
                    for (sum, n) in sums[b].iter_mut().zip(&segments) {
                        *sum += query[from..from + n].iter().sum::<f64>();
                        from += n;
                    }
                }
            }
            for (row, real) in sums.iter_mut().zip(&real) {
                row.iter_mut().for_each(|sum| *sum /= (real * heads) as f64);
            }
            sums
        };
        let weights: Vec<_> = layers.into_iter().map(by_row).collect();
        let senders = received.messages.iter().filter(|m| m.segment.is_some()).map(|m| m.sender).collect();
        Some(SenderAttention { senders, layers: (0..weights.len()).collect(), weights })
    }

    /// The cross-agent attention weights of another pass of the final agent over `prompt`; `None` where messages have no vectors.
    pub fn sender_attention(
        &self,
        prompt: &AgentInput,
        received: &ReceivedMessages<B>,
    ) -> Option<SenderAttention> {
        let context = self.read(received);
        let hook = context.hook()?;
        let (backbone, recorder) = (self.answering(), Recorder::new(Some(hook)));
        let at = Positions::issue(prompt.valid(), &mut context.start.clone());
        let past: Vec<&KeyValues<B>> = context.kv.iter().collect();
        backbone.forward(prompt.embed(backbone).x, &at, &past, None, Some(&recorder));
        let passed = recorder.into_passed().into_iter().enumerate();
        let seen: Vec<(usize, Tensor<B, 2>)> = passed
            .filter_map(|(l, passed)| Some((l, hook.weights(l, passed.before, prompt.batch())?)))
            .collect();
        let senders: Vec<usize> =
            received.messages.iter().filter(|m| m.vectors.is_some()).map(|m| m.sender).collect();
        let by_row = |weights: &Tensor<B, 2>| -> Vec<Vec<f64>> {
            let values: Vec<f64> = host_data(weights.clone()).iter::<f64>().collect();
            let positions = values.chunks_exact(senders.len()).zip(prompt.valid());
            let positions: Vec<_> = positions.collect();
            positions
                .chunks_exact(prompt.len())
                .map(|row| {
                    let real: Vec<&[f64]> = row.iter().filter(|(_, v)| **v).map(|(w, _)| *w).collect();
                    let mean = |s: usize| real.iter().map(|w| w[s]).sum::<f64>() / real.len() as f64;
                    (0..senders.len()).map(mean).collect()
                })
                .collect()
        };
        let weights = seen.iter().map(|(_, w)| by_row(w)).collect();
        Some(SenderAttention { layers: seen.iter().map(|(l, _)| *l).collect(), weights, senders })
    }
}
