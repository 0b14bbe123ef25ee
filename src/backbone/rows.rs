//! Rows of a tensor by their indices on the host.

use burn::prelude::*;
use burn::tensor::TensorData;

/// The rows of `x`, along its first dimension, with these indices, in this order: copied.
pub(crate) fn select_rows<B: Backend, const D: usize>(x: Tensor<B, D>, rows: &[usize]) -> Tensor<B, D> {
    let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let indices = Tensor::<B, 1, Int>::from_data(TensorData::new(indices, [rows.len()]), &x.device());
    x.select(0, indices)
}
