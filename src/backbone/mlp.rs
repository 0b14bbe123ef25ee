//! The gated feed-forward layer.

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend};

use super::Linear;

/// `down(silu(gate(x)) · up(x))`, `silu(x) = x / (1 + e^−x)` (SwiGLU; Shazeer, arXiv 2002.05202).
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
    /// Applies the layer and adds `residual`; with the `keys` of positions, LoRA's factors read inputs with dropout.
    ///
    /// # Shapes
    /// `x`, `residual` `[N, D]` → `[N, D]`
    pub fn forward(&self, x: Tensor<B, 2>, residual: Tensor<B, 2>, keys: Option<&[u64]>) -> Tensor<B, 2> {
        // 1. gate and up: [N, D] → [N, intermediate]
        let [gate, up] = Linear::forward_all([&self.gate_proj, &self.up_proj], x, keys);

        // 2. silu(gate) · up, 3. down: [N, intermediate] → [N, D]
        self.down_proj.forward_onto(B::swiglu(gate, up), residual, keys)
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::fixtures::*;
    use super::*;

    #[test]
    fn a_row_is_gated_by_silu_before_it_goes_down() {
        let [gate, up, down] = [Dense::new(5, 3, 1), Dense::new(5, 3, 3), Dense::new(3, 5, 5)];
        let mlp =
            Mlp { gate_proj: gate.layer.clone(), up_proj: up.layer.clone(), down_proj: down.layer.clone() };
        let x = random([4, 3], 7).mul_scalar(3.0);
        for (got, x) in rows(&mlp.forward(x.clone(), x.clone(), None)).iter().zip(rows(&x)) {
            let gated = gate.apply(&x).into_iter().zip(up.apply(&x));
            let gated: Vec<f64> = gated.map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            let want = down.apply(&gated).into_iter().zip(&x).map(|(y, x)| y + x);
            close(got, &want.collect::<Vec<_>>());
        }
    }
}
