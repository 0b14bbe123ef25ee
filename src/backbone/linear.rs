//! A frozen linear layer, optionally with LoRA.

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend};

use super::ActiveLora;

/// `y = x·Wᵀ + bias (+ s·(x·Aᵀ)·Bᵀ)`, the weight in Hugging Face's `[out, in]` layout; LoRA as in Hu et al., arXiv 2106.09685.
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::{Lora, fixtures::*};
    use super::*;

    #[test]
    fn rows_are_multiplied_by_the_transposed_weight() {
        let (dense, x) = (Dense::new(5, 3, 1), random([4, 3], 2));
        for (got, x) in rows(&dense.layer.forward(x.clone())).iter().zip(rows(&x)) {
            close(got, &dense.apply(&x));
        }
    }

    #[test]
    fn factors_are_multiplied_one_after_the_other_and_scaled() {
        let (dense, x) = (Dense::new(5, 3, 1), random([4, 3], 2));
        let (a, b) = (random([2, 3], 3), random([5, 2], 4));
        let (down, up) = (rows(&a), rows(&b));
        let mut layer = dense.layer.clone();
        layer.lora = Some(ActiveLora::One(Lora { a, b, scaling: 0.5 }));
        let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        for (got, x) in rows(&layer.forward(x.clone())).iter().zip(rows(&x)) {
            let narrow: Vec<f64> = down.iter().map(|w| dot(w, &x)).collect();
            let want = dense.apply(&x).into_iter().zip(&up).map(|(y, w)| y + 0.5 * dot(w, &narrow));
            close(got, &want.collect::<Vec<_>>());
        }
    }
}
