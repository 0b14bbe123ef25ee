//! What is learned from: the tokens that a stage predicts, and the objective that makes a loss of them.

use std::fmt::Debug;

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::TeamBatch;

/// What an agent predicts of a text while it is given all tokens before each: the real tokens of all rows, rows one after another.
#[derive(Clone, Debug)]
pub struct Predictions<B: Backend> {
    /// Logits of the next token, `[n, V]`.
    pub logits: Tensor<B, 2>,
    /// The token that follows, `n` of them.
    pub tokens: Vec<u32>,
    /// The row of the batch that each belongs to.
    pub rows: Vec<usize>,
}

impl<B: ModelBackend> Predictions<B> {
    /// `−log p` of every token, `[n]`.
    pub fn nll(self) -> Tensor<B, 1> {
        B::token_nll(self.logits, &self.tokens)
    }
}

/// A text that an agent learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// The target, which the final agent answers.
    Target,
    /// The trajectory of the upstream agent of this index.
    Trajectory(usize),
}

/// All that one term of an update's loss is made of.
#[derive(Clone, Debug)]
pub struct LossTerm<'a, B: Backend> {
    /// What is learned.
    pub text: Text,
    /// How well it is known.
    pub predictions: Predictions<B>,
    /// The rows that it is learned in.
    pub batch: &'a TeamBatch,
    /// The factor of the sum over tokens, which makes the sum over all terms of this text in the update its weighted mean.
    pub weight: f64,
}

/// What an objective makes of a term.
#[derive(Clone, Debug)]
pub struct Loss<B: Backend> {
    /// What the term adds to the loss of the update, `[1]`.
    pub value: Tensor<B, 1>,
    /// What it adds to the mean divergence from a teacher, `[1]`, where there is one.
    pub distillation: Option<Tensor<B, 1>>,
}

impl<B: Backend> From<Tensor<B, 1>> for Loss<B> {
    fn from(value: Tensor<B, 1>) -> Self {
        Self { value, distillation: None }
    }
}

/// What a team learns by: log-probabilities of tokens in, loss out. A function of its arguments alone, and a sum over tokens times the
/// term's weight, so that micro-batches and processes add up.
pub trait Objective<B: ModelBackend>: Debug + Send + Sync {
    /// What the term adds to the loss of the update.
    fn loss(&self, term: LossTerm<'_, B>) -> Loss<B>;
}

/// Tokens of a whole update, over which the terms of its loss are means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Target tokens.
    pub target: usize,
    /// Tokens of each upstream agent's trajectories.
    pub trajectories: Vec<usize>,
}

impl TokenCounts {
    /// The tokens of `batches` of a team with `upstream` upstream agents.
    pub fn new(batches: &[TeamBatch], upstream: usize) -> Self {
        let trajectory =
            |j: usize| batches.iter().filter_map(|b| b.trajectory(j)).map(|e| e.count()).sum::<usize>();
        Self {
            target: batches.iter().map(TeamBatch::target_tokens).sum(),
            trajectories: (0..upstream).map(trajectory).collect(),
        }
    }
}

/// How the terms of a loss are weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct LossWeights {
    /// The factor of the sum over target tokens: one over those of the whole update.
    pub target: f64,
    /// The factor of the sum over the tokens of each upstream agent's trajectory.
    pub trajectories: Vec<f64>,
}

impl LossWeights {
    /// `L_final + λ · mean_j L_j` over an update of `tokens`, each `L` a mean over its tokens.
    pub fn new(tokens: &TokenCounts, lambda: f64) -> Self {
        let roles = tokens.trajectories.iter().filter(|&&n| n > 0).count();
        let trajectory = |&n: &usize| if n == 0 { 0.0 } else { lambda / (roles * n) as f64 };
        Self {
            target: 1.0 / tokens.target.max(1) as f64,
            trajectories: tokens.trajectories.iter().map(trajectory).collect(),
        }
    }
}
