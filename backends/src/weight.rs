//! What every backend's frozen matrices tell of themselves.

use std::fmt::Debug;
use std::ops::Range;

use burn::prelude::*;

use crate::host_data;

/// A frozen matrix `[out, in]` as a backend keeps it. Clones share its storage.
pub trait FrozenMatrix: Clone + Debug + Send + Sync + 'static {
    /// `[out, in]`
    fn shape(&self) -> [usize; 2];

    /// The bytes that its numbers take in memory.
    fn held_bytes(&self) -> usize;

    /// Some of its rows on the host, row-major.
    ///
    /// # Panics
    /// If there are no such rows.
    fn rows(&self, rows: Range<usize>) -> Vec<f32>;
}

impl<B: Backend> FrozenMatrix for Tensor<B, 2> {
    fn shape(&self) -> [usize; 2] {
        self.dims()
    }

    fn held_bytes(&self) -> usize {
        self.shape().num_elements() * self.dtype().size()
    }

    fn rows(&self, rows: Range<usize>) -> Vec<f32> {
        host_data(self.clone().slice_dim(0, rows)).iter::<f32>().collect()
    }
}

/// What a frozen matrix is for; a backend lays its numbers out accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// A linear layer.
    Layer,
    /// An embedding, an output head, or both: single rows are read, too.
    Table,
}

/// What is said of a device that lacks products in some numbers.
pub(crate) const DOES_NOT_MULTIPLY: &str =
    "does not multiply such numbers; `diffmas devices` tells what it does, and f32 works everywhere";

/// What products of a frozen matrix with many rows are computed in; they are summed in f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProductDtype {
    /// 32 bits.
    #[default]
    F32,
    /// NVIDIA's tensor cores: f32 with 10 bits of fraction in place of 23.
    Tf32,
    /// 16 bits, of which 8 are the exponent.
    Bf16,
    /// 16 bits, of which 5 are the exponent.
    F16,
}
