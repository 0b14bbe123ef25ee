//! Grouped-query self-attention over blocks of keys and values.

use burn::prelude::*;
use diffmas_backends::{AttentionMask, Autodiff, KeyValueBlock, ModelBackend};

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
}

/// Multi-head attention with grouped queries and, for Qwen3, normalised queries and keys.
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
    /// Over each key head, Qwen3 only.
    pub k_norm: Option<RmsNorm<B>>,
}

impl<B: ModelBackend> Attention<B> {
    /// Attends from the new positions to `past`, `tail` and themselves; returns the output and the tail with the new positions.
    ///
    /// # Shapes
    /// `x [B·t, D]`, blocks `[B, G, n_i, d]` → `[B·t, D]`
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        config: &BackboneConfig,
        context: &PassContext<B>,
        past: Vec<KeyValueBlock<B>>,
        tail: Option<&KeyValueBlock<B>>,
    ) -> (Tensor<B, 2>, KeyValueBlock<B>) {
        let (b, t, n) = (context.batch, context.len, context.batch * context.len);
        let (h, g, d) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);

        // 1. project and rotate
        let q = self.queries(x.clone(), config, context);
        let k = rotated_heads(self.k_proj.forward(x.clone()), g, d, &self.k_norm, context).swap_dims(1, 2);
        let v = self.v_proj.forward(x).reshape([b, t, g, d]).swap_dims(1, 2);

        // 2. append
        let own = match tail {
            Some(tail) => KeyValueBlock {
                key: Tensor::cat(vec![tail.key.clone(), k], 2),
                value: Tensor::cat(vec![tail.value.clone(), v], 2),
            },
            None => KeyValueBlock { key: k, value: v },
        };

        // 3. attend
        let mut blocks = past;
        blocks.push(own);
        let (out, _) = B::block_attention(q, &blocks, &context.mask, (d as f64).powf(-0.5));

        // 4. output
        let own = blocks.pop().expect("the own block was pushed");
        (self.o_proj.forward(out.reshape([n, h * d])), own)
    }

    /// How much each position attends to each key, rows of a softmax; what [`Attention::forward`] computes without keeping it.
    ///
    /// # Shapes
    /// `x [B·t, D]`, `keys [B, G, n, d]` of past and own positions → `[B, H, t, n]`
    pub(super) fn weights(
        &self,
        x: Tensor<B, 2>,
        config: &BackboneConfig,
        context: &PassContext<B>,
        keys: Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let [b, g, n, d] = keys.dims();
        let h = config.num_attention_heads;
        let keys = keys.unsqueeze_dim::<5>(2).expand([b, g, h / g, n, d]).reshape([b, h, n, d]);
        let q = self.queries(x, config, context).swap_dims(1, 2);
        let mut scores = B::matmul(q, keys.swap_dims(2, 3)).mul_scalar((d as f64).powf(-0.5));
        if let Some(allowed) = &context.mask.allowed {
            let hidden = allowed.clone().equal_elem(0).expand([b, h, context.len, n]);
            scores = scores.mask_fill(hidden, -1e30);
        }
        B::softmax_last(scores)
    }

    /// Queries, rotated: `[B·t, D]` → `[B, t, H, d]`
    fn queries(&self, x: Tensor<B, 2>, config: &BackboneConfig, context: &PassContext<B>) -> Tensor<B, 4> {
        let (heads, d) = (config.num_attention_heads, config.head_dim);
        rotated_heads(self.q_proj.forward(x), heads, d, &self.q_norm, context)
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

/// Queries or keys by head, normalised where the family has it, and rotated: `[B·t, heads·d]` → `[B, t, heads, d]`
fn rotated_heads<B: ModelBackend>(
    x: Tensor<B, 2>,
    heads: usize,
    d: usize,
    norm: &Option<RmsNorm<B>>,
    context: &PassContext<B>,
) -> Tensor<B, 4> {
    let (b, t, n) = (context.batch, context.len, context.batch * context.len);
    let x = match norm {
        Some(norm) => norm.forward(x.reshape([n * heads, d])).reshape([n, heads, d]),
        None => x.reshape([n, heads, d]),
    };
    B::rotary(x, &context.cos, &context.sin).reshape([b, t, heads, d])
}
