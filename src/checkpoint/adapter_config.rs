//! `adapter_config.json` of PEFT: which modules a LoRA adapter changes, with which rank and scale.

use super::target_modules::{TargetModules, first_match, has_module, layer_of, suffix_match};
use crate::error::{Error, Result};
use crate::files::{Fields, is_unset};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::path::Path;

/// A LoRA adapter's configuration; fields have the names that `adapter_config.json` gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Rank of the factors.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout of the module's input while training.
    pub lora_dropout: f64,
    /// The modules that have factors.
    pub target_modules: TargetModules,
    /// Those among them that have none.
    pub exclude_modules: Option<TargetModules>,
    /// The layers whose modules have factors; empty for all. For a list of `target_modules` only.
    pub layers_to_transform: Vec<usize>,
    /// What the list of layers is called, as regular expressions; empty for anything.
    pub layers_pattern: Vec<String>,
    /// The modules that the adapter replaces as a whole; they have no factors.
    pub modules_to_save: Vec<String>,
    /// Other ranks for modules whose path ends with a match of the pattern; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other numerators of the scale, likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether the scale is `lora_alpha / sqrt(r)` instead of `lora_alpha / r`.
    pub use_rslora: bool,
    /// The model that the adapter was made for.
    pub base_model_name_or_path: Option<String>,
}

/// Fields that are checked one by one, and fields that change nothing in what a stored adapter computes: how
/// its factors were started or placed on devices, and parameters of variants that are switched on elsewhere.
const IGNORED: [&str; 15] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "inference_mode",
    "init_lora_weights",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "bias",
    "peft_type",
];

impl AdapterConfig {
    /// An adapter of one rank and scale on `target_modules`.
    pub fn new(r: usize, lora_alpha: f64, target_modules: TargetModules) -> Self {
        Self {
            r,
            lora_alpha,
            lora_dropout: 0.0,
            target_modules,
            exclude_modules: None,
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_rslora: false,
            base_model_name_or_path: None,
        }
    }

    /// Reads the `text` of an `adapter_config.json`, which errors call the file at `path`.
    ///
    /// # Errors
    /// When it is not valid, or describes another method or a variant of LoRA; names the field.
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        Self::from_fields(&Fields::parse(path, text)?)
    }

    /// Reads the file's fields; see [`AdapterConfig::from_json`].
    pub(super) fn from_fields(fields: &Fields) -> Result<Self> {
        refuse_variants(fields)?;
        let modules = |name: &str| match fields.value(name) {
            Some(Value::String(pattern)) => Ok(TargetModules::Regex(pattern.clone())),
            _ => fields.require(name).map(TargetModules::List),
        };
        let target_modules = modules("target_modules")?;
        let excludes = fields.value("exclude_modules").is_some_and(|value| !is_unset(value));
        let exclude_modules = excludes.then(|| modules("exclude_modules")).transpose()?;
        let config = Self {
            r: fields.get("r")?.unwrap_or(8),
            lora_alpha: fields.get("lora_alpha")?.unwrap_or(8.0),
            lora_dropout: fields.get("lora_dropout")?.unwrap_or(0.0),
            target_modules,
            exclude_modules,
            layers_to_transform: one_or_many(fields, "layers_to_transform")?,
            layers_pattern: one_or_many(fields, "layers_pattern")?,
            modules_to_save: fields.get("modules_to_save")?.unwrap_or_default(),
            rank_pattern: pattern(fields, "rank_pattern")?,
            alpha_pattern: pattern(fields, "alpha_pattern")?,
            use_rslora: fields.get("use_rslora")?.unwrap_or(false),
            base_model_name_or_path: fields.get("base_model_name_or_path")?,
        };
        config.check().map_err(|error| Error::file(fields.path(), error))?;
        Ok(config)
    }

    /// The text of `adapter_config.json`, as `peft` loads it.
    pub fn to_json(&self) -> String {
        // PEFT declares `lora_alpha` as an integer and writes it so.
        let number = |alpha: f64| {
            if alpha.fract() == 0.0 && alpha < 1e15 { json!(alpha as u64) } else { json!(alpha) }
        };
        let ranks: Map<_, _> = self.rank_pattern.iter().map(|(key, r)| (key.clone(), json!(r))).collect();
        let alphas: Map<_, _> = self.alpha_pattern.iter().map(|(key, a)| (key.clone(), number(*a))).collect();
        let some = |list: Value| if is_unset(&list) { Value::Null } else { list };
        let value = json!({
            "alpha_pattern": alphas,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "exclude_modules": self.exclude_modules,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": some(json!(self.layers_pattern)),
            "layers_to_transform": some(json!(self.layers_to_transform)),
            "lora_alpha": number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": some(json!(self.modules_to_save)),
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": ranks,
            "revision": null,
            "target_modules": self.target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.use_rslora,
        });
        format!("{value:#}\n")
    }

    /// Checks numbers and patterns.
    ///
    /// # Errors
    /// When a rank or scale is not positive, nothing is targeted, or a regular expression is invalid; names
    /// the field.
    pub fn check(&self) -> Result<()> {
        let error = |name: &str, why: String| Err(Error::invalid(format!("the field `{name}` {why}")));
        // No matrix has more rows: a bound for products of sizes.
        const LARGEST: usize = 1 << 24;
        let ranks = self.rank_pattern.iter().map(|(_, r)| ("rank_pattern", *r));
        if let Some((name, r)) = ranks.chain([("r", self.r)]).find(|(_, r)| *r == 0 || *r > LARGEST) {
            return error(name, format!("gives the rank {r}, which no adapter has"));
        }
        let alphas = self.alpha_pattern.iter().map(|(_, alpha)| ("alpha_pattern", *alpha));
        let mut alphas = alphas.chain([("lora_alpha", self.lora_alpha)]);
        if let Some((name, alpha)) = alphas.find(|(_, alpha)| !(alpha.is_finite() && *alpha > 0.0)) {
            return error(name, format!("gives {alpha}, which is not positive"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return error("lora_dropout", format!("is {}, not in [0, 1)", self.lora_dropout));
        }
        let all = [
            ("target_modules", Some(&self.target_modules)),
            ("exclude_modules", self.exclude_modules.as_ref()),
        ];
        for (name, modules) in all {
            if let Some(Err(cause)) = modules.map(TargetModules::check) {
                return error(name, cause.to_string());
            }
        }
        if !self.layers_to_transform.is_empty() && matches!(self.target_modules, TargetModules::Regex(_)) {
            return error("layers_to_transform", "is set, but `target_modules` is no list of names".into());
        }
        if let Err(cause) = layer_of(&self.layers_pattern, "layers.0.x") {
            return error("layers_pattern", format!("has a pattern that cannot be used: {cause}"));
        }
        let ranks = self.rank_pattern.iter().map(|(key, _)| ("rank_pattern", key));
        let alphas = self.alpha_pattern.iter().map(|(key, _)| ("alpha_pattern", key));
        for (name, key) in ranks.chain(alphas) {
            if let Err(cause) = suffix_match(key) {
                return error(name, format!("has a pattern that cannot be used: {cause}"));
            }
        }
        Ok(())
    }

    /// Whether the module (`model.layers.0.self_attn.q_proj`) has factors: PEFT's `check_target_module_exists`.
    ///
    /// # Errors
    /// When a regular expression is invalid.
    pub fn targets(&self, module: &str) -> Result<bool> {
        let unusable = |name: &str, cause: String| Error::invalid(format!("the field `{name}` {cause}"));
        let excluded =
            self.exclude_modules.as_ref().map(|modules| modules.matches_literally(module)).transpose();
        let excluded = excluded.map_err(|cause| unusable("exclude_modules", cause.to_string()))?;
        let targeted = self.target_modules.matches(module);
        if !targeted.map_err(|cause| unusable("target_modules", cause.to_string()))?
            || excluded.unwrap_or(false)
            || self.modules_to_save.iter().any(|saved| has_module(module, saved))
        {
            return Ok(false);
        }
        if self.layers_to_transform.is_empty() || self.target_modules.names(module) {
            return Ok(true);
        }
        let layer = layer_of(&self.layers_pattern, module);
        let layer = layer.map_err(|cause| {
            unusable("layers_pattern", format!("has a pattern that cannot be used: {cause}"))
        })?;
        Ok(layer.is_some_and(|layer| self.layers_to_transform.contains(&layer)))
    }

    /// The rank of the module's factors.
    pub fn rank(&self, module: &str) -> usize {
        first_match(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// What the product of the module's factors is multiplied by.
    pub fn scaling(&self, module: &str) -> f64 {
        let alpha = first_match(&self.alpha_pattern, module).unwrap_or(self.lora_alpha);
        let r = self.rank(module) as f64;
        alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

/// One value or a list of them; empty where the field is absent or null.
fn one_or_many<T: DeserializeOwned>(fields: &Fields, name: &str) -> Result<Vec<T>> {
    match fields.value(name) {
        None | Some(Value::Null | Value::Array(_)) => Ok(fields.get(name)?.unwrap_or_default()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(_) => Ok(vec![fields.require(name)?]),
    }
}

/// An object of patterns, in the file's order.
fn pattern<T: DeserializeOwned>(fields: &Fields, name: &str) -> Result<Vec<(String, T)>> {
    let Some(object) = fields.object(name)? else { return Ok(Vec::new()) };
    object.names().map(|key| Ok((key.to_string(), object.require(key)?))).collect()
}

/// Refuses other methods, variants of LoRA, and switches that this version does not know.
fn refuse_variants(fields: &Fields) -> Result<()> {
    let text = |name: &str| fields.get::<String>(name);
    let method: String = fields.require("peft_type")?;
    if method != "LORA" {
        return Err(fields.error("peft_type", format!("is `{method}`; only `LORA` is supported")));
    }
    if let Some(bias) = text("bias")?.filter(|bias| bias != "none") {
        return Err(fields.error("bias", format!("is `{bias}`; only `none` is supported")));
    }
    if let Some(task) = text("task_type")?.filter(|task| task != "CAUSAL_LM") {
        return Err(fields.error("task_type", format!("is `{task}`; only `CAUSAL_LM` is supported")));
    }
    match fields.value("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(start)) if ["gaussian", "eva", "orthogonal"].contains(&start.as_str()) => {}
        Some(other) => {
            let why = format!(
                "is {other}, a start that changes the base weights; convert the adapter to plain LoRA"
            );
            return Err(fields.error("init_lora_weights", why));
        }
    }
    let ours = [
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "base_model_name_or_path",
    ];
    for name in fields.names().filter(|name| !ours.contains(name) && !IGNORED.contains(name)) {
        if fields.value(name).is_some_and(|value| !is_unset(value)) {
            return Err(fields.error(name, "is set, but this version computes plain LoRA only"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.layers.1.self_attn.q_proj";

    fn list(names: &[&str]) -> TargetModules {
        TargetModules::List(names.iter().map(|name| name.to_string()).collect())
    }

    #[test]
    fn the_first_matching_pattern_gives_rank_and_scale() {
        let mut config = AdapterConfig::new(8, 16.0, list(&["q_proj"]));
        assert_eq!((config.rank(Q), config.scaling(Q)), (8, 2.0));
        config.rank_pattern = vec![("proj".into(), 3), (r"layers\.1\..*".into(), 4), ("q_proj".into(), 5)];
        config.alpha_pattern = vec![("^q_proj".into(), 1.0), ("q_proj".into(), 6.0)];
        assert_eq!((config.rank(Q), config.scaling(Q)), (4, 1.5));
        config.use_rslora = true;
        assert_eq!((config.scaling(Q), config.rank("model.layers.0.self_attn.q_proj")), (3.0, 5));
    }

    #[test]
    fn the_text_is_read_back_as_it_was() {
        let mut config = AdapterConfig::new(4, 16.0, list(&["q_proj", "v_proj"]));
        config.rank_pattern = vec![("v_proj".into(), 2), ("k_proj".into(), 3)];
        config.alpha_pattern = vec![("v_proj".into(), 2.5)];
        config.use_rslora = true;
        config.base_model_name_or_path = Some("some/model".into());
        config.exclude_modules = Some(TargetModules::Regex(r".*\.0\..*".into()));
        (config.layers_to_transform, config.layers_pattern) = (vec![1, 2], vec!["layers".into()]);
        config.modules_to_save = vec!["lm_head".into()];
        let text = config.to_json();
        assert!(text.contains("\"lora_alpha\": 16,"), "{text}");
        assert_eq!(AdapterConfig::from_json(Path::new("a.json"), &text).unwrap(), config);
        config.target_modules = TargetModules::Regex(r".*\.q_proj".into());
        config.layers_to_transform.clear();
        assert_eq!(AdapterConfig::from_json(Path::new("a.json"), &config.to_json()).unwrap(), config);
    }

    #[test]
    fn modules_are_left_out_as_peft_leaves_them_out() {
        let at = |layer: usize, name: &str| format!("model.layers.{layer}.self_attn.{name}");
        let mut config = AdapterConfig::new(8, 16.0, list(&["q_proj", "v_proj", "lm_head"]));
        config.exclude_modules = Some(list(&["layers.0.self_attn.q_proj"]));
        config.layers_to_transform = vec![0, 2];
        let targets = |config: &AdapterConfig, module: &str| config.targets(module).unwrap();
        assert!(targets(&config, &at(2, "q_proj")) && targets(&config, &at(0, "v_proj")));
        assert!(!targets(&config, &at(0, "q_proj")) && !targets(&config, &at(1, "v_proj")));
        // Named in full, it needs no layer.
        assert!(targets(&config, "lm_head"));
        config.layers_pattern = vec!["h".into()];
        assert!(!targets(&config, &at(2, "q_proj")));
        config.modules_to_save = vec!["lm_head".into()];
        assert!(!targets(&config, "lm_head"));
        config.exclude_modules = Some(TargetModules::Regex("(".into()));
        assert!(config.targets(Q).unwrap_err().to_string().starts_with("the field `exclude_modules` is not"));
    }

    #[test]
    fn variants_are_refused_by_field() {
        let cases = [
            ("peft_type", json!("IA3")),
            ("use_dora", json!(true)),
            ("bias", json!("all")),
            ("lora_bias", json!(true)),
            ("modules_to_save", json!("lm_head")),
            ("layers_to_transform", json!([-1])),
            ("layers_pattern", json!("(layers")),
            ("layer_replication", json!([[0, 1]])),
            ("exclude_modules", json!("(q_proj")),
            ("trainable_token_indices", json!([1])),
            ("target_parameters", json!(["x"])),
            ("fan_in_fan_out", json!(true)),
            ("alora_invocation_tokens", json!([1])),
            ("use_qalora", json!(true)),
            ("use_bdlora", json!({"nblocks": 2})),
            ("arrow_config", json!({"top_k": 3})),
            ("init_lora_weights", json!("pissa")),
            ("task_type", json!("SEQ_CLS")),
            ("some_later_switch", json!(2)),
            ("target_modules", json!(null)),
            ("target_modules", json!([])),
            ("target_modules", json!("(q_proj")),
            ("rank_pattern", json!({"(": 3})),
            ("rank_pattern.q_proj", json!({"q_proj": "three"})),
            ("r", json!(0)),
            ("lora_alpha", json!(-1)),
        ];
        for (field, value) in cases {
            let mut config: Value =
                serde_json::from_str(&AdapterConfig::new(8, 16.0, list(&["q_proj"])).to_json()).unwrap();
            config[field.split('.').next().unwrap()] = value;
            let error =
                AdapterConfig::from_json(Path::new("a.json"), &config.to_string()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("a.json: the field `{field}` ")), "{field}: {error}");
        }
    }
}
