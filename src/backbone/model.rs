//! The whole transformer: embedding, layers, final norm, head.

use std::ops::Range;
use std::sync::Arc;

use burn::prelude::*;
use diffmas_backends::{Autodiff, FrozenMatrix, HostMask, KeyValueBlock, ModelBackend};

use super::attention::PassContext;
use super::key_values::extended;
use super::{
    BackboneConfig, Block, DecodeCache, GrowingKeyValues, KeyValues, Linear, OpenedWith, Positions,
    Precision, Recorder, ResidualHook, RmsNorm, RotaryEmbedding, RowKeys,
};

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
    pub lm_head: Linear<B>,
    /// Position embedding.
    pub rotary: Arc<RotaryEmbedding>,
    /// How its weights are stored.
    pub precision: Precision,
    /// The adapter that it was opened with, where that holds whole modules.
    pub opened_with: Option<OpenedWith>,
    /// The keys of the rows of its passes, where LoRA's factors read inputs with dropout.
    pub row_keys: Option<RowKeys>,
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
    /// Returns the hidden states after the final norm, and `tail` extended by the new positions. Keep what no longer grows in `past`, which
    /// is read where it lies, since the tail is copied; what grows step by step is [`GrowingKeyValues`].
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
        let tail = tail.filter(|t| !t.is_empty());
        let own = match tail {
            Some(t) => Positions::cat(&[&t.positions, positions], positions.batch),
            None => positions.clone(),
        };
        let mut layers = Vec::with_capacity(self.layers.len());
        let hidden = self.pass(0..self.layers.len(), x, positions, past, &own, hook, |l, new| {
            let block = extended(tail.map(|t| &t.layers[l]), new);
            layers.push(block.clone());
            block
        });
        (hidden, KeyValues { layers, positions: own })
    }

    /// Like [`Backbone::forward`] with the positions of `growing` for a tail, which the new ones then belong to.
    ///
    /// # Shapes
    /// `x [B·t, D]`, row-major over rows → `[B·t, D]`
    ///
    /// # Panics
    /// If rows or lengths of the arguments do not fit together.
    pub fn forward_growing(
        &self,
        x: Tensor<B, 2>,
        positions: &Positions,
        past: &[&KeyValues<B>],
        growing: &mut GrowingKeyValues<B>,
        hook: Option<&dyn ResidualHook<B>>,
    ) -> Tensor<B, 2> {
        growing.extend(positions);
        let own = growing.positions().clone();
        self.pass(0..self.layers.len(), x, positions, past, &own, hook, |l, new| growing.append(l, new))
    }

    /// Like [`Backbone::forward`] with the positions of `cache` for a tail, which are extended in place.
    ///
    /// A block of `past` that has one row is read by all rows.
    ///
    /// # Shapes
    /// `x [B·t, D]`, row-major over rows → `[B·t, D]`
    ///
    /// # Panics
    /// If rows or lengths of the arguments do not fit together.
    pub fn forward_in_place(
        &self,
        x: Tensor<B, 2>,
        positions: &Positions,
        past: &[&KeyValues<B>],
        cache: &mut DecodeCache<B>,
        hook: Option<&dyn ResidualHook<B>>,
    ) -> Tensor<B, 2> {
        cache.extend(positions);
        let own = cache.positions().clone();
        self.pass(0..self.layers.len(), x, positions, past, &own, hook, |l, new| cache.write(l, new))
    }

    /// The part of [`Backbone::forward`] that `layers` are: from what enters the first of them to what leaves the last, after the final norm
    /// where that is the model's last. Without a tail; the keys and values are those of `layers` alone.
    ///
    /// # Shapes
    /// `x [B·t, D]`, row-major over rows → `[B·t, D]`
    ///
    /// # Panics
    /// If rows or lengths of the arguments do not fit together, or there are no such layers.
    pub fn forward_layers(
        &self,
        layers: Range<usize>,
        x: Tensor<B, 2>,
        positions: &Positions,
        past: &[&KeyValues<B>],
        hook: Option<&dyn ResidualHook<B>>,
    ) -> (Tensor<B, 2>, KeyValues<B>) {
        let mut own = Vec::with_capacity(layers.len());
        let x = self.pass(layers, x, positions, past, positions, hook, |_, new| {
            own.push(new.clone());
            new
        });
        (x, KeyValues { layers: own, positions: positions.clone() })
    }

    /// Runs `x` through `layers` on top of `past` and `own`, whose last positions are the new ones. `keep` takes in their keys and values, layer
    /// by layer, and returns those of `own`.
    #[expect(clippy::too_many_arguments, reason = "those of `forward`, in parts")]
    fn pass(
        &self,
        layers: Range<usize>,
        x: Tensor<B, 2>,
        positions: &Positions,
        past: &[&KeyValues<B>],
        own: &Positions,
        hook: Option<&dyn ResidualHook<B>>,
        mut keep: impl FnMut(usize, KeyValueBlock<B>) -> KeyValueBlock<B>,
    ) -> Tensor<B, 2> {
        let batch = positions.batch;
        assert_eq!(x.dims()[0], batch * positions.len, "one embedding for each new position");
        let past: Vec<_> = past.iter().copied().filter(|p| !p.is_empty()).collect();
        // 1. who sees whom, and the angles of positions: once for all layers
        let context = self.context(positions, past.iter().map(|p| &p.positions).chain([own]));

        // 2. the layers, each on its own block of every past
        let mut x = x;
        let last = layers.end == self.layers.len();
        for l in layers {
            if let Some(hook) = hook {
                x = hook.apply(l, x, batch);
            }
            let past = past.iter().map(|p| p.layers[l].clone()).collect();
            x = self.layers[l].forward(x, &self.config, &context, past, |new| keep(l, new));
        }

        // 3. the final norm
        if last { self.norm.forward(x) } else { x }
    }

    /// What the layers of a pass at `positions` share; `read` are all positions that are read, the new ones last.
    pub(super) fn context<'a>(
        &self,
        positions: &Positions,
        read: impl Iterator<Item = &'a Positions>,
    ) -> PassContext<B> {
        let (batch, len, device) = (positions.batch, positions.len, self.device());
        let read: Vec<_> = read.map(|positions| positions.of_rows(batch)).collect();
        let keys = Positions::cat(&read.iter().map(AsRef::as_ref).collect::<Vec<_>>(), batch);
        let mask = B::attention_mask(HostMask::new(batch, len, keys.len, Some(keys.valid)), &device);
        let [cos, sin] = self.rotary.scaled_cos_sin(positions, &device);
        let dropout_keys = self.row_keys.as_ref().map(|keys| keys.positions(batch, &positions.ids));
        PassContext { batch, len, cos, sin, mask, dropout_keys }
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
        let recorder = Recorder::new(hook);
        let (_, own) = self.forward(x, positions, past, None, Some(&recorder));
        let blocks: Vec<&KeyValues<B>> =
            past.iter().copied().filter(|p| !p.is_empty()).chain([&own]).collect();
        let context = self.context(positions, blocks.iter().map(|b| &b.positions));
        let passed = recorder.into_passed().into_iter().enumerate();
        passed
            .map(|(l, passed)| {
                let layer = &self.layers[l];
                let keys: Vec<_> = blocks.iter().map(|b| b.layers[l].key.clone()).collect();
                layer.self_attn.weights(
                    layer.input_layernorm.forward(passed.after),
                    &self.config,
                    &context,
                    keys,
                )
            })
            .collect()
    }

    /// Scores of the next token.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, V]`
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.lm_head.forward(hidden)
    }

    /// The bytes that the matrices take in memory: layers, embedding and head, each once.
    pub fn weight_bytes(&self) -> usize {
        let tied = self.config.tie_word_embeddings;
        let mut bytes = if tied { 0 } else { self.embed_tokens.held_bytes() };
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
            lm_head: self.lm_head.to_autodiff(),
            rotary: self.rotary.clone(),
            precision: self.precision,
            opened_with: self.opened_with.clone(),
            row_keys: self.row_keys.clone(),
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::fixtures::*;
    use super::*;

    #[test]
    fn a_model_is_its_layers_one_after_another_a_norm_and_a_head() {
        let model = backbone();
        let at = Positions::issue(&[true; 3], &mut [0]);
        let embedded = model.embed(&[4, 0, 10]);
        let (hidden, written) = model.forward(embedded.clone(), &at, &[], None, None);
        let context = model.context(&at, [&at].into_iter());
        let mut x = embedded;
        for (layer, block) in model.layers.iter().zip(&written.layers) {
            let mut own: Option<KeyValueBlock<TestBackend>> = None;
            x = layer.forward(x, &model.config, &context, Vec::new(), |new| own.insert(new).clone());
            close(&numbers(&block.key), &numbers(&own.unwrap().key));
        }
        for (got, x) in rows(&hidden).iter().zip(rows(&x)) {
            close(got, &normed(&model.norm, &x));
        }
        assert_eq!(model.logits(hidden).dims(), [3, model.config.vocab_size]);
    }

    #[test]
    fn what_is_read_in_many_blocks_is_what_is_read_in_one() {
        let model = backbone();
        // Two rows, the second of which begins with padding.
        let valid = [[true; 9], [false, false, true, true, true, true, true, true, true]].concat();
        let at = Positions::issue(&valid, &mut [0, 3]);
        let ids: Vec<u32> = (0..18).map(|i| i * 5 % 11).collect();
        let (whole, _) = model.forward(model.embed(&ids), &at, &[], None, None);
        let column = |x: &[u32], from: usize, to: usize| [&x[from..to], &x[9 + from..9 + to]].concat();
        let mut past: Vec<KeyValues<TestBackend>> = Vec::new();
        for (from, to) in [(0, 2), (2, 3), (3, 4), (4, 6), (6, 7), (7, 9)] {
            let x = model.embed(&column(&ids, from, to));
            let read: Vec<&KeyValues<TestBackend>> = past.iter().collect();
            let (hidden, own) = model.forward(x, &at.slice(from, to), &read, None, None);
            let want = whole.clone().reshape([2, 9, 12]).narrow(1, from, to - from).reshape([-1, 12]);
            // Rows of padding mean nothing.
            let real = column(&valid.iter().map(|&v| u32::from(v)).collect::<Vec<_>>(), from, to);
            for ((got, want), _) in
                rows(&hidden).iter().zip(rows(&want)).zip(real).filter(|(_, real)| *real == 1)
            {
                close(got, &want);
            }
            past.push(own);
        }
    }

    #[test]
    fn what_grows_holds_what_a_tail_would() {
        let model = backbone();
        let (mut growing, mut tail) = (GrowingKeyValues::new(2, 3), None);
        let mut next = [3, 4];
        // More than there is room for.
        for step in 0..5u32 {
            let at = Positions::issue(&[true; 2], &mut next);
            let x = model.embed(&[step, 10 - step]);
            let got = model.forward_growing(x.clone(), &at, &[], &mut growing, None);
            let (want, grown) = model.forward(x, &at, &[], tail.as_ref(), None);
            assert_eq!(numbers(&got), numbers(&want));
            tail = Some(grown);
        }
        let (got, want) = (growing.into_key_values().unwrap(), tail.unwrap());
        assert_eq!(got.positions, want.positions);
        assert_eq!(numbers(&got.layers[1].value), numbers(&want.layers[1].value));
        assert!(GrowingKeyValues::<TestBackend>::new(2, 3).into_key_values().is_none());
    }

    #[test]
    fn a_cache_that_is_written_in_place_holds_what_a_tail_would() {
        let model = backbone();
        let valid = [true, true, true, false, true, true];
        let first = Positions::issue(&valid, &mut [0, 2]);
        let (_, past) = model.forward(model.embed(&[1, 2, 3, 0, 4, 5]), &first, &[], None, None);
        let (mut cache, mut tail) = (DecodeCache::new(2, 2), None);
        let mut next = [3, 4];
        for step in 0..5u32 {
            let at = Positions::issue(&[true; 2], &mut next);
            let x = model.embed(&[step, 10 - step]);
            cache.reserve(1, 5);
            let got = model.forward_in_place(x.clone(), &at, &[&past], &mut cache, None);
            let (want, grown) = model.forward(x, &at, &[&past], tail.as_ref(), None);
            assert_eq!(numbers(&got), numbers(&want));
            tail = Some(grown);
        }
        let (written, tail) = (cache.written().unwrap(), tail.unwrap());
        assert_eq!(written.positions, tail.positions);
        for (got, want) in written.layers.iter().zip(&tail.layers) {
            assert_eq!(numbers(&got.key.clone()), numbers(&want.key));
            assert_eq!(numbers(&got.value.clone()), numbers(&want.value));
        }
        let last = cache.select(&[1]).written().unwrap();
        assert_eq!(numbers(&last.layers[0].key.clone()), numbers(&tail.rows(1, 1).layers[0].key.clone()));
    }
}
