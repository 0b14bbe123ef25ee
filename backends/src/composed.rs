//! Every operation of [`ModelBackend`] in plain Burn operations: what a backend computes unless it
//! has something better, and what better kernels are compared with in tests.
//!
//! Reductions and exponentials run in at least f32.

use burn::prelude::*;
use burn::tensor::{DType, IndexingUpdateOp, TensorData};

use crate::{
    AttentionCall, AttentionGrads, HeadNorm, KeyValueBlock, LinearGrads, LinearOutput, LinearRef,
    LinearSlope, LinearsGrads, LoraRef, ModelBackend,
};

mod flat;
mod scores;

pub use flat::{adamw, added, part, sum_of_squares};
pub use scores::{best_tokens, penalised, top_tokens, warm_sums, written};

/// Scores of unseen keys; finite, and within half precision's range.
const UNSEEN: f64 = -3.0e4;

/// The logarithm that stands for a probability of 0.
const LEAST: f64 = -1.0e30;

/// The tensor in at least f32.
fn wide<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}

/// The weight in the type of what it is multiplied with.
fn like<B: Backend>(weight: &Tensor<B, 2>, dtype: DType) -> Tensor<B, 2> {
    if weight.dtype() == dtype { weight.clone() } else { weight.clone().cast(dtype) }
}

/// `x · Wᵀ + bias + s·(x · Aᵀ)·Bᵀ` with `W` as a tensor; see [`ModelBackend::frozen_linear`].
pub fn frozen_linear<B: ModelBackend>(
    x: Tensor<B, 2>,
    weight: &Tensor<B, 2>,
    bias: Option<&Tensor<B, 1>>,
    lora: Option<LoraRef<'_, B>>,
) -> Tensor<B, 2> {
    let y = B::matmul(x.clone(), like(weight, x.dtype()).transpose());
    with_bias_and_lora(y, x, bias, lora)
}

/// What a linear layer adds to `y = x · Wᵀ`.
pub(crate) fn with_bias_and_lora<B: ModelBackend>(
    mut y: Tensor<B, 2>,
    x: Tensor<B, 2>,
    bias: Option<&Tensor<B, 1>>,
    lora: Option<LoraRef<'_, B>>,
) -> Tensor<B, 2> {
    if let Some(bias) = bias {
        y = y + bias.clone().unsqueeze();
    }
    match lora {
        None => y,
        Some(l) => {
            let xa = B::matmul(x, l.a.clone().transpose()).mul_scalar(l.scaling);
            y + B::matmul(xa, l.b.clone().transpose())
        }
    }
}

/// The gradients of [`frozen_linear`]: `(dx, Some((dA, dB)))`.
pub fn frozen_linear_backward<B: ModelBackend>(
    dy: Tensor<B, 2>,
    x: Option<Tensor<B, 2>>,
    weight: &Tensor<B, 2>,
    lora: Option<LoraRef<'_, B>>,
    wants_dx: bool,
) -> LinearGrads<B> {
    let dx = wants_dx.then(|| B::matmul(dy.clone(), like(weight, dy.dtype())));
    with_lora_gradients(dx, dy, x, lora)
}

/// LoRA's part of the gradients: what it adds to `dx = dy · W`, and those of its factors.
pub(crate) fn with_lora_gradients<B: ModelBackend>(
    mut dx: Option<Tensor<B, 2>>,
    dy: Tensor<B, 2>,
    x: Option<Tensor<B, 2>>,
    lora: Option<LoraRef<'_, B>>,
) -> LinearGrads<B> {
    let grads = lora.map(|l| {
        let x = x.expect("LoRA's backward pass needs the input");
        let g = B::matmul(dy.clone(), l.b.clone()).mul_scalar(l.scaling);
        if let Some(d) = dx.take() {
            dx = Some(d + B::matmul(g.clone(), l.a.clone()));
        }
        let xa = B::matmul(x.clone(), l.a.clone().transpose()).mul_scalar(l.scaling);
        (B::matmul(g.transpose(), x), B::matmul(dy.transpose(), xa))
    });
    (dx, grads)
}

/// One layer after another; see [`ModelBackend::frozen_linears`].
pub fn frozen_linears<B: ModelBackend>(x: Tensor<B, 2>, layers: &[LinearRef<'_, B>]) -> Vec<LinearOutput<B>> {
    let output = |layer: &LinearRef<'_, B>| {
        let y = B::frozen_linear(x.clone(), layer.weight, layer.bias, layer.lora);
        let y = match layer.residual {
            Some(residual) => residual.clone() + y,
            None => y,
        };
        LinearOutput { y, kept: None }
    };
    layers.iter().map(output).collect()
}

/// One layer after another; see [`ModelBackend::frozen_linears_backward`].
pub fn frozen_linears_backward<B: ModelBackend>(
    x: Option<Tensor<B, 2>>,
    slopes: Vec<LinearSlope<'_, B>>,
    wants_dx: bool,
) -> LinearsGrads<B> {
    let mut sum: Option<Tensor<B, 2>> = None;
    let mut factors = Vec::with_capacity(slopes.len());
    for LinearSlope { dy, weight, lora, sums, .. } in slopes.into_iter().rev() {
        let input = lora.and(x.clone());
        let (dx, grads) = B::frozen_linear_backward(dy, input, weight, lora, wants_dx);
        sum = match (sum, dx) {
            (Some(sum), Some(dx)) => Some(dx + sum),
            (sum, dx) => sum.or(dx),
        };
        factors.push(match (grads, sums) {
            (Some((da, db)), Some((a, b))) => Some((da + a, db + b)),
            (grads, _) => grads,
        });
    }
    factors.reverse();
    (sum, factors)
}

/// `x · W` with `W` as a tensor; see [`ModelBackend::frozen_transposed`].
pub fn frozen_transposed<B: ModelBackend>(x: Tensor<B, 2>, weight: &Tensor<B, 2>) -> Tensor<B, 2> {
    let dtype = x.dtype();
    B::matmul(x, like(weight, dtype))
}

/// Rows of a tensor, in at least f32; see [`ModelBackend::embed`].
pub fn embed<B: Backend>(weight: &Tensor<B, 2>, ids: &[u32]) -> Tensor<B, 2> {
    let ids: Vec<i64> = ids.iter().map(|&i| i64::from(i)).collect();
    let n = ids.len();
    let ids = Tensor::<B, 1, Int>::from_data(TensorData::new(ids, [n]), &weight.device());
    wide(weight.clone().select(0, ids))
}

/// `exp(x − max) / Σ exp(x − max)` over the last dimension. The maximum has no gradient: any other number gives the same quotients.
pub fn softmax_last<B: ModelBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let max = B::max_last(x.clone()).detach();
    let weights = (x - max).exp();
    weights.clone() / B::sum_last(weights)
}

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension.
pub fn rms_norm<B: ModelBackend>(x: Tensor<B, 2>, weight: &Tensor<B, 1>, eps: f64) -> Tensor<B, 2> {
    let dtype = x.dtype();
    let x = wide(x);
    let rstd = B::mean_last(x.clone().powi_scalar(2)).add_scalar(eps).sqrt().recip();
    (x * rstd).cast(dtype) * weight.clone().unsqueeze()
}

/// The gradient of [`rms_norm`] with respect to `x`.
pub fn rms_norm_backward<B: ModelBackend>(
    dy: Tensor<B, 2>,
    x: Tensor<B, 2>,
    weight: &Tensor<B, 1>,
    eps: f64,
) -> Tensor<B, 2> {
    let dtype = x.dtype();
    let x = wide(x);
    let g = wide(dy * weight.clone().unsqueeze());
    let rstd = B::mean_last(x.clone().powi_scalar(2)).add_scalar(eps).sqrt().recip();
    let n = x * rstd.clone();
    let m = B::mean_last(g.clone() * n.clone());
    ((g - n * m) * rstd).cast(dtype)
}

/// Rotate-half rotary embedding; `x [n, heads, d]`, `cos`/`sin [n, d/2]`.
pub fn rotary<B: Backend>(x: Tensor<B, 3>, cos: &Tensor<B, 2>, sin: &Tensor<B, 2>) -> Tensor<B, 3> {
    let half = x.dims()[2] / 2;
    let (c, s) = (cos.clone().unsqueeze_dim(1), sin.clone().unsqueeze_dim(1));
    let (x1, x2) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
    let y1 = x1.clone() * c.clone() - x2.clone() * s.clone();
    Tensor::cat(vec![y1, x2 * c + x1 * s], 2)
}

/// A norm over each head, then the rotation; see [`ModelBackend::normed_rotary_all`].
pub fn normed_rotary_all<B: ModelBackend, const N: usize>(
    xs: [Tensor<B, 3>; N],
    norms: [HeadNorm<'_, B>; N],
    cos: &Tensor<B, 2>,
    sin: &Tensor<B, 2>,
) -> [Tensor<B, 3>; N] {
    let mut norms = norms.into_iter();
    let normed = xs.map(|x| {
        let (norm, [n, heads, d]) = (norms.next().expect("a norm for each"), x.dims());
        B::rms_norm(x.reshape([n * heads, d]), norm.weight, norm.eps).reshape([n, heads, d])
    });
    B::rotary_all(normed, cos, sin)
}

/// See [`ModelBackend::normed_rotary_backward`].
pub fn normed_rotary_backward<B: ModelBackend>(
    dy: Tensor<B, 3>,
    x: Tensor<B, 3>,
    norm: HeadNorm<'_, B>,
    cos: &Tensor<B, 2>,
    sin: &Tensor<B, 2>,
) -> Tensor<B, 3> {
    let [n, heads, d] = x.dims();
    let rows = |x: Tensor<B, 3>| x.reshape([n * heads, d]);
    let turned = B::rotary_backward(dy, cos, sin);
    B::rms_norm_backward(rows(turned), rows(x), norm.weight, norm.eps).reshape([n, heads, d])
}

/// Keys and values of `new` after those of `tail`.
pub fn appended<B: Backend>(tail: KeyValueBlock<B>, new: KeyValueBlock<B>) -> KeyValueBlock<B> {
    let joined = |tail, new| Tensor::cat(vec![tail, new], 2);
    KeyValueBlock { key: joined(tail.key, new.key), value: joined(tail.value, new.value) }
}

/// The logistic function in at least f32 and in f64 for f64 (Burn's own always computes in f32).
fn sigmoid<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    wide(x).neg().exp().add_scalar(1.0).recip()
}

/// `silu(gate) · up`.
pub fn swiglu<B: Backend>(gate: Tensor<B, 2>, up: Tensor<B, 2>) -> Tensor<B, 2> {
    let s = sigmoid(gate.clone()).cast(gate.dtype());
    gate * s * up
}

/// The gradients of [`swiglu`]: `(d_gate, d_up)`.
pub fn swiglu_backward<B: Backend>(
    dy: Tensor<B, 2>,
    gate: Tensor<B, 2>,
    up: Tensor<B, 2>,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let s = sigmoid(gate.clone()).cast(gate.dtype());
    let silu = gate.clone() * s.clone();
    // d silu / d gate = s·(1 + gate·(1 − s))
    let slope = s.clone() * (gate * (s.neg().add_scalar(1.0))).add_scalar(1.0);
    (dy.clone() * up * slope, dy * silu)
}

/// `-log softmax(logits)[target]` per row.
pub fn token_nll<B: ModelBackend>(logits: Tensor<B, 2>, targets: &[u32]) -> Tensor<B, 1> {
    let index = target_index::<B>(targets, &logits.device());
    let logits = wide(logits);
    let max = B::max_last(logits.clone()).detach();
    let lse = B::sum_last((logits.clone() - max.clone()).exp()).log() + max;
    (lse - logits.gather(1, index)).squeeze_dim(1)
}

/// The gradient of [`token_nll`]: `(softmax(logits) − one_hot(target)) · d_nll`.
pub fn token_nll_backward<B: ModelBackend>(
    d_nll: Tensor<B, 1>,
    logits: Tensor<B, 2>,
    targets: &[u32],
) -> Tensor<B, 2> {
    let (device, dtype) = (logits.device(), logits.dtype());
    let d = d_nll.unsqueeze_dim::<2>(1);
    let p = softmax_last(wide(logits)) * d.clone();
    p.scatter(1, target_index(targets, &device), d.neg(), IndexingUpdateOp::Add).cast(dtype)
}

/// `KL(p ‖ softmax(logits))` per row.
pub fn token_kl<B: ModelBackend>(log_p: Tensor<B, 2>, logits: Tensor<B, 2>) -> Tensor<B, 1> {
    let log_q = log_softmax(logits);
    let log_p = finite(log_p, &log_q);
    B::sum_last(log_p.clone().exp() * (log_p - log_q)).squeeze_dim(1)
}

/// The gradient of [`token_kl`]: `(softmax(logits) · Σ p − p) · d_kl`.
pub fn token_kl_backward<B: ModelBackend>(
    d_kl: Tensor<B, 1>,
    log_p: Tensor<B, 2>,
    logits: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let dtype = logits.dtype();
    let log_q = log_softmax(logits);
    let p = finite(log_p, &log_q).exp();
    // What is given as probabilities need not sum to 1 to the last bit.
    let q = log_q.exp() * B::sum_last(p.clone());
    ((q - p) * d_kl.unsqueeze_dim(1)).cast(dtype)
}

/// Log-probabilities of which none is infinite, as exact as those in `like`: the exponential of the least is 0 all the same.
fn finite<B: Backend>(log_p: Tensor<B, 2>, like: &Tensor<B, 2>) -> Tensor<B, 2> {
    log_p.cast(like.dtype()).clamp_min(LEAST)
}

/// Logarithms of the softmax over the last dimension, in at least f32.
pub fn log_softmax<B: ModelBackend>(logits: Tensor<B, 2>) -> Tensor<B, 2> {
    let logits = wide(logits);
    let shifted = logits.clone() - B::max_last(logits).detach();
    shifted.clone() - B::sum_last(shifted.exp()).log()
}

fn target_index<B: Backend>(targets: &[u32], device: &B::Device) -> Tensor<B, 2, Int> {
    let ids: Vec<i64> = targets.iter().map(|&t| i64::from(t)).collect();
    Tensor::from_data(TensorData::new(ids, [targets.len(), 1]), device)
}

/// Scaled scores of all blocks, `[B, G, rep·t, n]`, hidden ones far below the others; and the queries they came from.
fn scores<B: ModelBackend>(
    call: &AttentionCall<B>,
    hidden: &Option<Tensor<B, 4, Bool>>,
) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let q = fold_queries(call.q.clone(), call.kv_heads()).mul_scalar(call.scale);
    let s = call.blocks.iter().map(|b| by_row(q.clone(), b.key.clone().swap_dims(2, 3))).collect();
    (hide(wide(Tensor::cat(s, 3)), hidden, UNSEEN), q)
}

/// `s [B, G, rep·t, n]` with `value` where `hidden [B or 1, 1, t or 1, n]`.
fn hide<B: Backend>(s: Tensor<B, 4>, hidden: &Option<Tensor<B, 4, Bool>>, value: f64) -> Tensor<B, 4> {
    let Some(hidden) = hidden else { return s };
    let [b, g, rows, n] = s.dims();
    let t = hidden.dims()[2];
    let by_head = [b, g * rows / t, t, n];
    s.reshape(by_head).mask_fill(hidden.clone().expand(by_head), value).reshape([b, g, rows, n])
}

/// `[B, t, H, d]` to `[B, G, rep·t, d]`: the query heads of one KV head become rows, so that K and V are never expanded.
fn fold_queries<B: Backend>(x: Tensor<B, 4>, kv_heads: usize) -> Tensor<B, 4> {
    let [b, t, h, d] = x.dims();
    x.swap_dims(1, 2).reshape([b, kv_heads, h / kv_heads * t, d])
}

/// The inverse of [`fold_queries`].
fn unfold_queries<B: Backend>(x: Tensor<B, 4>, t: usize) -> Tensor<B, 4> {
    let [b, g, rows, d] = x.dims();
    x.reshape([b, g * rows / t, t, d]).swap_dims(1, 2)
}

/// Attention over blocks joined before the softmax, and the log-sum-exp of every query's scores `[B, G, rep·t, 1]`.
///
/// A query that sees no key at all gives zeros.
pub fn block_attention<B: ModelBackend>(call: &AttentionCall<B>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let ([_, t, _, _], dtype) = (call.q.dims(), call.q.dtype());
    let hidden = call.mask.hidden(&call.q.device());
    let (s, _) = scores(call, &hidden);
    let max = B::max_last(s.clone());
    let p = hide((s - max.clone()).exp(), &hidden, 0.0);
    let sum = B::sum_last(p.clone()).clamp_min(1e-30);
    let lse = sum.clone().log() + max;
    let p = (p / sum).cast(dtype);
    (unfold_queries(weighted_values(p, &call.blocks), t), lse)
}

/// Gradients of keys and values with the sums of their blocks.
pub(crate) fn onto<B: Backend>(
    sums: Vec<Option<KeyValueBlock<B>>>,
    grads: Vec<Option<(Tensor<B, 4>, Tensor<B, 4>)>>,
) -> Vec<Option<(Tensor<B, 4>, Tensor<B, 4>)>> {
    let add = |(sum, grads): (Option<KeyValueBlock<B>>, Option<_>)| match (sum, grads) {
        (Some(sum), Some((key, value))) => Some((key + sum.key, value + sum.value)),
        (_, grads) => grads,
    };
    sums.into_iter().zip(grads).map(add).collect()
}

/// `x [B, G, r, k]` times `y [B or 1, G, k, m]`; rows that share `y` are one matrix.
fn by_row<B: ModelBackend>(x: Tensor<B, 4>, y: Tensor<B, 4>) -> Tensor<B, 4> {
    let ([b, g, r, k], [shared, _, _, m]) = (x.dims(), y.dims());
    if b == shared {
        return B::matmul(x, y);
    }
    let x = x.swap_dims(0, 1).reshape([1, g, b * r, k]);
    B::matmul(x, y).reshape([g, b, r, m]).swap_dims(0, 1)
}

fn weighted_values<B: ModelBackend>(p: Tensor<B, 4>, blocks: &[KeyValueBlock<B>]) -> Tensor<B, 4> {
    let mut start = 0;
    let mut out: Option<Tensor<B, 4>> = None;
    for b in blocks {
        let n = b.value.dims()[2];
        let o = by_row(p.clone().narrow(3, start, n), b.value.clone());
        out = Some(match out {
            Some(sum) => sum + o,
            None => o,
        });
        start += n;
    }
    out.expect("attention over at least one block")
}

/// The gradients of [`block_attention`]: of the queries, and of the keys and values of each block that `wants` names.
pub fn block_attention_backward<B: ModelBackend>(
    call: &AttentionCall<B>,
    d_out: Tensor<B, 4>,
    out: Tensor<B, 4>,
    lse: Tensor<B, 4>,
    wants: &[bool],
) -> AttentionGrads<B> {
    let ([_, t, _, _], dtype, kv_heads) = (call.q.dims(), call.q.dtype(), call.kv_heads());
    let hidden = call.mask.hidden(&call.q.device());
    let (s, q) = scores(call, &hidden);
    let d_out = fold_queries(d_out, kv_heads);
    let delta = B::sum_last(wide(d_out.clone() * fold_queries(out, kv_heads)));
    // Hidden scores are far below the maximum before the exponential, so that none overflows.
    let p = hide((s - lse).exp(), &hidden, 0.0);
    let mut start = 0;
    let mut d_q: Option<Tensor<B, 4>> = None;
    let mut d_blocks = Vec::with_capacity(call.blocks.len());
    for (block, &wanted) in call.blocks.iter().zip(wants) {
        let n = block.key.dims()[2];
        let p_b = p.clone().narrow(3, start, n);
        let d_p = wide(B::matmul(d_out.clone(), block.value.clone().swap_dims(2, 3)));
        let d_s = (p_b.clone() * (d_p - delta.clone())).cast(dtype);
        let dq = B::matmul(d_s.clone(), block.key.clone());
        d_q = Some(match d_q {
            Some(sum) => sum + dq,
            None => dq,
        });
        d_blocks.push(wanted.then(|| {
            let d_key = B::matmul(d_s.swap_dims(2, 3), q.clone());
            let d_value = B::matmul(p_b.cast(dtype).swap_dims(2, 3), d_out.clone());
            (d_key, d_value)
        }));
        start += n;
    }
    let d_q = d_q.expect("attention over at least one block").mul_scalar(call.scale);
    AttentionGrads { query: unfold_queries(d_q, t), blocks: d_blocks }
}
