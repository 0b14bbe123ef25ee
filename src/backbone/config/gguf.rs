//! The configuration out of a GGUF file's metadata.

use super::{BackboneConfig, Family, RopeConfig, RopeScaling};
use crate::checkpoint::gguf::{architecture, whole};
use crate::checkpoint::{EMBEDDING, GgufWeights, HEAD, Weights};
use crate::error::{Error, Result};
use candle_core::quantized::gguf_file::Value;
use std::path::Path;

impl BackboneConfig {
    /// Reads the metadata of a GGUF file.
    ///
    /// # Errors
    /// When a field is missing or describes a model that is not computed here; names the field.
    pub fn from_gguf(weights: &GgufWeights) -> Result<Self> {
        let path = weights.path();
        let architecture = architecture(path, weights.content())?;
        let meta = Meta { path, weights, architecture: &architecture };
        let family = match architecture.as_str() {
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            _ => Family::Llama,
        };
        if meta.integer("expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(meta.error("expert_count", "is set; mixtures of experts are not supported"));
        }
        let hidden_size = meta.required("embedding_length")?;
        let num_attention_heads = meta.required("attention.head_count")?;
        let head_dim = match meta.integer("attention.key_length")? {
            Some(width) => width,
            None if num_attention_heads == 0 || !hidden_size.is_multiple_of(num_attention_heads) => {
                return Err(
                    meta.error("attention.head_count", format!("does not divide the width {hidden_size}"))
                );
            }
            None => hidden_size / num_attention_heads,
        };
        for (name, why) in [
            ("attention.value_length", "keys and values of different width are not supported"),
            ("rope.dimension_count", "heads are rotated in full here"),
        ] {
            if let Some(width) = meta.integer(name)?.filter(|width| *width != head_dim) {
                return Err(meta.error(name, format!("is {width}, not the heads' width {head_dim}; {why}")));
            }
        }
        // The metadata do not tell.
        let biased = |module: &str| weights.shape(&format!("model.layers.0.{module}.bias")).is_some();
        let embedding = weights.shape(EMBEDDING).and_then(|shape| shape.first().copied());
        let theta = meta.number("rope.freq_base")?.unwrap_or(10_000.0);
        let config = Self {
            family,
            vocab_size: embedding
                .ok_or_else(|| Error::file(path, "the tensor `token_embd.weight` is missing"))?,
            hidden_size,
            intermediate_size: meta.required("feed_forward_length")?,
            num_hidden_layers: meta.required("block_count")?,
            num_attention_heads,
            num_key_value_heads: meta.integer("attention.head_count_kv")?.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: meta.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            rope: RopeConfig { theta, scaling: meta.rope_scaling(theta, head_dim)? },
            max_position_embeddings: meta.required("context_length")?,
            tie_word_embeddings: weights.shape(HEAD).is_none(),
            qkv_bias: biased("self_attn.q_proj") || family == Family::Qwen2,
            o_bias: biased("self_attn.o_proj"),
            mlp_bias: biased("mlp.down_proj"),
            qk_norm: family == Family::Qwen3,
            eos_token_ids: meta.eos_token_ids(),
        };
        config.check(path)?;
        Ok(config)
    }
}

/// The metadata under one architecture's prefix.
struct Meta<'a> {
    path: &'a Path,
    weights: &'a GgufWeights,
    architecture: &'a str,
}

impl Meta<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.weights.content().metadata.get(&format!("{}.{name}", self.architecture))
    }

    fn error(&self, name: &str, predicate: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("the field `{}.{name}` {predicate}", self.architecture))
    }

    fn integer(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match whole(value) {
            Some(number) => Ok(Some(number)),
            None if matches!(value, Value::Array(_)) => {
                Err(self.error(name, "differs from layer to layer, which is not supported"))
            }
            None => Err(self.error(name, "is not a whole number")),
        }
    }

    fn required(&self, name: &str) -> Result<usize> {
        self.integer(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// A number, as its shortest decimal says it: 1e-5 is stored as f32, but means 1e-5.
    fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::F32(number)) => Ok(number.to_string().parse().ok()),
            Some(Value::F64(number)) => Ok(Some(*number)),
            Some(_) => Err(self.error(name, "is not a number")),
        }
    }

    fn rope_scaling(&self, theta: f64, head_dim: usize) -> Result<RopeScaling> {
        const FACTORS: &str = "rope_freqs.weight";
        let linear =
            |factor: Option<f64>| factor.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor });
        let scaling = match self.value("rope.scaling.type") {
            None => linear(self.number("rope.scale_linear")?.filter(|factor| *factor != 1.0)),
            Some(Value::String(kind)) if kind == "none" => RopeScaling::None,
            Some(Value::String(kind)) if kind == "linear" => linear(Some(self.scaling_factor()?)),
            Some(Value::String(kind)) if kind == "yarn" => self.yarn()?,
            Some(kind) => {
                let kind = kind.to_string().map_or("no text", String::as_str);
                let why = format!("is `{kind}`; only none, linear and yarn are computed");
                return Err(self.error("rope.scaling.type", why));
            }
        };
        let Some(divisors) = self.weights.rope_factors()? else { return Ok(scaling) };
        let error = |message: String| Error::file(self.path, format!("the tensor `{FACTORS}` {message}"));
        if divisors.len() != head_dim / 2 {
            return Err(error(format!("has {} numbers, not {}", divisors.len(), head_dim / 2)));
        }
        match RopeScaling::from_divisors(&divisors, theta) {
            Some(RopeScaling::None) => Ok(scaling),
            Some(llama3) if scaling == RopeScaling::None => Ok(llama3),
            _ => Err(error("scales the rotary frequencies in a way that is not computed here".into())),
        }
    }

    fn scaling_factor(&self) -> Result<f64> {
        self.number("rope.scaling.factor")?.ok_or_else(|| self.error("rope.scaling.factor", "is missing"))
    }

    /// YaRN with the settings of its paper, where the file has no other.
    fn yarn(&self) -> Result<RopeScaling> {
        for name in ["attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"] {
            let name = format!("rope.scaling.{name}");
            if self.value(&name).is_some() {
                return Err(self.error(&name, "is set; only YaRN without it is computed"));
            }
        }
        let number = |name: &str| self.number(&format!("rope.scaling.{name}"));
        let original = match self.integer("rope.scaling.original_context_length")? {
            Some(positions) => positions,
            None => self.required("context_length")?,
        };
        let mut scaling = RopeScaling::yarn(self.scaling_factor()?, original);
        if let RopeScaling::Yarn { beta_fast, beta_slow, .. } = &mut scaling {
            *beta_fast = number("yarn_beta_fast")?.unwrap_or(*beta_fast);
            *beta_slow = number("yarn_beta_slow")?.unwrap_or(*beta_slow);
        }
        Ok(scaling)
    }

    /// The tokens that end a text and a turn.
    fn eos_token_ids(&self) -> Vec<u32> {
        let names = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
        let values = names.iter().filter_map(|name| self.weights.content().metadata.get(*name));
        let mut ids: Vec<u32> = values.filter_map(|value| u32::try_from(whole(value)?).ok()).collect();
        ids.dedup();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{DType, Device, Tensor};

    fn read(changes: &[(&str, Option<Value>)], factors: Option<&[f32]>) -> Result<BackboneConfig> {
        let mut fields = vec![
            ("general.architecture", Value::String("llama".into())),
            ("llama.embedding_length", Value::U32(64)),
            ("llama.block_count", Value::U32(2)),
            ("llama.feed_forward_length", Value::U32(160)),
            ("llama.context_length", Value::U64(8192)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.attention.head_count_kv", Value::I32(2)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(500_000.0)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ];
        for (name, value) in changes {
            fields.retain(|(old, _)| old != name);
            fields.extend(value.clone().map(|value| (*name, value)));
        }
        let quantise = |tensor: Tensor| QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
        let embedding = quantise(Tensor::zeros((512, 64), DType::F32, &Device::Cpu).unwrap());
        let factors = factors.map(|f| quantise(Tensor::from_slice(f, f.len(), &Device::Cpu).unwrap()));
        let mut tensors = vec![("token_embd.weight", &embedding)];
        tensors.extend(factors.iter().map(|factors| ("rope_freqs.weight", factors)));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value)).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        gguf_file::write(&mut file.reopen().unwrap(), &fields, &tensors).unwrap();
        BackboneConfig::from_gguf(&GgufWeights::open(file.path())?)
    }

    #[test]
    fn metadata_become_the_fields_of_hugging_face() {
        let config = read(&[], None).unwrap();
        assert_eq!((config.vocab_size, config.head_dim, config.num_key_value_heads), (512, 16, 2));
        assert_eq!((config.rms_norm_eps, config.rope.theta), (1e-5, 500_000.0));
        assert!(config.tie_word_embeddings && config.eos_token_ids == [2]);
        let eot = read(&[("tokenizer.ggml.eot_token_id", Some(Value::U32(5)))], None).unwrap();
        assert_eq!(eot.eos_token_ids, [2, 5]);
    }

    #[test]
    fn factors_of_the_frequencies_are_recognised_or_refused() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let frequencies: Vec<f64> = (0..8).map(|i| 500_000_f64.powf(-f64::from(i) / 8.0)).collect();
        let mut factors: Vec<f32> = llama3.divisors(5e5, &frequencies).iter().map(|&x| x as f32).collect();
        assert_eq!(read(&[], Some(&factors)).unwrap().rope.scaling, llama3);
        assert_eq!(read(&[], Some(&[1.0; 8])).unwrap().rope.scaling, RopeScaling::None);
        factors[0] = 2.0;
        assert!(read(&[], Some(&factors)).unwrap_err().to_string().contains("`rope_freqs.weight` scales"));
        assert!(read(&[], Some(&[1.0; 4])).unwrap_err().to_string().contains("has 4 numbers, not 8"));
    }

    #[test]
    fn yarn_is_read() {
        let text = |text: &str| Some(Value::String(text.into()));
        let fields = [
            ("llama.rope.scaling.type", text("yarn")),
            ("llama.rope.scaling.factor", Some(Value::F32(4.0))),
            ("llama.rope.scaling.original_context_length", Some(Value::U32(2048))),
        ];
        assert_eq!(read(&fields, None).unwrap().rope.scaling, RopeScaling::yarn(4.0, 2048));
        let more = [&fields[..], &[("llama.rope.scaling.attn_factor", Some(Value::F32(2.0)))]].concat();
        assert!(
            read(&more, None).unwrap_err().to_string().contains("`llama.rope.scaling.attn_factor` is set")
        );
        let error = read(&fields, Some(&[2.0; 8])).unwrap_err().to_string();
        assert!(error.contains("`rope_freqs.weight` scales"), "{error}");
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_field() {
        let text = |text: &str| Some(Value::String(text.into()));
        for (field, value) in [
            ("llama.expert_count", Some(Value::U32(8))),
            ("llama.rope.scaling.type", text("longrope")),
            ("llama.rope.scaling.type", Some(Value::U32(1))),
            ("llama.rope.dimension_count", Some(Value::U32(8))),
            ("llama.attention.value_length", Some(Value::U32(8))),
            ("llama.attention.head_count", Some(Value::U32(0))),
            ("llama.attention.head_count", Some(Value::Array(vec![Value::U32(4)]))),
            ("llama.block_count", None),
            ("llama.block_count", Some(Value::I32(-1))),
        ] {
            let error = read(&[(field, value)], None).unwrap_err().to_string();
            assert!(error.contains(&format!("the field `{field}` ")), "{error}");
        }
    }
}
