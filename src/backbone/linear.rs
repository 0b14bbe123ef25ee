//! A frozen linear layer, optionally with LoRA.

use burn::prelude::*;
use diffmas_backends::{Autodiff, LinearRef, ModelBackend};

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
        match &self.lora {
            Some(ActiveLora::Stacked(stack)) => stack.forward(x.clone()) + self.alone(x, None),
            _ => self.alone(x, None),
        }
    }

    /// Applies the layer and adds `residual [N, out]`.
    ///
    /// # Shapes
    /// `[N, in]` → `[N, out]`
    pub fn forward_onto(&self, x: Tensor<B, 2>, residual: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.lora {
            Some(ActiveLora::Stacked(_)) => residual + self.forward(x),
            _ => self.alone(x, Some(&residual)),
        }
    }

    /// Applies several layers to one input.
    ///
    /// # Shapes
    /// `[N, in]` → `[N, out]` by layer
    pub fn forward_all<const N: usize>(layers: [&Self; N], x: Tensor<B, 2>) -> [Tensor<B, 2>; N] {
        if layers.iter().any(|layer| matches!(layer.lora, Some(ActiveLora::Stacked(_)))) {
            return layers.map(|layer| layer.forward(x.clone()));
        }
        outputs(layers.map(|layer| layer.parts(None)), x)
    }

    /// The layer without factors of several roles.
    fn alone(&self, x: Tensor<B, 2>, residual: Option<&Tensor<B, 2>>) -> Tensor<B, 2> {
        let [y] = outputs([self.parts(residual)], x);
        y
    }

    /// What a backend applies at once; factors of several roles are not among it.
    fn parts<'a>(&'a self, residual: Option<&'a Tensor<B, 2>>) -> LinearRef<'a, B> {
        let lora = match &self.lora {
            Some(ActiveLora::One(lora)) => Some(lora.as_ref()),
            _ => None,
        };
        LinearRef { weight: &self.weight, bias: self.bias.as_ref(), lora, residual }
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

fn outputs<B: ModelBackend, const N: usize>(
    layers: [LinearRef<'_, B>; N],
    x: Tensor<B, 2>,
) -> [Tensor<B, 2>; N] {
    let ys: Vec<_> = B::frozen_linears(x, &layers).into_iter().map(|output| output.y).collect();
    ys.try_into().expect("an output for each layer")
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
