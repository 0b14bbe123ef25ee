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
        self.apply(x, None, None)
    }

    /// Applies the layer and adds `residual [N, out]`; with the `keys` of positions, factors read inputs with dropout.
    ///
    /// # Shapes
    /// `[N, in]` → `[N, out]`
    pub fn forward_onto(
        &self,
        x: Tensor<B, 2>,
        residual: Tensor<B, 2>,
        keys: Option<&[u64]>,
    ) -> Tensor<B, 2> {
        self.apply(x, Some(&residual), keys)
    }

    /// Applies several layers to one input; with the `keys` of positions, factors read inputs with dropout.
    ///
    /// # Shapes
    /// `[N, in]` → `[N, out]` by layer
    pub fn forward_all<const N: usize>(
        layers: [&Self; N],
        x: Tensor<B, 2>,
        keys: Option<&[u64]>,
    ) -> [Tensor<B, 2>; N] {
        if layers.iter().any(|layer| layer.is_apart(keys)) {
            return layers.map(|layer| layer.apply(x.clone(), None, keys));
        }
        outputs(layers.map(|layer| layer.parts(true, None)), x)
    }

    /// Whether the factors are not among what a backend applies at once: they are those of several roles, or read another input.
    fn is_apart(&self, keys: Option<&[u64]>) -> bool {
        match &self.lora {
            Some(ActiveLora::Stacked(_)) => true,
            Some(lora) => keys.is_some() && lora.drops(),
            None => false,
        }
    }

    fn apply(&self, x: Tensor<B, 2>, residual: Option<&Tensor<B, 2>>, keys: Option<&[u64]>) -> Tensor<B, 2> {
        let apart = self.is_apart(keys);
        let factors = self.lora.as_ref().filter(|_| apart).map(|lora| match lora {
            ActiveLora::Stacked(stack) => stack.forward(x.clone(), keys.filter(|_| lora.drops())),
            ActiveLora::One(lora) => lora.dropped(x.clone(), keys.expect("factors apart have keys")),
        });
        let [y] = outputs([self.parts(!apart, residual)], x);
        match factors {
            Some(factors) => y + factors,
            None => y,
        }
    }

    /// What a backend applies at once.
    fn parts<'a>(&'a self, with_factors: bool, residual: Option<&'a Tensor<B, 2>>) -> LinearRef<'a, B> {
        let lora = match &self.lora {
            Some(ActiveLora::One(lora)) if with_factors => Some(lora.as_ref()),
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
    use super::super::{Lora, LoraDropout, fixtures::*};
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
        layer.lora = Some(ActiveLora::One(Lora { a, b, scaling: 0.5, dropout: LoraDropout::new(0.0, "") }));
        let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        for (got, x) in rows(&layer.forward(x.clone())).iter().zip(rows(&x)) {
            let narrow: Vec<f64> = down.iter().map(|w| dot(w, &x)).collect();
            let want = dense.apply(&x).into_iter().zip(&up).map(|(y, w)| y + 0.5 * dot(w, &narrow));
            close(got, &want.collect::<Vec<_>>());
        }
    }
}
