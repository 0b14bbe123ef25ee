//! Grouped-query self-attention over blocks of keys and values (Ainslie et al., arXiv 2305.13245).

use std::sync::Arc;

use burn::prelude::*;
use diffmas_backends::{AttentionCall, AttentionMask, Autodiff, KeyValueBlock, ModelBackend};

use super::{BackboneConfig, Linear, RmsNorm};

/// What is the same for all layers of one pass.
#[derive(Clone, Debug)]
pub struct PassContext<B: Backend> {
    /// Rows `B`.
    pub batch: usize,
    /// New positions `t` per row.
    pub len: usize,
    /// Rotary cosines `[B·t, d/2]`.
    pub cos: Tensor<B, 2>,
    /// Rotary sines `[B·t, d/2]`.
    pub sin: Tensor<B, 2>,
    /// Who sees whom.
    pub mask: AttentionMask<B>,
    /// The keys of the `B·t` new positions, where LoRA's factors read inputs with dropout.
    pub dropout_keys: Option<Arc<[u64]>>,
}

/// `o(softmax(q·Kᵀ / √d + M)·V)` by head: `K` and `V` are those of all blocks and the new positions, `M` hides padding and the future, and
/// query head `h` reads KV head `h / (H / G)`. For Qwen3 queries and keys are normalised before they are rotated.
#[derive(Clone, Debug)]
pub struct Attention<B: ModelBackend> {
    /// `[D, H·d]`
    pub q_proj: Linear<B>,
    /// `[D, G·d]`
    pub k_proj: Linear<B>,
    /// `[D, G·d]`
    pub v_proj: Linear<B>,
    /// `[H·d, D]`
    pub o_proj: Linear<B>,
    /// Over each query head, Qwen3 only.
    pub q_norm: Option<RmsNorm<B>>,
    /// Over each key head, where there is one over queries.
    pub k_norm: Option<RmsNorm<B>>,
}

impl<B: ModelBackend> Attention<B> {
    /// Attends from the new positions to `past` and to what `keep` makes of their own keys and values, all positions of the pass that are not
    /// in `past`, the new ones last; and adds `residual`.
    ///
    /// # Shapes
    /// `x`, `residual` `[B·t, D]`, blocks `[B, G, n_i, d]` → `[B·t, D]`
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        residual: Tensor<B, 2>,
        config: &BackboneConfig,
        context: &PassContext<B>,
        past: Vec<KeyValueBlock<B>>,
        keep: impl FnOnce(KeyValueBlock<B>) -> KeyValueBlock<B>,
    ) -> Tensor<B, 2> {
        let (b, t, n) = (context.batch, context.len, context.batch * context.len);
        let (h, g, d) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);

        let keys = context.dropout_keys.as_deref();
        // 1. project, norm where the family does, rotate: q [B, t, H, d], k and v [B, G, t, d]
        let [q, key, value] = Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x, keys);
        let heads = [q.reshape([n, h, d]), key.reshape([n, g, d])];
        let [q, key] = match [&self.q_norm, &self.k_norm] {
            [Some(q_norm), Some(k_norm)] => {
                let norms = [q_norm, k_norm].map(RmsNorm::of_heads);
                B::normed_rotary_all(heads, norms, &context.cos, &context.sin)
            }
            _ => B::rotary_all(heads, &context.cos, &context.sin),
        };
        let q = q.reshape([b, t, h, d]);
        let key = key.reshape([b, t, g, d]).swap_dims(1, 2);
        let value = value.reshape([b, t, g, d]).swap_dims(1, 2);

        // 2. keep: [B, G, kept + t, d]
        let mut blocks = past;
        blocks.push(keep(KeyValueBlock { key, value }));

        // 3. attend to all blocks where they lie: [B, t, H, d]
        let call = AttentionCall { q, blocks, mask: context.mask.clone(), scale: scale(d) };
        let (out, _) = B::block_attention(&call);

        // 4. output: [B·t, H·d] → [B·t, D]
        self.o_proj.forward_onto(out.reshape([n, h * d]), residual, keys)
    }

    /// How much each position attends to each key, rows of a softmax; what [`Attention::forward`] computes without keeping it.
    ///
    /// # Shapes
    /// `x [B·t, D]`, `keys [B, G, n_i, d]` of past and own positions → `[B, H, t, Σ n_i]`
    pub(super) fn weights(
        &self,
        x: Tensor<B, 2>,
        config: &BackboneConfig,
        context: &PassContext<B>,
        keys: Vec<Tensor<B, 4>>,
    ) -> Tensor<B, 4> {
        let (h, device) = (config.num_attention_heads, x.device());
        let q = self.q_proj.forward(x).reshape([context.batch * context.len, h, config.head_dim]);
        let [q] = match &self.q_norm {
            Some(norm) => B::normed_rotary_all([q], [norm.of_heads()], &context.cos, &context.sin),
            None => B::rotary_all([q], &context.cos, &context.sin),
        };
        let q = q.reshape([context.batch, context.len, h, config.head_dim]).swap_dims(1, 2);
        let scores = keys.into_iter().map(|keys| {
            let [b, g, n, d] = keys.dims();
            let keys = keys.unsqueeze_dim::<5>(2).expand([b, g, h / g, n, d]).reshape([b, h, n, d]);
            B::matmul(q.clone(), keys.swap_dims(2, 3))
        });
        let mut scores = Tensor::cat(scores.collect(), 3).mul_scalar(scale(config.head_dim));
        if let Some(hidden) = context.mask.hidden(&device) {
            let shape = scores.dims();
            scores = scores.mask_fill(hidden.expand(shape), -1e30);
        }
        B::softmax_last(scores)
    }

    /// The layer for training, sharing its storage.
    pub fn to_autodiff(&self) -> Attention<Autodiff<B>> {
        Attention {
            q_proj: self.q_proj.to_autodiff(),
            k_proj: self.k_proj.to_autodiff(),
            v_proj: self.v_proj.to_autodiff(),
            o_proj: self.o_proj.to_autodiff(),
            q_norm: self.q_norm.as_ref().map(RmsNorm::to_autodiff),
            k_norm: self.k_norm.as_ref().map(RmsNorm::to_autodiff),
        }
    }
}

/// `1 / √d`
fn scale(d: usize) -> f64 {
    (d as f64).powf(-0.5)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use diffmas_backends::HostMask;

    use super::super::{Positions, RotaryEmbedding, fixtures::*};
    use super::*;

    const H: usize = 4;
    const G: usize = 2;
    const D: usize = 4;

    /// A layer whose projections are known, for rows of width 12.
    fn layer() -> ([Dense; 4], Attention<TestBackend>) {
        let dense = [(H * D, 12, 1), (G * D, 12, 3), (G * D, 12, 5), (12, H * D, 7)];
        let dense = dense.map(|(out, cols, seed)| Dense::new(out, cols, seed));
        let [q_proj, k_proj, v_proj, o_proj] = dense.each_ref().map(|d| d.layer.clone());
        let (q_norm, k_norm) = (Some(norm(D, 9)), Some(norm(D, 10)));
        (dense, Attention { q_proj, k_proj, v_proj, o_proj, q_norm, k_norm })
    }

    /// Heads of a row, normed and turned to `position`, by definition.
    fn heads(row: Vec<f64>, norm: &Option<RmsNorm<TestBackend>>, position: u32) -> Vec<Vec<f64>> {
        let turned = |head: &[f64]| {
            let x = normed(norm.as_ref().unwrap(), head);
            let mut y = x.clone();
            for i in 0..D / 2 {
                let (sin, cos) = (f64::from(position) * 100f64.powf(-2.0 * i as f64 / D as f64)).sin_cos();
                (y[i], y[i + D / 2]) = (x[i] * cos - x[i + D / 2] * sin, x[i + D / 2] * cos + x[i] * sin);
            }
            y
        };
        row.chunks_exact(D).map(turned).collect()
    }

    /// Keys or values by position and head.
    type Heads = Vec<Vec<Vec<f64>>>;

    /// A block of `n` keys and values for one row, and what it holds.
    fn past(n: usize, seed: u64) -> (KeyValueBlock<TestBackend>, [Heads; 2]) {
        let [key, value] = [seed, seed + 1].map(|seed| random([1, G, n, D], seed));
        let lists = [&key, &value].map(|x| {
            let x = numbers(x);
            let at = |i: usize, g: usize| x[(g * n + i) * D..][..D].to_vec();
            (0..n).map(|i| (0..G).map(|g| at(i, g)).collect()).collect()
        });
        (KeyValueBlock { key, value }, lists)
    }

    #[test]
    fn attention_is_what_a_loop_over_queries_heads_and_keys_computes() {
        let ([q, k, v, o], layer) = layer();
        let (sizes, t) = ([3, 1, 2], 3);
        let (blocks, known): (Vec<_>, Vec<_>) =
            sizes.iter().zip([20, 30, 40]).map(|(&n, seed)| past(n, seed)).unzip();
        let (tail, tail_known) = past(2, 50);
        let total = 3 + 1 + 2 + 2 + t;
        // Keys 1 and 4 are padding.
        let valid: Vec<bool> = (0..total).map(|j| j != 1 && j != 4).collect();
        let at = Positions::issue(&vec![true; t], &mut [6]);
        let rotary = RotaryEmbedding::new(&config().rope, D);
        let [cos, sin] = rotary.cos_sin(&at, &Default::default());
        let mask =
            TestBackend::attention_mask(HostMask::new(1, t, total, Some(valid.clone())), &Default::default());
        let context = PassContext { batch: 1, len: t, cos, sin, mask, dropout_keys: None };
        let x = random([t, 12], 60);

        let mut keys: Heads = known.iter().chain([&tail_known]).flat_map(|kv| kv[0].clone()).collect();
        let mut values: Heads = known.iter().chain([&tail_known]).flat_map(|kv| kv[1].clone()).collect();
        for (row, &id) in rows(&x).iter().zip(&at.ids) {
            keys.push(heads(k.apply(row), &layer.k_norm, id));
            values.push(v.apply(row).chunks_exact(D).map(<[f64]>::to_vec).collect());
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut want = Vec::new();
        let mut want_weights = vec![0.0; H * t * total];
        for (i, row) in rows(&x).iter().enumerate() {
            let queries = heads(q.apply(row), &layer.q_norm, at.ids[i]);
            let mut joined = Vec::new();
            for (h, query) in queries.iter().enumerate() {
                let seen: Vec<usize> = (0..total - t + i + 1).filter(|&j| valid[j]).collect();
                let weights: Vec<f64> =
                    seen.iter().map(|&j| (dot(query, &keys[j][h * G / H]) / 2.0).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut out = [0.0; D];
                for (&j, weight) in seen.iter().zip(weights) {
                    want_weights[(h * t + i) * total + j] = weight / sum;
                    out.iter_mut().zip(&values[j][h * G / H]).for_each(|(out, v)| *out += weight / sum * v);
                }
                joined.extend(out);
            }
            want.push(o.apply(&joined));
        }

        let mut kept = None;
        let got = layer.forward(x.clone(), x.clone(), &config(), &context, blocks.clone(), |new| {
            kept.insert(super::super::key_values::extended(Some(&tail), new)).clone()
        });
        let own = kept.expect("what is attended to was kept");
        for ((got, want), x) in rows(&got).iter().zip(&want).zip(rows(&x)) {
            close(got, &want.iter().zip(x).map(|(y, x)| y + x).collect::<Vec<_>>());
        }
        assert_eq!(own.key.dims(), [1, G, 2 + t, D]);
        let last = own.key.clone().narrow(2, 1 + t, 1);
        close(&numbers(&last), &keys.last().unwrap().concat());
        let all = blocks.into_iter().chain([own]).map(|b| b.key).collect();
        close(&numbers(&layer.weights(x, &config(), &context, all)), &want_weights);
    }
}
