//! Who listens to whom: the weights of cross-agent attention, and those of attention to segments, on request.

use std::sync::{Arc, Mutex};

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::model::prefill;
use super::{AgentInput, Team};
use crate::backbone::{Positions, ResidualHook};
use crate::communication::{SharedHook, Trace};

/// How much the final agent listens to each sender while it reads its prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Listening {
    /// Indices of the senders.
    pub senders: Vec<usize>,
    /// Layers in which it listens.
    pub layers: Vec<usize>,
    /// Weights by layer, row and sender, each a mean over heads and the row's positions; what is missing to 1 is on nobody.
    pub weights: Vec<Vec<Vec<f64>>>,
}

impl Listening {
    /// The weights of a row by sender, as a mean over layers.
    pub fn of_row(&self, row: usize) -> Vec<f64> {
        let mean =
            |s: usize| self.weights.iter().map(|rows| rows[row][s]).sum::<f64>() / self.layers.len() as f64;
        (0..self.senders.len()).map(mean).collect()
    }
}

impl<B: ModelBackend> Team<B> {
    /// How much agent `j`, reading `prompt` once more, attends to the segments of `trace`: by layer and message with a segment, a mean over
    /// heads, positions and rows; what is missing to 1 stays with its own positions. Empty where no message has a segment.
    pub fn attention(&self, j: usize, prompt: &AgentInput, trace: &Trace<B>) -> Vec<Vec<f64>> {
        let reading = self.read(trace);
        let (Some(past), backbone) = (&reading.kv, &self.roles[j]) else { return Vec::new() };
        let at = Positions::issue(prompt.valid(), &mut reading.start.clone());
        let x = prompt.embed(backbone).x;
        let layers = backbone.attention_weights(x, &at, &[past], reading.hook.as_deref());
        let segments: Vec<usize> =
            trace.messages.iter().filter_map(|m| m.segment.as_ref()).map(|s| s.kv.len()).collect();
        let real = prompt.count() as f64;
        let by_segment = |weights: Tensor<B, 4>| -> Vec<f64> {
            let [_, heads, len, keys] = weights.dims();
            let values: Vec<f64> = weights.into_data().iter::<f64>().collect();
            let mut sums = vec![0.0; segments.len()];
            for (row, query) in values.chunks_exact(keys).enumerate() {
                let (b, t) = (row / (heads * len), row % len);
                if prompt.valid()[b * len + t] {
                    let mut from = 0;
                    for (sum, n) in sums.iter_mut().zip(&segments) {
                        *sum += query[from..from + n].iter().sum::<f64>();
                        from += n;
                    }
                }
            }
            sums.iter().map(|sum| sum / (real * heads as f64)).collect()
        };
        layers.into_iter().map(by_segment).collect()
    }

    /// Lets the final agent read `prompt` once more and tells whom it listens to; `None` where messages have no vectors.
    pub fn listening(&self, prompt: &AgentInput, trace: &Trace<B>) -> Option<Listening> {
        let mut reading = self.read(trace);
        let recorder = Arc::new(Recorder { hook: reading.hook.take()?, seen: Mutex::default() });
        reading.hook = Some(recorder.clone());
        let backbone = self.answering();
        prefill(backbone, prompt.embed(backbone), &reading, &mut reading.start.clone());
        let seen = std::mem::take(&mut *recorder.seen.lock().expect("nobody panicked with the lock"));
        let senders: Vec<usize> =
            trace.messages.iter().filter(|m| m.vectors.is_some()).map(|m| m.sender).collect();
        let by_row = |weights: &Tensor<B, 2>| -> Vec<Vec<f64>> {
            let values: Vec<f64> = weights.to_data().iter::<f64>().collect();
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
        Some(Listening { layers: seen.iter().map(|(l, _)| *l).collect(), weights, senders })
    }
}

/// A hook that keeps the weights of the one in it.
#[derive(Debug)]
struct Recorder<B: ModelBackend> {
    hook: SharedHook<B>,
    seen: Mutex<Vec<(usize, Tensor<B, 2>)>>,
}

impl<B: ModelBackend> ResidualHook<B> for Recorder<B> {
    fn apply(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
        if let Some(weights) = self.hook.weights(layer, x.clone(), batch) {
            self.seen.lock().expect("nobody panicked with the lock").push((layer, weights));
        }
        self.hook.apply(layer, x, batch)
    }
}
