//! One call of attention: queries, blocks of keys and values, who sees whom; and its gradients.

use burn::prelude::*;

use crate::AttentionMask;

/// Keys and values of some positions of one layer, each `[B, G, n, d]`; keys carry their rotary embedding.
#[derive(Clone, Debug)]
pub struct KeyValueBlock<B: Backend> {
    /// Keys `[B, G, n, d]`.
    pub key: Tensor<B, 4>,
    /// Values `[B, G, n, d]`.
    pub value: Tensor<B, 4>,
}

/// What [`ModelBackend::block_attention`](crate::ModelBackend::block_attention) computes from: all that its gradient needs again.
#[derive(Clone, Debug)]
pub struct AttentionCall<B: Backend> {
    /// Queries `[B, t, H, d]`.
    pub q: Tensor<B, 4>,
    /// Blocks `[B, G, n_i, d]`, one or more, read where they lie; the last `t` of all keys are the queries' own. A block `[1, G, n_i, d]` is
    /// read by all rows; that has no gradient.
    pub blocks: Vec<KeyValueBlock<B>>,
    /// Who sees whom, of `Σ n_i` keys.
    pub mask: AttentionMask<B>,
    /// The factor of the scores.
    pub scale: f64,
}

impl<B: Backend> AttentionCall<B> {
    /// KV heads `G`.
    pub fn kv_heads(&self) -> usize {
        self.blocks[0].key.dims()[1]
    }
}

/// The gradients of one attention call.
#[derive(Debug)]
pub struct AttentionGrads<B: Backend> {
    /// Of the queries, `[B, t, H, d]`.
    pub query: Tensor<B, 4>,
    /// Of keys and values of each block, where asked for.
    pub blocks: Vec<Option<(Tensor<B, 4>, Tensor<B, 4>)>>,
}
