//! What an update of AdamW takes, for everything that learns at once.

use std::ops::Range;

use burn::prelude::*;

/// Parameters and Adam's moments, each in one tensor `[N]` of the same order.
#[derive(Clone, Debug)]
pub struct AdamWState<B: Backend> {
    /// What learns.
    pub parameters: Tensor<B, 1>,
    /// The running mean of the gradient.
    pub exp_avg: Tensor<B, 1>,
    /// The running mean of its square.
    pub exp_avg_sq: Tensor<B, 1>,
}

/// AdamW's arithmetic for some of these numbers, by the symbols of [`ModelBackend::adamw`](crate::ModelBackend::adamw).
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWRange {
    /// The numbers.
    pub numbers: Range<usize>,
    /// The learning rate `η`.
    pub lr: f32,
    /// `β₁` and `β₂`.
    pub betas: [f32; 2],
    /// `ε`
    pub eps: f32,
    /// `1 − β₁ᵗ` and `1 − β₂ᵗ`, where the numbers have their `t`-th update.
    pub bias_corrections: [f32; 2],
    /// What weight decay leaves of a number, `1 − η·λ`.
    pub kept: f32,
    /// What the gradient is multiplied with, where it is clipped.
    pub clip_factor: f32,
    /// Where the numbers are a square matrix: its width, and what is added to its diagonal.
    pub diagonal: Option<(usize, f32)>,
}
