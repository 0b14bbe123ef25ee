//! Gated cross-agent attention: a reader's layers look at the vectors of its senders.

use std::collections::BTreeMap;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;

use super::init::{Draws, Projection};
use super::{Trace, VectorsConfig};
use crate::backbone::{Parameters, ResidualHook};

/// Added to the mean square before its root.
const EPS: f64 = 1e-6;
/// A score that hides its key: its exponential is 0, and half precision holds it.
pub(super) const HIDDEN: f32 = -3e4;

/// `x ← x + tanh(g_l) · Attn(norm(x), [E_1 … E_{j-1}])` in the layers that read. Attention may put weight on nothing.
#[derive(Debug)]
pub(super) struct CrossAttention<B: Backend> {
    layers: BTreeMap<usize, Layer<B>>,
    heads: usize,
    /// Hides vectors that a row does not see; made once for all layers and passes.
    mask: Option<Tensor<B, 4>>,
    senders: usize,
}

#[derive(Debug)]
struct Layer<B: Backend> {
    q_proj: Tensor<B, 2>,
    o_proj: Tensor<B, 2>,
    /// `tanh(g)`, `[1, 1]`.
    gate: Tensor<B, 2>,
    /// `[B, heads, n, c / heads]`
    key: Tensor<B, 4>,
    /// `[B, heads, n, c / heads]`
    value: Tensor<B, 4>,
}

/// Fresh weights: a reader looks for vectors like its own state and adds them to it, both in the space in which they were written. Gates
/// are 0, so that an untrained channel changes nothing.
pub(super) fn init<B: Backend>(config: &VectorsConfig, projection: &Projection<B>, draws: &mut Draws<B>) {
    let c = config.vector_dim;
    for name in config.senders() {
        draws.normal(format!("cross_attention.sender.{name}"), [1, c], 0.5);
    }
    for layer in &config.cross_attention_layers {
        draws.copy(format!("cross_attention.{layer}.q_proj"), &projection.onto);
        draws.identity(format!("cross_attention.{layer}.k_proj"), c);
        draws.identity(format!("cross_attention.{layer}.v_proj"), c);
        draws.copy(format!("cross_attention.{layer}.o_proj"), &projection.back);
        draws.full(format!("cross_attention.{layer}.gate"), [1, 1], 0.0);
    }
}

impl<B: ModelBackend> CrossAttention<B> {
    /// The hook of a reader that finds `trace`; `None` where no message has vectors.
    pub fn new(config: &VectorsConfig, parameters: &Parameters<B>, trace: &Trace<B>) -> Option<Self> {
        let found: Vec<_> =
            trace.messages.iter().filter_map(|m| Some((m.sender, m.vectors.as_ref()?))).collect();
        let [batch, m, c] = found.first()?.1.values.dims();
        let n = found.len() * m;
        let marked = found.iter().map(|(sender, vectors)| {
            let embedding = parameters.get(&format!("cross_attention.sender.{}", config.agents[*sender]));
            let values = normalise(vectors.values.clone().reshape([batch * m, c])) + embedding.clone();
            values.reshape([batch, m, c])
        });
        let memory = Tensor::cat(marked.collect(), 1).reshape([batch * n, c]);
        let valid: Vec<bool> = (0..batch)
            .flat_map(|b| found.iter().flat_map(move |(_, v)| v.valid[b * m..(b + 1) * m].iter().copied()))
            .collect();
        let layer = |&l: &usize| {
            let get = |part: &str| parameters.get(&format!("cross_attention.{l}.{part}")).clone();
            let project =
                |part: &str| heads(B::matmul(memory.clone(), get(part)), batch, config.vector_heads);
            let layer = Layer {
                q_proj: get("q_proj"),
                o_proj: get("o_proj"),
                gate: get("gate").tanh(),
                key: project("k_proj"),
                value: project("v_proj"),
            };
            (l, layer)
        };
        Some(Self {
            layers: config.cross_attention_layers.iter().map(layer).collect(),
            heads: config.vector_heads,
            mask: mask(&valid, batch, &memory.device()),
            senders: found.len(),
        })
    }

    /// Output `[B, t, c]` and weights `[B, heads, t, n]` of layer `l`.
    fn attend(&self, l: &Layer<B>, x: Tensor<B, 2>, batch: usize) -> (Tensor<B, 3>, Tensor<B, 4>) {
        let q = heads(B::matmul(normalise(x), l.q_proj.clone()), batch, self.heads);
        attend(q, l.key.clone(), l.value.clone(), self.mask.clone(), true)
    }
}

impl<B: ModelBackend> ResidualHook<B> for CrossAttention<B> {
    fn apply(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
        let Some(l) = self.layers.get(&layer) else { return x };
        let (read, _) = self.attend(l, x.clone(), batch);
        let [b, t, c] = read.dims();
        x + B::matmul(read.reshape([b * t, c]), l.o_proj.clone()) * l.gate.clone()
    }

    fn weights(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Option<Tensor<B, 2>> {
        let (_, weights) = self.attend(self.layers.get(&layer)?, x, batch);
        let [b, _, t, n] = weights.dims();
        let weights: Tensor<B, 3> = weights.mean_dim(1).squeeze_dim(1);
        let by_sender = weights.reshape([b * t, self.senders, n / self.senders]).sum_dim(2);
        Some(by_sender.squeeze_dim(2))
    }
}

/// Root-mean-square norm without a weight.
pub(super) fn normalise<B: ModelBackend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let ones = Tensor::ones([x.dims()[1]], &x.device());
    B::rms_norm(x, &ones, EPS)
}

/// `[B·n, c]` → `[B, heads, n, c / heads]`
pub(super) fn heads<B: Backend>(x: Tensor<B, 2>, batch: usize, heads: usize) -> Tensor<B, 4> {
    let [n, c] = x.dims();
    x.reshape([batch, n / batch, heads, c / heads]).swap_dims(1, 2)
}

/// What is added to the scores of `n` keys a row so that those of which `valid` (`[B, n]` row-major) is false get no weight, `[B, 1, 1, n]`;
/// `None` where all are true.
fn mask<B: Backend>(valid: &[bool], batch: usize, device: &B::Device) -> Option<Tensor<B, 4>> {
    let scores = || valid.iter().map(|&v| if v { 0.0 } else { HIDDEN }).collect();
    let shape = [batch, 1, 1, valid.len() / batch];
    valid.contains(&false).then(|| Tensor::from_data(TensorData::new(scores(), shape), device))
}

/// Multi-head attention; `mask` is added to the scores. A `quiet` query may put weight on nothing: its softmax has one more score,
/// 0, without a value.
///
/// # Shapes
/// `q [B, H, t, w]`, `k`, `v` `[B, H, n, w]` → output `[B, t, H·w]`, weights `[B, H, t, n]`
pub(super) fn attend<B: ModelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    mask: Option<Tensor<B, 4>>,
    quiet: bool,
) -> (Tensor<B, 3>, Tensor<B, 4>) {
    let [b, h, t, w] = q.dims();
    let n = k.dims()[2];
    let device = q.device();
    let mut scores = B::matmul(q, k.swap_dims(2, 3)).mul_scalar((w as f64).powf(-0.5));
    if let Some(mask) = mask {
        scores = scores + mask;
    }
    let weights = if quiet {
        let nothing = Tensor::zeros([b, h, t, 1], &device);
        B::softmax_last(Tensor::cat(vec![scores, nothing], 3)).narrow(3, 0, n)
    } else {
        B::softmax_last(scores)
    };
    let out = B::matmul(weights.clone(), v).swap_dims(1, 2).reshape([b, t, h * w]);
    (out, weights)
}
