//! Gated cross-agent attention: a reader's layers look at the vectors of its senders.
//!
//! For the vectors `E_1 … E_s` that a reader finds, `[B, M, c]` each, before `input_layernorm` of each chosen layer `l`:
//! 1. `X = [norm(E_1) + a_1; …; norm(E_s) + a_s]` — `[B·s·M, c]`; `a_j [1, c]`: the sender's embedding
//! 2. `K = X·W_k`, `V = X·W_v` — `[B, heads, s·M, c/heads]`; once for all passes of the reader
//! 3. `Q = norm(x)·W_q` — `[B·t, D]` → `[B, heads, t, c/heads]`
//! 4. `A = softmax₀(Q·Kᵀ/√(c/heads))·V` — `[B·t, c]`; `softmax₀`: one more score, 0, without a value
//! 5. `x ← x + tanh(g)·A·W_o` — `[B·t, D]`

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;

use super::{Context, ContextHook, Initializer, ReceivedMessages, SharedHook, Vectors, VectorsConfig};
use crate::backbone::{ParameterGroup, ParameterSpec, Parameters, ResidualHook, select_rows};

/// Added to the mean square before its root.
const EPS: f64 = 1e-6;
/// A score that hides its key: its exponential is 0, and half precision holds it.
pub(super) const HIDDEN: f32 = -3e4;

/// What cross-agent attention learns, by part.
#[derive(Clone, Debug)]
pub(super) struct CrossAttention<B: Backend> {
    /// The senders' embeddings, `[1, c]` each.
    senders: Vec<Tensor<B, 2>>,
    layers: BTreeMap<usize, Layer<B>>,
    heads: usize,
}

/// What one layer learns.
#[derive(Clone, Debug)]
struct Layer<B: Backend> {
    /// `[D, c]`
    q_proj: Tensor<B, 2>,
    /// `[c, c]`
    k_proj: Tensor<B, 2>,
    /// `[c, c]`
    v_proj: Tensor<B, 2>,
    /// `[c, D]`
    o_proj: Tensor<B, 2>,
    /// `g`, `[1, 1]`
    gate: Tensor<B, 2>,
}

impl<B: ModelBackend> CrossAttention<B> {
    /// What learns, in a residual stream of width `d`: a reader looks for vectors like its own state and adds them to it, both in the space
    /// in which they were written. Gates are 0, so that an untrained channel changes nothing.
    pub fn parameters(config: &VectorsConfig, d: usize) -> Vec<(ParameterSpec, Initializer)> {
        let c = config.vector_dim;
        let spec = |name: String, shape| {
            ParameterSpec::new(format!("cross_attention.{name}"), shape, ParameterGroup::CROSS_ATTENTION)
        };
        let embedding = |name| (spec(format!("sender.{name}"), [1, c]).spared(), Initializer::Normal(0.5));
        let layer = |l| {
            [
                (spec(format!("{l}.q_proj"), [d, c]), Initializer::Projection),
                (spec(format!("{l}.k_proj"), [c, c]), Initializer::Identity),
                (spec(format!("{l}.v_proj"), [c, c]), Initializer::Identity),
                (spec(format!("{l}.o_proj"), [c, d]), Initializer::Transposed),
                (spec(format!("{l}.gate"), [1, 1]).gate(), Initializer::Full(0.0)),
            ]
        };
        let layers = config.cross_attention_layers.iter().flat_map(layer);
        config.senders().iter().map(embedding).chain(layers).collect()
    }

    /// Cross-agent attention with the values of `parameters`.
    pub fn new(config: &VectorsConfig, parameters: &Parameters<B>) -> Self {
        let get = |name: String| parameters.get(&format!("cross_attention.{name}")).clone();
        let layer = |&l: &usize| {
            let part = |name: &str| get(format!("{l}.{name}"));
            let layer = Layer {
                q_proj: part("q_proj"),
                k_proj: part("k_proj"),
                v_proj: part("v_proj"),
                o_proj: part("o_proj"),
                gate: part("gate"),
            };
            (l, layer)
        };
        Self {
            senders: config.senders().iter().map(|name| get(format!("sender.{name}"))).collect(),
            layers: config.cross_attention_layers.iter().map(layer).collect(),
            heads: config.vector_heads,
        }
    }

    /// The trace's keys and values, if there are any, and attention to its vectors.
    pub fn context(&self, received: &ReceivedMessages<B>) -> Context<B> {
        let hook = self.hook(received);
        Context {
            kv: received.segments().cloned().collect(),
            hook: hook.map(|hook| Arc::new(hook) as SharedHook<B>),
            start: received.start.clone(),
        }
    }

    /// The hook of a reader that finds `received`; `None` where no message has vectors.
    fn hook(&self, received: &ReceivedMessages<B>) -> Option<VectorsHook<B>> {
        let found: Vec<(usize, &Vectors<B>)> =
            received.messages.iter().filter_map(|m| Some((m.sender, m.vectors.as_ref()?))).collect();
        let [batch, m, c] = found.first()?.1.values.dims();
        let n = found.len() * m;
        // 1. X
        let marked = found.iter().map(|(sender, vectors)| {
            let values = normalise(vectors.values.clone().reshape([batch * m, c]));
            (values + self.senders[*sender].clone()).reshape([batch, m, c])
        });
        let memory: Tensor<B, 2> = Tensor::cat(marked.collect(), 1).reshape([batch * n, c]);
        let valid: Vec<bool> = (0..batch)
            .flat_map(|b| found.iter().flat_map(move |(_, v)| v.valid[b * m..(b + 1) * m].iter().copied()))
            .collect();
        // 2. K, V
        let layer = |(&l, layer): (&usize, &Layer<B>)| {
            let gate = layer.gate.clone().tanh();
            let project = |w: &Tensor<B, 2>| heads(B::matmul(memory.clone(), w.clone()), batch, self.heads);
            let (key, value) = (project(&layer.k_proj), project(&layer.v_proj));
            let (q_proj, o_proj) = (layer.q_proj.clone(), layer.o_proj.clone());
            (l, SenderAttention { q_proj, o_proj, gate, key, value })
        };
        Some(VectorsHook {
            layers: self.layers.iter().map(layer).collect(),
            heads: self.heads,
            mask: mask(&valid, batch, &memory.device()),
            senders: found.len(),
        })
    }
}

/// Cross-agent attention to the vectors that one reader finds.
#[derive(Debug)]
struct VectorsHook<B: Backend> {
    layers: BTreeMap<usize, SenderAttention<B>>,
    heads: usize,
    /// Hides vectors that a row does not see; made once for all layers and passes.
    mask: Option<Tensor<B, 4>>,
    /// How many messages have vectors.
    senders: usize,
}

#[derive(Debug)]
struct SenderAttention<B: Backend> {
    q_proj: Tensor<B, 2>,
    o_proj: Tensor<B, 2>,
    /// `tanh(g)`, `[1, 1]`.
    gate: Tensor<B, 2>,
    /// `[B, heads, n, c / heads]`
    key: Tensor<B, 4>,
    /// `[B, heads, n, c / heads]`
    value: Tensor<B, 4>,
}

impl<B: ModelBackend> VectorsHook<B> {
    /// Output `[B, t, c]` and weights `[B, heads, t, n]` of layer `l`.
    fn attend(&self, l: &SenderAttention<B>, x: Tensor<B, 2>, batch: usize) -> (Tensor<B, 3>, Tensor<B, 4>) {
        // 3. Q
        let q = heads(B::matmul(normalise(x), l.q_proj.clone()), batch, self.heads);
        // 4. A
        attend(q, l.key.clone(), l.value.clone(), self.mask.clone(), true)
    }
}

impl<B: ModelBackend> ResidualHook<B> for VectorsHook<B> {
    fn apply(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
        let Some(l) = self.layers.get(&layer) else { return x };
        let (read, _) = self.attend(l, x.clone(), batch);
        let [b, t, c] = read.dims();
        // 5. x
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

impl<B: ModelBackend> ContextHook<B> for VectorsHook<B> {
    fn select(&self, rows: &[usize]) -> SharedHook<B> {
        let pick = |x: &Tensor<B, 4>| select_rows(x.clone(), rows);
        let layer = |(&l, layer): (&usize, &SenderAttention<B>)| {
            let (q_proj, o_proj, gate) = (layer.q_proj.clone(), layer.o_proj.clone(), layer.gate.clone());
            (l, SenderAttention { q_proj, o_proj, gate, key: pick(&layer.key), value: pick(&layer.value) })
        };
        Arc::new(VectorsHook {
            layers: self.layers.iter().map(layer).collect(),
            heads: self.heads,
            mask: self.mask.as_ref().map(pick),
            senders: self.senders,
        })
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

/// Multi-head attention; `mask` is added to the scores. A `null_key` query may put weight on nothing: its softmax has one more score,
/// 0, without a value.
///
/// # Shapes
/// `q [B, H, t, w]`, `k`, `v` `[B, H, n, w]` → output `[B, t, H·w]`, weights `[B, H, t, n]`
pub(super) fn attend<B: ModelBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    mask: Option<Tensor<B, 4>>,
    null_key: bool,
) -> (Tensor<B, 3>, Tensor<B, 4>) {
    let [b, h, t, w] = q.dims();
    let n = k.dims()[2];
    let device = q.device();
    let mut scores = B::matmul(q, k.swap_dims(2, 3)).mul_scalar((w as f64).powf(-0.5));
    if let Some(mask) = mask {
        scores = scores + mask;
    }
    let weights = if null_key {
        let nothing = Tensor::zeros([b, h, t, 1], &device);
        B::softmax_last(Tensor::cat(vec![scores, nothing], 3)).narrow(3, 0, n)
    } else {
        B::softmax_last(scores)
    };
    let out = B::matmul(weights.clone(), v).swap_dims(1, 2).reshape([b, t, h * w]);
    (out, weights)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::communication::Message;
    use crate::communication::initializer::initialize;

    type TestBackend = diffmas_backends::Flex;

    const WIDTH: usize = 4;

    /// Two senders of one vector each to a reader of width 4, which reads in layer 1.
    fn listener(gate: f64, seen: [bool; 2]) -> VectorsHook<TestBackend> {
        let config = VectorsConfig {
            num_vectors: 1,
            vector_dim: WIDTH,
            vector_heads: 2,
            cross_attention_layers: vec![1],
            encoder_position_prior: true,
            agents: ["a", "b", "reader"].map(String::from).to_vec(),
        };
        let device = Default::default();
        let mut values = initialize(&CrossAttention::<TestBackend>::parameters(&config, WIDTH), 1, &device);
        values.insert("cross_attention.1.gate".into(), Tensor::full([1, 1], gate, &device));
        let message = |(sender, seen)| Message {
            sender,
            segment: None,
            vectors: Some(Vectors {
                values: Tensor::full([1, 1, WIDTH], 1.0 + sender as f64, &device),
                valid: vec![seen],
            }),
        };
        let messages = seen.into_iter().enumerate().map(message).collect();
        CrossAttention::new(&config, &values).hook(&ReceivedMessages { messages, start: vec![0] }).unwrap()
    }

    fn state() -> Tensor<TestBackend, 2> {
        Tensor::from_data([[0.5, -1.0, 2.0, 0.25], [1.0, 1.0, -1.0, 0.0]], &Default::default())
    }

    fn numbers(x: &Tensor<TestBackend, 2>) -> Vec<f32> {
        x.to_data().iter().collect()
    }

    #[test]
    fn closed_gates_and_other_layers_leave_a_state_as_it_is() {
        let own = numbers(&state());
        assert_eq!(numbers(&listener(0.0, [true; 2]).apply(1, state(), 1)), own);
        let open = listener(0.5, [true; 2]);
        assert_eq!(numbers(&open.apply(0, state(), 1)), own);
        assert_ne!(numbers(&open.apply(1, state(), 1)), own);
        assert!(open.weights(0, state(), 1).is_none());
    }

    #[test]
    fn a_reader_may_listen_to_nobody_and_hidden_senders_are_not_heard() {
        let weights = |seen| numbers(&listener(0.5, seen).weights(1, state(), 1).unwrap());
        let both = weights([true, true]);
        for of_position in both.chunks_exact(2) {
            let sum: f32 = of_position.iter().sum();
            assert!(of_position.iter().all(|&w| w > 0.0) && sum < 1.0, "{both:?}");
        }
        let one = weights([true, false]);
        assert!(one[0] > both[0] && one[1] == 0.0 && one[3] == 0.0, "{one:?}");
        assert_eq!(numbers(&listener(0.5, [false; 2]).apply(1, state(), 1)), numbers(&state()));
    }
}
