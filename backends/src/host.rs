//! Frozen matrices of backends that compute in the process's own memory: f32 as a tensor, everything narrower as the file has it. Of
//! a narrow one, a strip of rows at a time is widened when it is used.

use std::ops::Range;
use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::{FrozenMatrix, LinearGrads, LoraRef, ModelBackend, StoredDtype, StoredMatrix, composed};

/// Numbers that are widened at once.
const STRIP: usize = 1 << 20;

/// A frozen matrix `[out, in]`.
#[derive(Clone, Debug)]
pub enum HostWeight<B: Backend> {
    /// f32.
    Dense(Tensor<B, 2>),
    /// Narrower, widened on use.
    Narrow(Arc<StoredMatrix>),
}

impl<B: Backend> HostWeight<B> {
    /// The matrix on the backend's only device.
    pub fn new(matrix: StoredMatrix, device: &B::Device) -> Self {
        match matrix.dtype() {
            StoredDtype::F32 => {
                let shape = matrix.shape();
                let data = TensorData::from_bytes(matrix.into_bytes(), shape, burn::tensor::DType::F32);
                Self::Dense(Tensor::from_data(data, device))
            }
            _ => Self::Narrow(Arc::new(matrix)),
        }
    }
}

impl<B: Backend> FrozenMatrix for HostWeight<B> {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(w) => w.dims(),
            Self::Narrow(w) => w.shape(),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Dense(w) => w.held_bytes(),
            Self::Narrow(w) => w.bytes().len(),
        }
    }

    fn rows(&self, rows: Range<usize>) -> Vec<f32> {
        match self {
            Self::Dense(w) => w.rows(rows),
            Self::Narrow(w) => {
                let mut out = Vec::new();
                w.widen_rows(rows, &mut out);
                out
            }
        }
    }
}

/// Strips of rows of `w`: the first row of each, and its values `[rows, in]`.
fn strips<'a, B: Backend>(
    w: &'a StoredMatrix,
    device: &'a B::Device,
) -> impl Iterator<Item = (usize, Tensor<B, 2>)> + 'a {
    let [out, cols] = w.shape();
    let height = (STRIP / cols.max(1)).max(1);
    (0..out).step_by(height).map(move |from| {
        let rows = from..out.min(from + height);
        let mut values = Vec::new();
        w.widen_rows(rows.clone(), &mut values);
        (from, Tensor::from_data(TensorData::new(values, [rows.len(), cols]), device))
    })
}

/// `x · Wᵀ`, a strip of columns after the other.
fn times_transposed<B: ModelBackend>(x: Tensor<B, 2>, w: &StoredMatrix) -> Tensor<B, 2> {
    let device = x.device();
    let parts = strips::<B>(w, &device).map(|(_, strip)| B::matmul(x.clone(), strip.transpose()));
    Tensor::cat(parts.collect(), 1)
}

/// `x · W`, the products with each strip added up in order.
fn times<B: ModelBackend>(x: Tensor<B, 2>, w: &StoredMatrix) -> Tensor<B, 2> {
    let device = x.device();
    strips::<B>(w, &device)
        .map(|(from, strip)| B::matmul(x.clone().narrow(1, from, strip.dims()[0]), strip))
        .reduce(|sum, part| sum + part)
        .expect("a weight has rows")
}

/// See [`ModelBackend::frozen_linear`].
pub fn frozen_linear<B: ModelBackend>(
    x: Tensor<B, 2>,
    weight: &HostWeight<B>,
    bias: Option<&Tensor<B, 1>>,
    lora: Option<LoraRef<'_, B>>,
) -> Tensor<B, 2> {
    match weight {
        HostWeight::Dense(w) => composed::frozen_linear(x, w, bias, lora),
        HostWeight::Narrow(w) => composed::with_bias_and_lora(times_transposed(x.clone(), w), x, bias, lora),
    }
}

/// See [`ModelBackend::frozen_linear_backward`].
pub fn frozen_linear_backward<B: ModelBackend>(
    dy: Tensor<B, 2>,
    x: Option<Tensor<B, 2>>,
    weight: &HostWeight<B>,
    lora: Option<LoraRef<'_, B>>,
    wants_dx: bool,
) -> LinearGrads<B> {
    match weight {
        HostWeight::Dense(w) => composed::frozen_linear_backward(dy, x, w, lora, wants_dx),
        HostWeight::Narrow(w) => {
            let dx = wants_dx.then(|| times(dy.clone(), w));
            composed::with_lora_gradients(dx, dy, x, lora)
        }
    }
}

/// See [`ModelBackend::frozen_transposed`].
pub fn frozen_transposed<B: ModelBackend>(x: Tensor<B, 2>, weight: &HostWeight<B>) -> Tensor<B, 2> {
    match weight {
        HostWeight::Dense(w) => composed::frozen_transposed(x, w),
        HostWeight::Narrow(w) => times(x, w),
    }
}

/// See [`ModelBackend::embed`].
pub fn embed<B: ModelBackend>(weight: &HostWeight<B>, ids: &[u32], device: &B::Device) -> Tensor<B, 2> {
    match weight {
        HostWeight::Dense(w) => composed::embed(w, ids),
        HostWeight::Narrow(w) => {
            let [rows, cols] = w.shape();
            let mut values = Vec::with_capacity(ids.len() * cols);
            for &id in ids {
                assert!((id as usize) < rows, "the row {id} of {rows}");
                w.widen_rows(id as usize..id as usize + 1, &mut values);
            }
            Tensor::from_data(TensorData::new(values, [ids.len(), cols]), device)
        }
    }
}
