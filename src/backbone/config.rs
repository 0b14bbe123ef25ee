//! What a model is: the fields of Hugging Face's `config.json`, as transformers 4 or 5 spells them, or of a
//! GGUF file's metadata.

mod gguf;
mod rope;

pub use rope::{RopeConfig, RopeScaling};

use crate::error::{Error, Result};
use crate::files::{Fields, is_unset};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// The families of models that the backbone computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `llama`: Llama 2 and 3, SmolLM2.
    Llama,
    /// `mistral`: the dense models without a sliding window, as of Mistral 7B v0.2 on.
    Mistral,
    /// `qwen2`: Qwen2 and Qwen2.5.
    Qwen2,
    /// `qwen3`: the dense models of Qwen3.
    Qwen3,
}

/// A decoder-only transformer; fields have the names that `config.json` gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneConfig {
    /// The family (`model_type`).
    pub family: Family,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// What the norms add to the mean square.
    pub rms_norm_eps: f64,
    /// The rotary position embedding.
    pub rope: RopeConfig,
    /// The number of positions that the model was made for.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub o_bias: bool,
    /// Whether the projections of the MLP have a bias.
    pub mlp_bias: bool,
    /// Whether queries and keys are normed per head.
    pub qk_norm: bool,
    /// Tokens that end a generated text; may be empty.
    pub eos_token_ids: Vec<u32>,
}

impl BackboneConfig {
    /// Reads `config.json` in the folder `dir`; the end tokens of a `generation_config.json` beside it win.
    ///
    /// # Errors
    /// When a file cannot be read, or describes a model that is not computed here; names the field.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        if !path.exists() {
            let hint = if dir.join("adapter_config.json").exists() {
                "it holds an adapter: give it as --adapter"
            } else {
                "give the folder that has one, or a .gguf file"
            };
            let why = format!("the folder has no `config.json`, so it is no Hugging Face model; {hint}");
            return Err(Error::file(dir, why));
        }
        let mut config = Self::from_fields(&Fields::read(&path)?)?;
        let generation = dir.join("generation_config.json");
        if generation.exists()
            && let Some(ids) = eos_token_ids(&Fields::read(&generation)?)?
        {
            config.eos_token_ids = ids;
        }
        Ok(config)
    }

    /// Reads the `text` of a `config.json`, which errors call the file at `path`.
    ///
    /// # Errors
    /// When it is not valid, or describes a model that is not computed here; names the field.
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        Self::from_fields(&Fields::parse(path, text)?)
    }

    fn from_fields(fields: &Fields) -> Result<Self> {
        let family = family(fields)?;
        refuse_variants(fields)?;
        let hidden_size: usize = fields.require("hidden_size")?;
        let num_attention_heads: usize = fields.require("num_attention_heads")?;
        let max_position_embeddings = fields.get("max_position_embeddings")?;
        let max_position_embeddings = max_position_embeddings.unwrap_or(match family {
            Family::Llama => 2048,
            Family::Mistral => 131_072,
            Family::Qwen2 | Family::Qwen3 => 32768,
        });
        refuse_window(fields, family, max_position_embeddings)?;
        let head_dim = match fields.get("head_dim")? {
            Some(width) => width,
            None if family == Family::Qwen3 => 128,
            None if num_attention_heads == 0 || !hidden_size.is_multiple_of(num_attention_heads) => {
                let why = format!("({num_attention_heads}) does not divide `hidden_size` ({hidden_size})");
                return Err(fields.error("num_attention_heads", why));
            }
            None => hidden_size / num_attention_heads,
        };
        let eos = match eos_token_ids(fields)? {
            Some(ids) => ids,
            None if fields.value("eos_token_id").is_some() => Vec::new(),
            None => match family {
                Family::Llama | Family::Mistral => vec![2],
                Family::Qwen2 | Family::Qwen3 => Vec::new(),
            },
        };
        let num_key_value_heads = match fields.get("num_key_value_heads")? {
            Some(heads) => heads,
            None if family == Family::Mistral && fields.value("num_key_value_heads").is_none() => 8,
            None => num_attention_heads,
        };
        // What the other families' configurations say here, transformers does not read.
        let biased = |name: &str, families: &[Family]| -> Result<bool> {
            Ok(families.contains(&family) && fields.get(name)?.unwrap_or(false))
        };
        let attention_bias = biased("attention_bias", &[Family::Llama, Family::Qwen3])?;
        let config = Self {
            family,
            vocab_size: fields.require("vocab_size")?,
            hidden_size,
            intermediate_size: fields.require("intermediate_size")?,
            num_hidden_layers: fields.require("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: fields.get("rms_norm_eps")?.unwrap_or(1e-6),
            rope: RopeConfig::from_fields(fields, max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: fields.get("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: attention_bias || family == Family::Qwen2,
            o_bias: attention_bias,
            mlp_bias: biased("mlp_bias", &[Family::Llama])?,
            qk_norm: family == Family::Qwen3,
            eos_token_ids: eos,
        };
        config.check(fields.path())?;
        let layers: Option<Vec<String>> = fields.get("layer_types")?;
        if let Some(layers) = layers.filter(|layers| layers.len() != config.num_hidden_layers) {
            let why = format!(
                "has {} entries, not `num_hidden_layers` ({})",
                layers.len(),
                config.num_hidden_layers
            );
            return Err(fields.error("layer_types", why));
        }
        Ok(config)
    }

    /// Checks that the numbers describe a model.
    fn check(&self, path: &Path) -> Result<()> {
        // Far above every model there is; below it, no product of two sizes overflows.
        const LARGEST: usize = 1 << 24;
        const MOST_LAYERS: usize = 1 << 12;
        let sizes = [
            ("vocab_size", self.vocab_size, LARGEST),
            ("hidden_size", self.hidden_size, LARGEST),
            ("intermediate_size", self.intermediate_size, LARGEST),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("num_attention_heads", self.num_attention_heads, LARGEST),
            ("num_key_value_heads", self.num_key_value_heads, LARGEST),
            ("head_dim", self.head_dim, LARGEST),
            ("max_position_embeddings", self.max_position_embeddings, usize::MAX),
        ];
        let error = |name: &str, why: String| Err(Error::file(path, format!("the field `{name}` {why}")));
        for (name, size, largest) in sizes {
            if size == 0 || size > largest {
                return error(name, format!("is {size}, which no model has"));
            }
        }
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv) {
            return error(
                "num_key_value_heads",
                format!("({kv}) does not divide `num_attention_heads` ({heads})"),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return error("head_dim", format!("is {}; rotary embeddings need an even width", self.head_dim));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps.is_finite()) {
            return error("rms_norm_eps", format!("is {}, not a small positive number", self.rms_norm_eps));
        }
        self.rope.check(path)
    }
}

/// The family that `model_type` names.
fn family(fields: &Fields) -> Result<Family> {
    let name: String = fields.require("model_type")?;
    match name.as_str() {
        "llama" => Ok(Family::Llama),
        "mistral" => Ok(Family::Mistral),
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        _ if name.contains("moe") || name.contains("mixtral") => {
            Err(fields.error("model_type", format!("is `{name}`; mixtures of experts are not supported")))
        }
        _ => {
            let why = format!("is `{name}`; this version reads llama, mistral, qwen2 and qwen3");
            Err(fields.error("model_type", why))
        }
    }
}

/// Refuses switches of the same families that would change what is computed.
fn refuse_variants(fields: &Fields) -> Result<()> {
    let on = |name: &str| fields.get::<bool>(name).map(|switch| switch == Some(true));
    let act = fields.get::<String>("hidden_act")?;
    if let Some(act) = act.filter(|act| act != "silu") {
        return Err(fields.error("hidden_act", format!("is `{act}`; only `silu` is supported")));
    }
    if on("use_sliding_window")? {
        return Err(fields.error("use_sliding_window", "is true; sliding windows are not supported"));
    }
    let layers: Vec<String> = fields.get("layer_types")?.unwrap_or_default();
    if let Some(kind) = layers.iter().find(|kind| *kind != "full_attention") {
        return Err(
            fields.error("layer_types", format!("names `{kind}`; only `full_attention` is supported"))
        );
    }
    for name in ["num_experts", "num_local_experts"] {
        if fields.get::<usize>(name)?.is_some_and(|experts| experts > 0) {
            return Err(fields.error(name, "is set; mixtures of experts are not supported"));
        }
    }
    if fields.value("quantization_config").is_some_and(|value| !is_unset(value)) {
        let why = "is set; quantised weights are read from GGUF files only";
        return Err(fields.error("quantization_config", why));
    }
    Ok(())
}

/// Refuses a window of attention that is narrower than the context: Mistral's `sliding_window`, which is 4096 where the field is absent.
fn refuse_window(fields: &Fields, family: Family, max_position_embeddings: usize) -> Result<()> {
    if family != Family::Mistral {
        return Ok(());
    }
    let window = match fields.get("sliding_window")? {
        None if fields.value("sliding_window").is_none() => Some(4096),
        window => window,
    };
    match window.filter(|window: &usize| *window < max_position_embeddings) {
        Some(window) => {
            let why = format!(
                "is {window}, narrower than the context of {max_position_embeddings} (max_position_embeddings); sliding windows are not \
                 supported"
            );
            Err(fields.error("sliding_window", why))
        }
        None => Ok(()),
    }
}

/// `eos_token_id`, one or several; `None` when it is absent or null.
fn eos_token_ids(fields: &Fields) -> Result<Option<Vec<u32>>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Many(Vec<u32>),
    }
    if fields.value("eos_token_id").is_some_and(Value::is_null) {
        return Ok(None);
    }
    let ids = fields
        .get("eos_token_id")
        .map_err(|_| fields.error("eos_token_id", "is no token id and no list of them"))?;
    Ok(ids.map(|ids| match ids {
        Ids::One(id) => vec![id],
        Ids::Many(ids) => ids,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tiny(family: &str) -> Value {
        json!({"model_type": family, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2})
    }

    fn with(mut config: Value, changes: Value) -> Result<BackboneConfig> {
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        BackboneConfig::from_json(Path::new("dir/config.json"), &config.to_string())
    }

    #[test]
    fn absent_fields_have_the_defaults_of_transformers() {
        let llama = with(tiny("llama"), json!({"num_key_value_heads": null})).unwrap();
        assert_eq!((llama.head_dim, llama.num_key_value_heads, llama.rms_norm_eps), (16, 4, 1e-6));
        assert_eq!((llama.max_position_embeddings, &llama.eos_token_ids[..]), (2048, &[2][..]));
        assert_eq!(llama.rope, RopeConfig { theta: 10_000.0, scaling: RopeScaling::None });
        assert!(!llama.tie_word_embeddings && !llama.qkv_bias && !llama.qk_norm);
        let qwen2 = with(tiny("qwen2"), json!({})).unwrap();
        assert!(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm && qwen2.eos_token_ids.is_empty());
        assert_eq!((qwen2.head_dim, qwen2.max_position_embeddings), (16, 32768));
        let qwen3 = with(tiny("qwen3"), json!({})).unwrap();
        assert!(!qwen3.qkv_bias && qwen3.qk_norm);
        assert_eq!(qwen3.head_dim, 128);
        let mut mistral = tiny("mistral");
        let sizes = mistral.as_object_mut().unwrap();
        sizes.remove("num_key_value_heads");
        sizes.insert("num_attention_heads".into(), json!(16));
        let mistral = with(mistral, json!({"sliding_window": null})).unwrap();
        assert_eq!((mistral.num_key_value_heads, mistral.max_position_embeddings), (8, 131_072));
        assert_eq!(mistral.eos_token_ids, [2]);
    }

    #[test]
    fn the_end_tokens_of_the_generation_configuration_win() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = tiny("qwen3");
        config["eos_token_id"] = json!(7);
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        assert_eq!(BackboneConfig::read(dir.path()).unwrap().eos_token_ids, [7]);
        for (text, expected) in [("{}", vec![7]), (r#"{"eos_token_id": [5, 6]}"#, vec![5, 6])] {
            std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
            assert_eq!(BackboneConfig::read(dir.path()).unwrap().eos_token_ids, expected);
        }
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_field() {
        let cases = [
            ("qwen2", json!({"use_sliding_window": true}), "use_sliding_window"),
            ("qwen3", json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
            ("qwen3", json!({"layer_types": ["full_attention"]}), "layer_types"),
            ("qwen3_moe", json!({}), "model_type"),
            ("gemma3", json!({}), "model_type"),
            ("llama", json!({"hidden_act": "gelu"}), "hidden_act"),
            ("llama", json!({"mlp_bias": 1}), "mlp_bias"),
            ("mistral", json!({}), "sliding_window"),
            ("mistral", json!({"sliding_window": 4096, "max_position_embeddings": 32768}), "sliding_window"),
            ("llama", json!({"num_attention_heads": 3}), "num_attention_heads"),
            ("llama", json!({"num_attention_heads": 0}), "num_attention_heads"),
            ("llama", json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            ("llama", json!({"num_key_value_heads": 0}), "num_key_value_heads"),
            ("llama", json!({"head_dim": 15}), "head_dim"),
            ("llama", json!({"vocab_size": 0}), "vocab_size"),
            ("llama", json!({"vocab_size": -1}), "vocab_size"),
            ("llama", json!({"hidden_size": "wide"}), "hidden_size"),
            ("llama", json!({"num_hidden_layers": 1_000_000_000_u64}), "num_hidden_layers"),
            ("llama", json!({"rms_norm_eps": -1.0}), "rms_norm_eps"),
            ("llama", json!({"eos_token_id": "end"}), "eos_token_id"),
            ("llama", json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config"),
            ("llama", json!({"num_local_experts": 8}), "num_local_experts"),
        ];
        for (family, changes, field) in cases {
            let error = with(tiny(family), changes.clone()).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("dir/config.json: the field `{field}` ")),
                "{changes}: {error}"
            );
        }
        assert!(with(tiny("qwen2"), json!({"sliding_window": 4096})).is_ok());
        let wide = json!({"sliding_window": 4096, "max_position_embeddings": 4096});
        assert!(with(tiny("mistral"), wide).is_ok());
    }

    #[test]
    fn each_family_has_the_biases_that_transformers_gives_it() {
        let switches = json!({"attention_bias": true, "mlp_bias": true, "sliding_window": null});
        for (family, expected) in [
            ("llama", (true, true, true)),
            ("mistral", (false, false, false)),
            ("qwen2", (true, false, false)),
            ("qwen3", (true, true, false)),
        ] {
            let config = with(tiny(family), switches.clone()).unwrap();
            assert_eq!((config.qkv_bias, config.o_bias, config.mlp_bias), expected, "{family}");
        }
    }
}
