//! The gated feed-forward layer.

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend};

use super::Linear;

/// `down(silu(gate(x)) · up(x))` (arXiv 2002.05202).
#[derive(Clone, Debug)]
pub struct Mlp<B: ModelBackend> {
    /// `[D, intermediate]`
    pub gate_proj: Linear<B>,
    /// `[D, intermediate]`
    pub up_proj: Linear<B>,
    /// `[intermediate, D]`
    pub down_proj: Linear<B>,
}

impl<B: ModelBackend> Mlp<B> {
    /// Applies the layer.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let gate = self.gate_proj.forward(x.clone());
        let up = self.up_proj.forward(x);
        self.down_proj.forward(B::swiglu(gate, up))
    }

    /// The layer for training, sharing its storage.
    pub fn to_autodiff(&self) -> Mlp<Autodiff<B>> {
        Mlp {
            gate_proj: self.gate_proj.to_autodiff(),
            up_proj: self.up_proj.to_autodiff(),
            down_proj: self.down_proj.to_autodiff(),
        }
    }
}
