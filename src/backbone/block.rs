//! One decoder layer.

use burn::prelude::*;
use diffmas_backends::{Autodiff, KeyValueBlock, ModelBackend};

use super::attention::PassContext;
use super::{Attention, BackboneConfig, Mlp, RmsNorm};

/// `x + attn(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Clone, Debug)]
pub struct Block<B: ModelBackend> {
    /// Before attention.
    pub input_layernorm: RmsNorm<B>,
    /// Attention over past and own positions.
    pub self_attn: Attention<B>,
    /// Before the feed-forward layer.
    pub post_attention_layernorm: RmsNorm<B>,
    /// The feed-forward layer.
    pub mlp: Mlp<B>,
}

impl<B: ModelBackend> Block<B> {
    /// Applies the layer; see [`Attention::forward`].
    ///
    /// # Shapes
    /// `[B·t, D]` → `[B·t, D]`
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        config: &BackboneConfig,
        context: &PassContext<B>,
        past: Vec<KeyValueBlock<B>>,
        tail: Option<&KeyValueBlock<B>>,
    ) -> (Tensor<B, 2>, KeyValueBlock<B>) {
        let h = self.input_layernorm.forward(x.clone());
        let (a, own) = self.self_attn.forward(h, config, context, past, tail);
        let x = x + a;
        let h = self.post_attention_layernorm.forward(x.clone());
        (x + self.mlp.forward(h), own)
    }

    /// The layer for training, sharing its storage.
    pub fn to_autodiff(&self) -> Block<Autodiff<B>> {
        Block {
            input_layernorm: self.input_layernorm.to_autodiff(),
            self_attn: self.self_attn.to_autodiff(),
            post_attention_layernorm: self.post_attention_layernorm.to_autodiff(),
            mlp: self.mlp.to_autodiff(),
        }
    }
}
