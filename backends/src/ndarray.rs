//! Burn's pure-Rust CPU backend: no kernels of its own here.

use burn::backend::NdArray;

use crate::ModelBackend;

impl ModelBackend for NdArray {}
