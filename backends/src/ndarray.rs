//! Burn's pure-Rust CPU backend: no kernels of its own here, and the one that also computes in f64.

use burn::backend::NdArray;

use crate::ModelBackend;

/// The f64 form, for gradient checks.
pub type NdArray64 = NdArray<f64>;

impl ModelBackend for NdArray<f32> {}
impl ModelBackend for NdArray<f64> {}
