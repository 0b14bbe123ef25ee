//! The configuration out of a GGUF file's metadata.

use super::{BackboneConfig, Family, RopeConfig, RopeScaling};
use crate::checkpoint::candle_message;
use crate::checkpoint::gguf::{architecture, whole};
use crate::error::{Error, Result};
use crate::files::open_file;
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use std::path::Path;

impl BackboneConfig {
    /// Reads the metadata `content` of the GGUF file at `path` (opened again for Llama 3's factors only).
    ///
    /// # Errors
    /// When a field is missing or describes a model that is not computed here; names the field.
    pub fn from_gguf(path: &Path, content: &Content) -> Result<Self> {
        let architecture = architecture(path, content)?;
        let meta = Meta { path, content, architecture: &architecture };
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
        let theta = meta.number("rope.freq_base")?.unwrap_or(10_000.0);
        let config = Self {
            family,
            vocab_size: meta.rows("token_embd.weight")?,
            hidden_size,
            intermediate_size: meta.required("feed_forward_length")?,
            num_hidden_layers: meta.required("block_count")?,
            num_attention_heads,
            num_key_value_heads: meta.integer("attention.head_count_kv")?.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: meta.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            rope: RopeConfig { theta, scaling: meta.rope_scaling(theta, head_dim)? },
            max_position_embeddings: meta.required("context_length")?,
            tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
            attention_bias: family == Family::Qwen2,
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
    content: &'a Content,
    architecture: &'a str,
}

impl Meta<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.content.metadata.get(&format!("{}.{name}", self.architecture))
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

    /// The rows of the matrix `name`.
    fn rows(&self, name: &str) -> Result<usize> {
        let info = self.content.tensor_infos.get(name);
        let rows = info.and_then(|info| info.shape.dims().first().copied());
        rows.ok_or_else(|| Error::file(self.path, format!("the tensor `{name}` is missing")))
    }

    fn rope_scaling(&self, theta: f64, head_dim: usize) -> Result<RopeScaling> {
        const FACTORS: &str = "rope_freqs.weight";
        let linear = match self.value("rope.scaling.type") {
            None => self.number("rope.scale_linear")?.filter(|factor| *factor != 1.0),
            Some(Value::String(kind)) if kind == "none" => None,
            Some(Value::String(kind)) if kind == "linear" => {
                let factor = self.number("rope.scaling.factor")?;
                Some(factor.ok_or_else(|| self.error("rope.scaling.factor", "is missing"))?)
            }
            Some(kind) => {
                let kind = kind.to_string().map_or("no text", String::as_str);
                return Err(self
                    .error("rope.scaling.type", format!("is `{kind}`; only none and linear are computed")));
            }
        };
        let scaling = linear.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor });
        let Some(info) = self.content.tensor_infos.get(FACTORS) else { return Ok(scaling) };
        let error = |message: String| Error::file(self.path, format!("the tensor `{FACTORS}` {message}"));
        if info.shape.dims() != [head_dim / 2] {
            return Err(error(format!("has the shape {:?}, not [{}]", info.shape.dims(), head_dim / 2)));
        }
        let divisors = open_file(self.path)
            .map_err(candle_core::Error::from)
            .and_then(|mut file| self.content.tensor(&mut file, FACTORS, &Device::Cpu))
            .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>())
            .map_err(|cause| error(format!("cannot be read: {}", candle_message(&cause))))?;
        match RopeScaling::from_divisors(&divisors, theta) {
            Some(RopeScaling::None) => Ok(scaling),
            Some(llama3) if scaling == RopeScaling::None => Ok(llama3),
            _ => Err(error("scales the rotary frequencies in a way that is not computed here".into())),
        }
    }

    /// The tokens that end a text and a turn.
    fn eos_token_ids(&self) -> Vec<u32> {
        let names = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
        let values = names.iter().filter_map(|name| self.content.metadata.get(*name));
        let mut ids: Vec<u32> = values.filter_map(|value| u32::try_from(whole(value)?).ok()).collect();
        ids.dedup();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{DType, Tensor};

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
        let content = Content::read(&mut file.reopen().unwrap()).unwrap();
        BackboneConfig::from_gguf(file.path(), &content)
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
        let divisor = |i| llama3.divisor(500_000_f64.powf(-f64::from(i) / 8.0)) as f32;
        let mut factors: Vec<f32> = (0..8).map(divisor).collect();
        assert_eq!(read(&[], Some(&factors)).unwrap().rope.scaling, llama3);
        assert_eq!(read(&[], Some(&[1.0; 8])).unwrap().rope.scaling, RopeScaling::None);
        factors[0] = 2.0;
        assert!(read(&[], Some(&factors)).unwrap_err().to_string().contains("`rope_freqs.weight` scales"));
        assert!(read(&[], Some(&[1.0; 4])).unwrap_err().to_string().contains("has the shape [4], not [8]"));
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_field() {
        let text = |text: &str| Some(Value::String(text.into()));
        for (field, value) in [
            ("llama.expert_count", Some(Value::U32(8))),
            ("llama.rope.scaling.type", text("yarn")),
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
