//! A frozen linear layer, optionally with LoRA.

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend};

use super::ActiveLora;

/// `y = x·Wᵀ + bias (+ LoRA)`, the weight in Hugging Face's `[out, in]` layout.
#[derive(Clone, Debug)]
pub struct Linear<B: ModelBackend> {
    /// `[out, in]`, frozen.
    pub weight: B::Weight,
    /// `[out]`, frozen.
    pub bias: Option<Tensor<B, 1>>,
    /// Trainable factors, where the layer was converted.
    pub lora: Option<ActiveLora<B>>,
}

impl<B: ModelBackend> Linear<B> {
    /// A layer without LoRA.
    pub fn new(weight: B::Weight, bias: Option<Tensor<B, 1>>) -> Self {
        Self { weight, bias, lora: None }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `[N, in]` → `[N, out]`; activations are two-dimensional, because a weight is copied to broadcast over more.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let (weight, bias) = (&self.weight, self.bias.as_ref());
        match &self.lora {
            None => B::frozen_linear(x, weight, bias, None),
            Some(ActiveLora::One(lora)) => B::frozen_linear(x, weight, bias, Some(lora.as_ref())),
            Some(ActiveLora::Stacked(stack)) => {
                stack.forward(x.clone()) + B::frozen_linear(x, weight, bias, None)
            }
        }
    }

    /// The layer for training, sharing its storage; factors have no gradient there.
    pub fn to_autodiff(&self) -> Linear<Autodiff<B>> {
        Linear {
            weight: self.weight.clone(),
            bias: self.bias.clone().map(Tensor::from_inner),
            lora: self.lora.as_ref().map(ActiveLora::to_autodiff),
        }
    }
}
