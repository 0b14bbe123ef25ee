//! A frozen linear layer, optionally with LoRA.

use burn::prelude::*;
use diffmas_backends::{Autodiff, LoraRef, ModelBackend};

use super::Lora;

/// `y = x·Wᵀ + bias (+ LoRA)`, the weight in Hugging Face's `[out, in]` layout.
#[derive(Clone, Debug)]
pub struct Linear<B: Backend> {
    /// `[out, in]`, frozen.
    pub weight: Tensor<B, 2>,
    /// `[out]`, frozen.
    pub bias: Option<Tensor<B, 1>>,
    /// Trainable factors, where the layer was converted.
    pub lora: Option<Lora<B>>,
}

impl<B: ModelBackend> Linear<B> {
    /// A layer without LoRA.
    pub fn new(weight: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Self {
        Self { weight, bias, lora: None }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `[N, in]` → `[N, out]`; activations are two-dimensional, because a weight is copied to broadcast over more.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let lora = self.lora.as_ref().map(|l| LoraRef { a: &l.a, b: &l.b, scaling: l.scaling });
        B::frozen_linear(x, &self.weight, self.bias.as_ref(), lora)
    }

    /// The frozen layer for training, sharing its storage; LoRA is attached there anew.
    pub fn to_autodiff(&self) -> Linear<Autodiff<B>> {
        Linear {
            weight: Tensor::from_inner(self.weight.clone()),
            bias: self.bias.clone().map(Tensor::from_inner),
            lora: None,
        }
    }
}
