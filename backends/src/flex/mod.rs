//! Burn's fast CPU backend, with kernels of our own where composed operations are limited by memory traffic, by one core or
//! by allocation: linear layers on weights as they lie ([`dots`], [`sums`]) and as they are stored ([`narrow`]), attention over blocks
//! ([`attention`]), and elementwise passes ([`elementwise`]).
//!
//! What belongs to a row is summed in an order of its own: it has the same bits whatever rows and padding stand beside it, and whatever the
//! number of threads. Gradients of parameters are sums over rows and agree to rounding. Tensors that are not f32 take the composed
//! operations.

mod attention;
mod batched;
mod dots;
mod elementwise;
mod flat;
mod instructions;
mod linear;
mod matmul;
mod narrow;
mod scores;
mod shared;
mod sums;
mod weighted;
mod widen;

pub(crate) use instructions::check as check_instructions;
pub use instructions::cpu_instructions;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use burn::tensor::{DType, TensorData, TensorPrimitive};

use crate::host::{self, HostWeight};
use crate::{
    AdamWRange, AdamWState, AttentionCall, AttentionGrads, AttentionMask, BestToken, HostMask, Job,
    LinearGrads, LoraRef, ModelBackend, Penalty, ScoredToken, StoredDtype, StoredMatrix, WeightUse, composed,
};

/// A job that runs on a worker of a thread pool of its own. From there a kernel keeps one half of its work and hands out the
/// other; from outside the pool it would go to sleep and be woken for every call.
pub(crate) struct InPool<J>(pub J);

impl<J: Job> Job for InPool<J> {
    type Output = J::Output;

    fn run<B: ModelBackend>(self, device: B::Device) -> J::Output {
        match rayon::ThreadPoolBuilder::new().num_threads(rayon::current_num_threads()).build() {
            Ok(pool) => pool.install(|| self.0.run::<B>(device)),
            // No further threads are to be had: the caller's own will do.
            Err(_) => self.0.run::<B>(device),
        }
    }
}

/// The tensor below the public one, row-major and without gaps.
fn contiguous<const D: usize>(x: Tensor<Flex, D>) -> FlexTensor {
    let t = x.into_primitive().tensor();
    if t.as_slice::<f32>().is_some() { t } else { t.to_contiguous() }
}

/// The tensor below the public one, without gaps, its rows or its columns in order.
fn laid(x: Tensor<Flex, 2>) -> FlexTensor {
    let [rows, _] = x.dims();
    let t = x.into_primitive().tensor();
    let columns = *t.layout().strides() == [1, rows as isize];
    if columns || t.as_slice::<f32>().is_some() { t } else { t.to_contiguous() }
}

/// The values of a [`contiguous`] f32 tensor.
fn values(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>().expect("a contiguous f32 tensor")
}

/// The public tensor above one of floats.
fn wrapped<const D: usize>(x: FlexTensor) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    wrapped(FlexTensor::from_data(TensorData::new(data, shape)))
}

fn is_f32<const D: usize>(x: &Tensor<Flex, D>) -> bool {
    x.dtype() == DType::F32
}

impl ModelBackend for Flex {
    type Weight = HostWeight<Self>;
    type Room = ();

    fn attention_mask(mask: HostMask, _device: &Self::Device) -> AttentionMask<Self> {
        AttentionMask::on_host(mask)
    }

    fn matmul<const D: usize>(a: Tensor<Self, D>, b: Tensor<Self, D>) -> Tensor<Self, D> {
        if is_f32(&a) && is_f32(&b) { batched::matmul(a, b) } else { a.matmul(b) }
    }

    fn softmax_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        if is_f32(&x) { elementwise::softmax(x) } else { burn::tensor::activation::softmax(x, D - 1) }
    }

    fn keeps(_dtype: StoredDtype, _device: &Self::Device) -> bool {
        true
    }

    fn frozen_weight(matrix: StoredMatrix, used: WeightUse, device: &Self::Device) -> Self::Weight {
        match HostWeight::new(matrix, device) {
            HostWeight::Dense(w) if used == WeightUse::Layer => HostWeight::Dense(linear::in_columns(w)),
            weight => weight,
        }
    }

    fn frozen_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Weight,
        bias: Option<&Tensor<Self, 1>>,
        lora: Option<LoraRef<'_, Self>>,
    ) -> Tensor<Self, 2> {
        if is_f32(&x) {
            linear::forward(x, weight, bias, lora)
        } else {
            host::frozen_linear(x, weight, bias, lora)
        }
    }

    fn frozen_linear_backward(
        dy: Tensor<Self, 2>,
        x: Option<Tensor<Self, 2>>,
        weight: &Self::Weight,
        lora: Option<LoraRef<'_, Self>>,
        wants_dx: bool,
    ) -> LinearGrads<Self> {
        if is_f32(&dy) {
            linear::backward(dy, x, weight, lora, wants_dx)
        } else {
            host::frozen_linear_backward(dy, x, weight, lora, wants_dx)
        }
    }

    fn frozen_transposed(x: Tensor<Self, 2>, weight: &Self::Weight) -> Tensor<Self, 2> {
        if is_f32(&x) { linear::transposed_forward(x, weight) } else { host::frozen_transposed(x, weight) }
    }

    fn embed(weight: &Self::Weight, ids: &[u32], device: &Self::Device) -> Tensor<Self, 2> {
        host::embed(weight, ids, device)
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: &Tensor<Self, 1>, eps: f64) -> Tensor<Self, 2> {
        if is_f32(&x) { elementwise::rms_norm(x, weight, eps) } else { composed::rms_norm(x, weight, eps) }
    }

    fn rms_norm_backward(
        dy: Tensor<Self, 2>,
        x: Tensor<Self, 2>,
        weight: &Tensor<Self, 1>,
        eps: f64,
    ) -> Tensor<Self, 2> {
        if is_f32(&x) {
            elementwise::rms_norm_backward(dy, x, weight, eps)
        } else {
            composed::rms_norm_backward(dy, x, weight, eps)
        }
    }

    fn rotary(x: Tensor<Self, 3>, cos: &Tensor<Self, 2>, sin: &Tensor<Self, 2>) -> Tensor<Self, 3> {
        if is_f32(&x) { elementwise::rotary(x, cos, sin) } else { composed::rotary(x, cos, sin) }
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if is_f32(&gate) { elementwise::swiglu(gate, up) } else { composed::swiglu(gate, up) }
    }

    fn swiglu_backward(
        dy: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        if is_f32(&gate) {
            elementwise::swiglu_backward(dy, gate, up)
        } else {
            composed::swiglu_backward(dy, gate, up)
        }
    }

    fn block_attention(call: &AttentionCall<Self>) -> (Tensor<Self, 4>, Tensor<Self, 4>) {
        if is_f32(&call.q) { attention::forward(call) } else { composed::block_attention(call) }
    }

    fn block_attention_backward(
        call: &AttentionCall<Self>,
        d_out: Tensor<Self, 4>,
        out: Tensor<Self, 4>,
        lse: Tensor<Self, 4>,
        wants: &[bool],
    ) -> AttentionGrads<Self> {
        if is_f32(&call.q) {
            attention::backward(call, d_out, out, lse, wants)
        } else {
            composed::block_attention_backward(call, d_out, out, lse, wants)
        }
    }

    fn token_nll(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        if is_f32(&logits) {
            elementwise::token_nll(logits, targets)
        } else {
            composed::token_nll(logits, targets)
        }
    }

    fn token_nll_backward(
        d_nll: Tensor<Self, 1>,
        logits: Tensor<Self, 2>,
        targets: &[u32],
    ) -> Tensor<Self, 2> {
        if is_f32(&logits) {
            elementwise::token_nll_backward(d_nll, logits, targets)
        } else {
            composed::token_nll_backward(d_nll, logits, targets)
        }
    }

    fn best_tokens(logits: Tensor<Self, 2>) -> Vec<BestToken> {
        if is_f32(&logits) { scores::best_tokens(logits) } else { composed::best_tokens(logits) }
    }

    fn top_tokens(logits: Tensor<Self, 2>, counts: &[usize]) -> Vec<Vec<ScoredToken>> {
        if is_f32(&logits) {
            scores::top_tokens(logits, counts)
        } else {
            composed::top_tokens(logits, counts)
        }
    }

    fn warm_sums(logits: Tensor<Self, 2>, temperatures: &[f64]) -> Vec<f64> {
        if is_f32(&logits) {
            scores::warm_sums(logits, temperatures)
        } else {
            composed::warm_sums(logits, temperatures)
        }
    }

    fn penalised(logits: Tensor<Self, 2>, penalties: &[Penalty]) -> Tensor<Self, 2> {
        if is_f32(&logits) {
            scores::penalised(logits, penalties)
        } else {
            composed::penalised(logits, penalties)
        }
    }

    fn written(cache: Tensor<Self, 4>, new: Tensor<Self, 4>, from: usize) -> Tensor<Self, 4> {
        if is_f32(&cache) { scores::written(cache, new, from) } else { composed::written(cache, new, from) }
    }

    fn added(flat: Tensor<Self, 1>, parts: Vec<(usize, Tensor<Self, 2>)>) -> Tensor<Self, 1> {
        match is_f32(&flat) && parts.iter().all(|(_, part)| is_f32(part)) {
            true => flat::added(flat, parts),
            false => composed::added(flat, parts),
        }
    }

    fn sum_of_squares(x: Tensor<Self, 1>) -> f64 {
        if is_f32(&x) { flat::sum_of_squares(x) } else { composed::sum_of_squares(x) }
    }

    fn adamw(state: AdamWState<Self>, gradient: Tensor<Self, 1>, ranges: &[AdamWRange]) -> AdamWState<Self> {
        let all = [&state.parameters, &state.exp_avg, &state.exp_avg_sq, &gradient];
        if all.into_iter().all(is_f32) {
            flat::adamw(state, gradient, ranges)
        } else {
            composed::adamw(state, gradient, ranges)
        }
    }
}
