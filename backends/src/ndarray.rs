//! Burn's pure-Rust CPU backend: no kernels of its own here.

use burn::backend::NdArray;
use burn::prelude::*;

use crate::host::{self, HostWeight};
use crate::{LinearGrads, LoraRef, ModelBackend, StoredDtype, StoredMatrix, WeightUse};

impl ModelBackend for NdArray {
    type Weight = HostWeight<Self>;
    type Room = ();

    fn keeps(_dtype: StoredDtype, _device: &Self::Device) -> bool {
        true
    }

    fn frozen_weight(matrix: StoredMatrix, _used: WeightUse, device: &Self::Device) -> Self::Weight {
        HostWeight::new(matrix, device)
    }

    fn frozen_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Weight,
        bias: Option<&Tensor<Self, 1>>,
        lora: Option<LoraRef<'_, Self>>,
    ) -> Tensor<Self, 2> {
        host::frozen_linear(x, weight, bias, lora)
    }

    fn frozen_linear_backward(
        dy: Tensor<Self, 2>,
        x: Option<Tensor<Self, 2>>,
        weight: &Self::Weight,
        lora: Option<LoraRef<'_, Self>>,
        wants_dx: bool,
    ) -> LinearGrads<Self> {
        host::frozen_linear_backward(dy, x, weight, lora, wants_dx)
    }

    fn frozen_transposed(x: Tensor<Self, 2>, weight: &Self::Weight) -> Tensor<Self, 2> {
        host::frozen_transposed(x, weight)
    }

    fn embed(weight: &Self::Weight, ids: &[u32], device: &Self::Device) -> Tensor<Self, 2> {
        host::embed(weight, ids, device)
    }
}
