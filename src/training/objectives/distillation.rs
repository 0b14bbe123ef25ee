//! Learning what a teacher would have said.

use std::fmt;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;

use super::CrossEntropy;
use crate::agents::{LossTerm, Objective, Text};

/// `w · KL(p_t ‖ p) + (1 − w) · NLL` over the tokens of the target, at temperature 1 (Hinton et al., arXiv 1503.02531): the teacher's
/// distribution over the whole vocabulary counts at each of them. Trajectories have no teacher: they are learned by cross-entropy.
#[derive(Clone)]
pub struct Distillation<T> {
    teacher: T,
    weight: f64,
}

impl<T: Fn(u64) -> TensorData> Distillation<T> {
    /// Learns with weight `w` from `teacher`, which gives `log p_t` at each token of a sample's target, `[tokens, V]`, by the sample's number
    /// in the update; −∞ stands for a probability of 0.
    ///
    /// # Panics
    /// If the weight is not in `[0, 1]`.
    pub fn new(teacher: T, weight: f64) -> Self {
        assert!((0.0..=1.0).contains(&weight), "a weight between 0 and 1, not {weight}");
        Self { teacher, weight }
    }
}

impl<T> fmt::Debug for Distillation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distillation").field("weight", &self.weight).finish_non_exhaustive()
    }
}

impl<B: ModelBackend, T: Fn(u64) -> TensorData + Send + Sync> Objective<B> for Distillation<T> {
    /// # Panics
    /// If the teacher gives another number of tokens or another vocabulary than the team has.
    fn loss(&self, term: LossTerm<'_, B>) -> Tensor<B, 1> {
        if term.text != Text::Target {
            return CrossEntropy.loss(term);
        }
        let (predictions, weight) = (term.predictions, term.weight);
        let [_, vocabulary] = predictions.logits.dims();
        let rows = predictions.rows.chunk_by(|a, b| a == b).map(|row| {
            let log_p = (self.teacher)(term.numbers[row[0]]);
            assert_eq!(log_p.shape[..], [row.len(), vocabulary], "the teacher's tokens and vocabulary");
            Tensor::from_data(log_p, &predictions.logits.device())
        });
        let log_p: Tensor<B, 2> = Tensor::cat(rows.collect(), 0);
        let kl = B::sum(B::token_kl(log_p, predictions.logits.clone()));
        kl.mul_scalar(weight * self.weight)
            + B::sum(predictions.nll()).mul_scalar(weight * (1.0 - self.weight))
    }
}
