//! A Qwen3 all of whose weights learn. The library's own backbone is frozen; this one shares nothing with it but the names of the
//! weights.

use burn::prelude::*;
use burn::tensor::{Distribution, TensorData, activation};
use diffmas::backbone::Parameters;
use serde_json::{Value, json};

/// Sizes of the model.
pub struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate: usize,
    pub theta: f64,
}

const EPS: f64 = 1e-6;

impl Sizes {
    /// Those of the model that is part of the library, for so many words.
    pub fn tiny(vocab: usize) -> Self {
        Self {
            vocab,
            hidden: 128,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            intermediate: 384,
            theta: 10_000.0,
        }
    }

    /// `config.json`.
    pub fn config(&self, end: usize) -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": false,
            "eos_token_id": end,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 1024,
            "model_type": "qwen3",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": EPS,
            "rope_theta": self.theta,
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
            "vocab_size": self.vocab,
        })
    }

    /// Fresh weights under Hugging Face's names; norms are rows `[1, n]`. Layers begin near to doing nothing.
    pub fn fresh<B: Backend>(&self, device: &B::Device) -> Parameters<B> {
        let random = |out: usize, into: usize, std: f64| {
            Tensor::<B, 2>::random([out, into], Distribution::Normal(0.0, std), device)
        };
        let ones = |n: usize| Tensor::<B, 2>::ones([1, n], device);
        let (d, q, kv) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let fan_in = |n: usize| 0.5 / (n as f64).sqrt();
        let mut all = Parameters::default();
        all.insert("model.embed_tokens.weight".into(), random(self.vocab, d, 0.1));
        all.insert("model.norm.weight".into(), ones(d));
        for layer in 0..self.layers {
            let mut put =
                |name: &str, value| all.insert(format!("model.layers.{layer}.{name}.weight"), value);
            put("input_layernorm", ones(d));
            put("self_attn.q_proj", random(q, d, fan_in(d)));
            put("self_attn.k_proj", random(kv, d, fan_in(d)));
            put("self_attn.v_proj", random(kv, d, fan_in(d)));
            put("self_attn.o_proj", random(d, q, 0.1 * fan_in(q)));
            put("self_attn.q_norm", ones(self.head_dim));
            put("self_attn.k_norm", ones(self.head_dim));
            put("post_attention_layernorm", ones(d));
            put("mlp.gate_proj", random(self.intermediate, d, fan_in(d)));
            put("mlp.up_proj", random(self.intermediate, d, fan_in(d)));
            put("mlp.down_proj", random(d, self.intermediate, 0.1 * fan_in(self.intermediate)));
        }
        all
    }

    /// Scores of the next word at the positions `at` of `batch` rows of `len` ids.
    ///
    /// # Shapes
    /// `ids [batch · len]`, `at [n]` (indices into `ids`) → `[n, V]`
    pub fn logits<B: Backend>(
        &self,
        w: &Parameters<B>,
        ids: &[i64],
        batch: usize,
        at: &[i64],
    ) -> Tensor<B, 2> {
        let embed = w.get("model.embed_tokens.weight");
        let device = embed.device();
        let int = |values: &[i64]| {
            Tensor::<B, 1, Int>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
        };
        let (n, len, hd) = (ids.len(), ids.len() / batch, self.head_dim);
        let mut x = embed.clone().select(0, int(ids));
        let [cos, sin] = self.rotary::<B>(len, &device);
        let mask = Tensor::<B, 2, Bool>::tril_mask([len, len], 0, &device).unsqueeze::<4>();
        for layer in 0..self.layers {
            let weight = |name: &str| w.get(&format!("model.layers.{layer}.{name}.weight")).clone();
            let linear = |x: Tensor<B, 2>, name: &str| x.matmul(weight(name).transpose());
            let heads = |x: Tensor<B, 2>, heads: usize| x.reshape([batch, len, heads, hd]).swap_dims(1, 2);
            let normed = |x: Tensor<B, 2>, name: &str| {
                norm(x.reshape([-1, hd as i32]), weight(name)).reshape([n as i32, -1])
            };
            let rotate = |x: Tensor<B, 4>| {
                let (a, b) = (x.clone().narrow(3, 0, hd / 2), x.clone().narrow(3, hd / 2, hd / 2));
                x * cos.clone() + Tensor::cat(vec![b.neg(), a], 3) * sin.clone()
            };
            let h = norm(x.clone(), weight("input_layernorm"));
            let q = normed(linear(h.clone(), "self_attn.q_proj"), "self_attn.q_norm");
            let k = normed(linear(h.clone(), "self_attn.k_proj"), "self_attn.k_norm");
            let q = rotate(heads(q, self.heads));
            let k = self.repeated(rotate(heads(k, self.kv_heads)));
            let v = self.repeated(heads(linear(h, "self_attn.v_proj"), self.kv_heads));
            let scores = q.matmul(k.swap_dims(2, 3)).mul_scalar((hd as f64).powf(-0.5));
            let shown =
                scores.mask_fill(mask.clone().expand([batch, self.heads, len, len]), f32::NEG_INFINITY);
            let out = activation::softmax(shown, 3).matmul(v).swap_dims(1, 2).reshape([n as i32, -1]);
            x = x + linear(out, "self_attn.o_proj");
            let h = norm(x.clone(), weight("post_attention_layernorm"));
            let gated = activation::silu(linear(h.clone(), "mlp.gate_proj")) * linear(h, "mlp.up_proj");
            x = x + linear(gated, "mlp.down_proj");
        }
        let x = norm(x.select(0, int(at)), w.get("model.norm.weight").clone());
        x.matmul(embed.clone().transpose())
    }

    /// Each key or value head once for each of its query heads.
    fn repeated<B: Backend>(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [batch, kv, len, d] = x.dims();
        let each = self.heads / kv;
        x.unsqueeze_dim::<5>(2).expand([batch, kv, each, len, d]).reshape([batch, self.heads, len, d])
    }

    /// Cosines and sines `[1, 1, len, head_dim]`.
    fn rotary<B: Backend>(&self, len: usize, device: &B::Device) -> [Tensor<B, 4>; 2] {
        let half = self.head_dim / 2;
        let angle = |p: usize, i: usize| p as f64 * self.theta.powf(-((i % half) as f64) / half as f64);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> =
                (0..len).flat_map(|p| (0..self.head_dim).map(move |i| f(angle(p, i)) as f32)).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, len, self.head_dim]), device)
        };
        [table(f64::cos), table(f64::sin)]
    }
}

/// Root-mean-square norm over the last dimension.
fn norm<B: Backend>(x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    let mean = x.clone().powi_scalar(2).mean_dim(1).add_scalar(EPS);
    x * mean.sqrt().recip() * weight
}
