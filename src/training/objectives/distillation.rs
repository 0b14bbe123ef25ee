//! Learning the distributions of a teacher.

use std::fmt;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;

use super::CrossEntropy;
use crate::agents::{Loss, LossTerm, Objective, TeamBatch, Text};

/// What a team is distilled from.
pub trait Teach<B: ModelBackend>: Send + Sync {
    /// `log p_t` over the whole vocabulary at each token of the targets of `batch`, rows one after another, on the team's device; −∞ stands for a
    /// probability of 0.
    ///
    /// # Shapes
    /// `[number of target tokens, V]`
    fn log_probs(&self, batch: &TeamBatch) -> Tensor<B, 2>;
}

/// `w · KL(p_t ‖ p) + (1 − w) · NLL` over the tokens of the target, at temperature 1 (Hinton et al., arXiv 1503.02531): the teacher's
/// distribution over the whole vocabulary counts at each of them. `w = 1` where the target is the teacher's own answer. Trajectories have
/// no teacher: they are learned by cross-entropy.
#[derive(Clone)]
pub struct Distillation<T> {
    teacher: T,
    weight: f64,
}

impl<T> Distillation<T> {
    /// Learns with weight `w` from `teacher` where the target stands in the data.
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

impl<B: ModelBackend, T: Teach<B>> Objective<B> for Distillation<T> {
    /// # Panics
    /// If the teacher gives another number of tokens or another vocabulary than the team has.
    fn loss(&self, term: LossTerm<'_, B>) -> Loss<B> {
        if term.text != Text::Target {
            return CrossEntropy.loss(term);
        }
        let predictions = term.predictions;
        let log_p = self.teacher.log_probs(term.batch);
        assert_eq!(log_p.dims(), predictions.logits.dims(), "the teacher's tokens and vocabulary");
        let kl = B::token_kl(log_p, predictions.logits.clone());
        let weight = |&row: &usize| if term.batch.labelled[row] { self.weight } else { 1.0 };
        let weights: Vec<f64> = predictions.rows.iter().map(weight).collect();
        let rest: Vec<f64> = weights.iter().map(|w| 1.0 - w).collect();
        let mut value = weighted_sum(kl.clone(), weights);
        if rest.iter().any(|&w| w > 0.0) {
            value = value + weighted_sum(predictions.nll(), rest);
        }
        let distillation = B::sum(kl.detach()).mul_scalar(term.weight);
        Loss { value: value.mul_scalar(term.weight), distillation: Some(distillation) }
    }
}

/// `Σ w_i · x_i`.
fn weighted_sum<B: ModelBackend>(x: Tensor<B, 1>, weights: Vec<f64>) -> Tensor<B, 1> {
    let data = TensorData::new(weights, x.shape()).convert_dtype(x.dtype());
    let weights = Tensor::from_data(data, (&x.device(), x.dtype()));
    B::sum(x * weights)
}
