//! Root-mean-square norm.

use burn::prelude::*;
use diffmas_backends::{Autodiff, HeadNorm, ModelBackend};

/// `x / sqrt(mean(x²) + eps) · weight`, in at least f32 (Zhang & Sennrich, arXiv 1910.07467): each row `[D]` has the mean square 1 before it
/// is weighted column by column.
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

    /// The norm of each head, whose width `[D]` is.
    pub(super) fn of_heads(&self) -> HeadNorm<'_, B> {
        HeadNorm { weight: &self.weight, eps: self.eps }
    }

    /// The norm for training, sharing its storage.
    pub fn to_autodiff(&self) -> RmsNorm<Autodiff<B>> {
        RmsNorm { weight: Tensor::from_inner(self.weight.clone()), eps: self.eps }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::fixtures::*;
    use super::*;

    #[test]
    fn a_row_has_the_mean_square_one_whatever_its_size() {
        let norm = RmsNorm::<TestBackend> { weight: Tensor::ones([6], &Default::default()), eps: 1e-12 };
        for row in rows(&norm.forward(random([3, 6], 1).mul_scalar(40.0))) {
            close(&[row.iter().map(|x| x * x).sum::<f64>() / 6.0], &[1.0]);
        }
    }

    #[test]
    fn the_weight_scales_columns_and_eps_keeps_a_row_of_zeros() {
        let norm = RmsNorm::<TestBackend> {
            weight: Tensor::from_floats([1.0, -2.0], &Default::default()),
            eps: 0.75,
        };
        // The mean square of (3, 4) is 12.5, and 13.25 with eps.
        let root = 13.25f64.sqrt();
        let x = Tensor::from_floats([[3.0, 4.0], [0.0, 0.0]], &Default::default());
        close(&numbers(&norm.forward(x)), &[3.0 / root, -8.0 / root, 0.0, 0.0]);
    }
}
