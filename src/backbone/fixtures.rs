//! Layers of a few numbers for the tests of this module, and what they compute by definition: sums over plain lists in f64.

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{ModelBackend, StoredMatrix, WeightUse};
use rand::Rng;

use super::{
    Attention, Backbone, BackboneConfig, Block, Family, Linear, Mlp, Precision, RmsNorm, RopeConfig,
    RopeScaling, RotaryEmbedding,
};
use crate::random::generator;

/// Where layers are tested.
pub type TestBackend = diffmas_backends::Flex;

/// Uniform numbers in `[-1, 1)` of the stream `seed`.
pub fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<TestBackend, D> {
    let mut rng = generator(3, seed);
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(data, shape), &Default::default())
}

/// A matrix as the backend keeps it.
fn frozen(matrix: &Tensor<TestBackend, 2>, used: WeightUse) -> <TestBackend as ModelBackend>::Weight {
    let values = matrix.to_data().iter::<f32>().collect();
    TestBackend::frozen_weight(StoredMatrix::from_f32(values, matrix.dims()), used, &Default::default())
}

/// The numbers of a tensor, row-major.
pub fn numbers<const D: usize>(x: &Tensor<TestBackend, D>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}

/// The rows of a matrix.
pub fn rows(x: &Tensor<TestBackend, 2>) -> Vec<Vec<f64>> {
    numbers(x).chunks_exact(x.dims()[1]).map(<[f64]>::to_vec).collect()
}

/// Asserts that two lists are the same to f32's rounding.
#[track_caller]
pub fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 2e-5 * want.abs().max(1.0), "[{i}]: {got} instead of {want}");
    }
}

/// A linear layer whose numbers are known.
pub struct Dense {
    /// The layer.
    pub layer: Linear<TestBackend>,
    weight: Vec<Vec<f64>>,
    bias: Vec<f64>,
}

impl Dense {
    /// A layer from `cols` to `out` numbers.
    pub fn new(out: usize, cols: usize, seed: u64) -> Self {
        let (weight, bias) = (random([out, cols], seed), random([out], seed + 1));
        let (known, known_bias) = (rows(&weight), numbers(&bias));
        let weight = frozen(&weight, WeightUse::Layer);
        Self { layer: Linear::new(weight, Some(bias)), weight: known, bias: known_bias }
    }

    /// `W·x + bias`
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        let dot = |w: &Vec<f64>| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        self.weight.iter().zip(&self.bias).map(|(w, bias)| dot(w) + bias).collect()
    }
}

/// `x / sqrt(mean(x²) + eps) · weight`
pub fn normed(norm: &RmsNorm<TestBackend>, x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(numbers(&norm.weight)).map(|(x, w)| x / (mean + norm.eps).sqrt() * w).collect()
}

/// A norm over `width` numbers.
pub fn norm(width: usize, seed: u64) -> RmsNorm<TestBackend> {
    RmsNorm { weight: random([width], seed), eps: 1e-5 }
}

/// Sizes of a model that is quickly written down: 4 query heads of width 4 on 2 KV heads, two layers.
pub fn config() -> BackboneConfig {
    BackboneConfig {
        family: Family::Qwen3,
        vocab_size: 11,
        hidden_size: 12,
        intermediate_size: 10,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        rope: RopeConfig { theta: 100.0, scaling: RopeScaling::None },
        max_position_embeddings: 64,
        tie_word_embeddings: false,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        qk_norm: true,
        eos_token_ids: Vec::new(),
    }
}

/// A model of the sizes of [`config`].
pub fn backbone() -> Backbone<TestBackend> {
    let config = config();
    let (width, d) = (config.hidden_size, config.head_dim);
    let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let layers = (0..config.num_hidden_layers as u64).map(|l| {
        let dense = |out, cols, seed| Dense::new(out, cols, 100 * (l + 1) + seed).layer;
        Block {
            input_layernorm: norm(width, 100 * (l + 1) + 90),
            self_attn: Attention {
                q_proj: dense(q, width, 0),
                k_proj: dense(kv, width, 10),
                v_proj: dense(kv, width, 20),
                o_proj: dense(width, q, 30),
                q_norm: Some(norm(d, 100 * (l + 1) + 91)),
                k_norm: Some(norm(d, 100 * (l + 1) + 92)),
            },
            post_attention_layernorm: norm(width, 100 * (l + 1) + 93),
            mlp: Mlp {
                gate_proj: dense(config.intermediate_size, width, 40),
                up_proj: dense(config.intermediate_size, width, 50),
                down_proj: dense(width, config.intermediate_size, 60),
            },
        }
    });
    Backbone {
        layers: layers.collect(),
        embed_tokens: frozen(&random([config.vocab_size, width], 1), WeightUse::Table),
        norm: norm(width, 2),
        lm_head: Linear::new(frozen(&random([config.vocab_size, width], 3), WeightUse::Table), None),
        rotary: Arc::new(RotaryEmbedding::new(&config.rope, d)),
        config: Arc::new(config),
        precision: Precision::default(),
        opened_with: None,
        row_keys: None,
    }
}
