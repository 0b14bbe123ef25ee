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
        keep: impl FnOnce(KeyValueBlock<B>) -> KeyValueBlock<B>,
    ) -> Tensor<B, 2> {
        // 1. x + attn(norm(x)): [B·t, D]
        let h = self.input_layernorm.forward(x.clone());
        let x = self.self_attn.forward(h, x, config, context, past, keep);

        // 2. x + mlp(norm(x)): [B·t, D]
        let h = self.post_attention_layernorm.forward(x.clone());
        self.mlp.forward(h, x, context.dropout_keys.as_deref())
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::super::Positions;
    use super::super::fixtures::*;
    use super::*;

    #[test]
    fn a_block_adds_attention_and_then_the_feed_forward_layer_to_its_input() {
        let model = backbone();
        let (block, x) = (&model.layers[0], random([3, 12], 1));
        let at = Positions::issue(&[true; 3], &mut [0]);
        let context = model.context(&at, [&at].into_iter());
        let [mut own, mut same] = [None, None];
        let got =
            block.forward(x.clone(), &model.config, &context, Vec::new(), |new| own.insert(new).clone());
        let normed_rows = |norm, x: &[f64]| -> Tensor<TestBackend, 2> {
            let data: Vec<f32> =
                x.chunks_exact(12).flat_map(|row| normed(norm, row)).map(|x| x as f32).collect();
            Tensor::<TestBackend, 1>::from_floats(data.as_slice(), &Default::default()).reshape([-1, 12])
        };
        let h = normed_rows(&block.input_layernorm, &numbers(&x));
        let keep = |new| same.insert(new).clone();
        let between =
            numbers(&block.self_attn.forward(h, x.clone(), &model.config, &context, Vec::new(), keep));
        let (own, same): (KeyValueBlock<_>, KeyValueBlock<_>) = (own.unwrap(), same.unwrap());
        let h = normed_rows(&block.post_attention_layernorm, &between);
        let between = Tensor::<TestBackend, 1>::from_floats(
            between.iter().map(|&x| x as f32).collect::<Vec<_>>().as_slice(),
            &Default::default(),
        );
        let want = block.mlp.forward(h, between.reshape([3, 12]), None);
        close(&numbers(&got), &numbers(&want));
        close(&numbers(&own.key), &numbers(&same.key));
        close(&numbers(&own.value), &numbers(&same.value));
    }
}
