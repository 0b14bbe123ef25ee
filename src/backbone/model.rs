//! The whole transformer: embedding, layers, final norm, head.

use std::sync::{Arc, Mutex};

use burn::prelude::*;
use diffmas_backends::{AttentionMask, Autodiff, FrozenMatrix, HostMask, KeyValueBlock, ModelBackend};

use super::attention::PassContext;
use super::{BackboneConfig, Block, KeyValues, Positions, Precision, ResidualHook, RmsNorm, RotaryEmbedding};

/// A frozen causal language model. Cloning shares all weights.
#[derive(Clone, Debug)]
pub struct Backbone<B: ModelBackend> {
    /// Sizes and family.
    pub config: Arc<BackboneConfig>,
    /// `[V, D]`
    pub embed_tokens: B::Weight,
    /// The decoder layers.
    pub layers: Vec<Block<B>>,
    /// The final norm.
    pub norm: RmsNorm<B>,
    /// `[V, D]`; the embedding itself where the model ties them.
    pub lm_head: B::Weight,
    /// Position embedding.
    pub rotary: Arc<RotaryEmbedding>,
    /// How its weights are stored.
    pub precision: Precision,
}

impl<B: ModelBackend> Backbone<B> {
    /// The device of the weights.
    pub fn device(&self) -> B::Device {
        self.norm.weight.device()
    }

    /// Input embeddings.
    ///
    /// # Shapes
    /// `B·t` ids below `vocab_size`, row-major → `[B·t, D]`
    pub fn embed(&self, ids: &[u32]) -> Tensor<B, 2> {
        B::embed(&self.embed_tokens, ids, &self.device())
    }

    /// Runs `x` at `positions` on top of `past` and `tail`; causal among the new positions, padding neither sees nor is seen. `hook` is
    /// applied before each layer.
    ///
    /// Returns the hidden states after the final norm, and `tail` extended by the new positions. Keep what no longer grows in
    /// `past` (at most two blocks), since the tail is copied each time it grows.
    ///
    /// # Shapes
    /// `x [B·t, D]`, row-major over rows → `[B·t, D]`
    ///
    /// # Panics
    /// If rows or lengths of the arguments do not fit together.
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        positions: &Positions,
        past: &[&KeyValues<B>],
        tail: Option<&KeyValues<B>>,
        hook: Option<&dyn ResidualHook<B>>,
    ) -> (Tensor<B, 2>, KeyValues<B>) {
        let device = self.device();
        let batch = positions.batch;
        assert_eq!(x.dims()[0], batch * positions.len, "one embedding for each new position");
        let past: Vec<_> = past.iter().copied().filter(|p| !p.is_empty()).collect();
        let tail = tail.filter(|t| !t.is_empty());
        let own = match tail {
            Some(t) => Positions::cat(&[&t.positions, positions], batch),
            None => positions.clone(),
        };
        let mut read: Vec<_> = past.iter().map(|p| &p.positions).collect();
        read.push(&own);
        let keys = Positions::cat(&read, batch);
        let mask =
            B::attention_mask(HostMask::new(batch, positions.len, keys.len, Some(keys.valid)), &device);
        let [cos, sin] = self.rotary.cos_sin(positions, &device);
        let context = PassContext { batch, len: positions.len, cos, sin, mask };

        let mut x = x;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (l, layer) in self.layers.iter().enumerate() {
            if let Some(hook) = hook {
                x = hook.apply(l, x, batch);
            }
            let past = past.iter().map(|p| p.layers[l].clone()).collect();
            let (y, block) = layer.forward(x, &self.config, &context, past, tail.map(|t| &t.layers[l]));
            x = y;
            layers.push(block);
        }
        (self.norm.forward(x), KeyValues { layers, positions: own })
    }

    /// How much each of the positions that [`Backbone::forward`] would compute attends to each key of `past` and to each other, by layer.
    /// Rows of padding mean nothing.
    ///
    /// # Shapes
    /// `x [B·t, D]` → `[B, H, t, n]` each, `n` over the keys of `past` and the `t` new ones
    pub fn attention_weights(
        &self,
        x: Tensor<B, 2>,
        positions: &Positions,
        past: &[&KeyValues<B>],
        hook: Option<&dyn ResidualHook<B>>,
    ) -> Vec<Tensor<B, 4>> {
        let keeper = Keeper { hook, seen: Mutex::default() };
        let (_, own) = self.forward(x, positions, past, None, Some(&keeper));
        let mut blocks = past.to_vec();
        blocks.push(&own);
        let keys = KeyValues::cat(&blocks).expect("there are new positions");
        let mask =
            HostMask::new(positions.batch, positions.len, keys.len(), Some(keys.positions.valid.clone()));
        let [cos, sin] = self.rotary.cos_sin(positions, &self.device());
        let mask = AttentionMask::on_device(mask, &self.device());
        let context = PassContext { batch: positions.batch, len: positions.len, cos, sin, mask };
        let seen = keeper.seen.into_inner().expect("nobody panicked with the lock");
        let of = |((layer, x), block): ((&Block<B>, Tensor<B, 2>), &KeyValueBlock<B>)| {
            let x = layer.input_layernorm.forward(x);
            layer.self_attn.weights(x, &self.config, &context, block.key.clone())
        };
        self.layers.iter().zip(seen).zip(&keys.layers).map(of).collect()
    }

    /// Scores of the next token.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, V]`
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        B::frozen_linear(hidden, &self.lm_head, None, None)
    }

    /// The bytes that the matrices take in memory: layers, embedding and head, each once.
    pub fn weight_bytes(&self) -> usize {
        let mut bytes = self.embed_tokens.held_bytes();
        if !self.config.tie_word_embeddings {
            bytes += self.lm_head.held_bytes();
        }
        self.clone().for_linears(|_, linear| bytes += linear.weight.held_bytes());
        bytes
    }

    /// The model for training, sharing its storage; nothing of it has a gradient.
    pub fn to_autodiff(&self) -> Backbone<Autodiff<B>> {
        Backbone {
            config: self.config.clone(),
            embed_tokens: self.embed_tokens.clone(),
            layers: self.layers.iter().map(Block::to_autodiff).collect(),
            norm: self.norm.to_autodiff(),
            lm_head: self.lm_head.clone(),
            rotary: self.rotary.clone(),
            precision: self.precision,
        }
    }
}

/// A hook that does what another does, and keeps what enters each layer.
#[derive(Debug)]
struct Keeper<'a, B: Backend> {
    hook: Option<&'a dyn ResidualHook<B>>,
    seen: Mutex<Vec<Tensor<B, 2>>>,
}

impl<B: Backend> ResidualHook<B> for Keeper<'_, B> {
    fn apply(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
        let x = match self.hook {
            Some(hook) => hook.apply(layer, x, batch),
            None => x,
        };
        self.seen.lock().expect("nobody panicked with the lock").push(x.clone());
        x
    }
}
