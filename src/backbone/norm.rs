//! Root-mean-square norm.

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend};

/// `x / sqrt(mean(x²) + eps) · weight`, in at least f32 (arXiv 1910.07467).
#[derive(Clone, Debug)]
pub struct RmsNorm<B: Backend> {
    /// `[D]`, frozen.
    pub weight: Tensor<B, 1>,
    /// `rms_norm_eps`.
    pub eps: f64,
}

impl<B: ModelBackend> RmsNorm<B> {
    /// Normalises the last dimension.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        B::rms_norm(x, &self.weight, self.eps)
    }

    /// The norm for training, sharing its storage.
    pub fn to_autodiff(&self) -> RmsNorm<Autodiff<B>> {
        RmsNorm { weight: Tensor::from_inner(self.weight.clone()), eps: self.eps }
    }
}
