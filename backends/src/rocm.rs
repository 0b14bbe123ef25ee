//! AMD GPUs through ROCm's HIP.

use burn::prelude::*;

impl crate::ModelBackend for burn::backend::Rocm {
    fn matmul<const D: usize>(a: Tensor<Self, D>, b: Tensor<Self, D>) -> Tensor<Self, D> {
        crate::cube::matmul(a, b)
    }

    fn sum<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, 1> {
        crate::cube::sum(x)
    }
}
