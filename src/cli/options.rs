//! Flags that several commands share, the same keys in a `--config` file, and how the two combine: flags win.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use diffmas::agents::{
    AdapterScope, ChannelConfig, ChannelKind, FeedKind, OverwriteUpdate, TeamConfig, Topology, Transmit,
};
use diffmas::backbone::{ComputeDtype, Precision, WeightDtype};
use diffmas::backends::BackendKind;
use diffmas::engine::{EngineConfig, run_of};
use diffmas::files::{NamedEnum, read_toml};
use diffmas::text::Thinking;
use diffmas::training::{
    Curriculum, Decay, LrSchedulerType, PhaseConfig, PhasePreset, TraceGradient, TrainConfig,
};
use diffmas::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Which team, on which model, where.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct TeamArgs {
    /// Settings under the flags' names (with `_`), for instance the config.toml of an earlier run; flags win
    #[arg(long, value_name = "FILE.toml")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Hugging Face folder, .gguf file, ORG/NAME[@REVISION][:FILE.gguf] on the Hugging Face hub, or a known name
    /// (`diffmas models`)
    #[arg(long)]
    model: Option<String>,
    /// Fetch nothing: model and adapter must be here or cached
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    offline: Option<bool>,
    /// What a team learned: the folder `adapter` of a run, any PEFT adapter, or ORG/NAME[@REVISION] on the Hugging Face hub
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Team file; without one, the team that --adapter learned in, else the planner, critic, refiner and solver of the DiffMAS paper
    #[arg(long, value_name = "FILE.toml")]
    system: Option<PathBuf>,
    /// Run --adapter in the team of --system or --config, although it learned in another
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    override_team: Option<bool>,
    /// What agents pass on [trace, vectors, hybrid, overwrite, text]
    #[arg(long)]
    channel: Option<ChannelKind>,
    /// Who reads whom [sequential, hierarchical; graph needs a team file with `reads`]
    #[arg(long)]
    topology: Option<Topology>,
    /// Vectors that an agent sends (vectors, hybrid, overwrite) [8]
    #[arg(long, value_name = "M")]
    num_vectors: Option<usize>,
    /// Width of a vector [256]
    #[arg(long, value_name = "C")]
    vector_dim: Option<usize>,
    /// Heads of communication encoder and cross-agent attention [4]
    #[arg(long, value_name = "H")]
    vector_heads: Option<usize>,
    /// Layers in which a reader attends to vectors, comma-separated [every fourth]
    #[arg(long, value_delimiter = ',', value_name = "LAYERS")]
    cross_attention_layers: Option<Vec<usize>>,
    /// Whether each query of the communication encoder prefers its own part of the sender's rollout [true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    encoder_position_prior: Option<bool>,
    /// How an agent replaces the state of `overwrite` [tanh, gated]
    #[arg(long)]
    overwrite_update: Option<OverwriteUpdate>,
    /// Most tokens that an upstream agent writes on the channel `text` [128]
    #[arg(long, value_name = "N")]
    message_tokens: Option<usize>,
    /// Latent steps of every upstream agent
    #[arg(long, value_name = "T")]
    latent_steps: Option<usize>,
    /// Which positions an upstream agent leaves in the trace [all, latent, prompt]
    #[arg(long)]
    transmit: Option<Transmit>,
    /// How a hidden state becomes the next input [identity, realign, soft, learned]
    #[arg(long)]
    feed: Option<FeedKind>,
    /// Which roles the adapter is active in
    #[arg(long, value_parser = one_of::<AdapterScope>())]
    adapter_scope: Option<AdapterScope>,
    /// Whether models that can think aloud before they answer do: Qwen3's `enable_thinking` [auto: as the model's template has it]
    #[arg(long, value_parser = one_of::<Thinking>())]
    think: Option<Thinking>,
    /// Samples that run together [8]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// How the model's weights are stored: auto is as the file has them, where the backend can [f32; bf16, f16, auto]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<WeightDtype>,
    /// What is computed in [f32, the only one]
    #[arg(long, value_name = "TYPE")]
    precision: Option<ComputeDtype>,
    /// Backend; `diffmas devices` lists those in this binary
    #[arg(long)]
    backend: Option<String>,
    /// Which of several GPUs
    #[arg(long, value_name = "INDEX")]
    device_index: Option<usize>,
}

/// How to train; names and defaults as in `transformers.TrainingArguments` where it has them.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct TrainArgs {
    /// Training data, JSONL
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    /// Held-out data, scored before and after training
    #[arg(long, value_name = "FILE.jsonl")]
    eval_data: Option<PathBuf>,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Peak learning rate [5e-5]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    learning_rate: Option<f64>,
    /// Micro-batches per update [1]
    #[arg(long, value_name = "N")]
    gradient_accumulation_steps: Option<usize>,
    /// Updates; overrides --num-train-epochs
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Passes over the data [3]
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    num_train_epochs: Option<f64>,
    /// Updates of linear warm-up from 0 [0]
    #[arg(long, value_name = "N")]
    warmup_steps: Option<usize>,
    /// Shape of the schedule [linear]
    #[arg(long, value_parser = one_of::<LrSchedulerType>())]
    lr_scheduler_type: Option<LrSchedulerType>,
    /// Largest global gradient norm; 0 switches clipping off [1]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    max_grad_norm: Option<f64>,
    /// Decoupled weight decay [0]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// What weight decay pulls on: everything; or as in transformers' Trainer, which spares biases and norms, and with them gates,
    /// embeddings and queries, and pulls the learned feed towards the identity [all, hf]
    #[arg(long)]
    decay: Option<Decay>,
    /// Seed of data order and fresh adapters [42]
    #[arg(long)]
    seed: Option<u64>,
    /// Updates between checkpoints [500]
    #[arg(long, value_name = "N")]
    save_steps: Option<usize>,
    /// Checkpoints kept [all]
    #[arg(long, value_name = "N")]
    save_total_limit: Option<usize>,
    /// How far back the gradient goes [full, detach, last:N]
    #[arg(long)]
    trace_gradient: Option<TraceGradient>,
    /// Updates with a loss or gradient that is not finite, in a row, after which training stops [5]
    #[arg(long, value_name = "N")]
    max_skipped_updates: Option<usize>,
    /// Weight of upstream agents' trajectories, the field `trajectories` of a line [0]
    #[arg(long, value_name = "LAMBDA", value_parser = number, allow_negative_numbers = true)]
    trajectory_weight: Option<f64>,
    /// Probability of hiding a sender's whole message from its readers [0]
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    sender_dropout: Option<f64>,
    /// Probability of hiding a single latent position or vector [0]
    #[arg(long, value_name = "Q", value_parser = number, allow_negative_numbers = true)]
    position_dropout: Option<f64>,
    /// Easy samples first: by the length of the target or a field from 0 to 1 [none, length, field:NAME]
    #[arg(long)]
    curriculum: Option<Curriculum>,
    /// How difficult samples may be at the first update, from 0 to 1 [0.1]
    #[arg(long, value_name = "C0", value_parser = number, allow_negative_numbers = true)]
    initial_competence: Option<f64>,
    /// Updates until all samples are drawn [half of the run]
    #[arg(long, value_name = "N")]
    curriculum_steps: Option<usize>,
    /// Training in phases; --config may have [[phases]] of its own [joint, individual-then-joint]
    #[arg(long)]
    phase_preset: Option<PhasePreset>,
    /// Rank of a fresh adapter [8]
    #[arg(long, value_name = "R")]
    lora_r: Option<usize>,
    /// Scale of a fresh adapter: the product is multiplied by lora_alpha / r [16]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    lora_alpha: Option<f64>,
    /// Modules of a fresh adapter, comma-separated, or all-linear [all seven projections]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    target_modules: Option<Vec<String>>,
    /// Scale by lora_alpha / sqrt(r) instead
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    use_rslora: Option<bool>,
    /// Curves for TensorBoard in --output [true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    tensorboard: Option<bool>,
    /// A table metrics.csv in --output, beside metrics.jsonl
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    csv: Option<bool>,
}

/// All settings, from a file, flags, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    pub model: Option<String>,
    pub offline: Option<bool>,
    pub adapter: Option<PathBuf>,
    pub system: Option<PathBuf>,
    pub override_team: Option<bool>,
    pub channel: Option<ChannelConfig>,
    pub topology: Option<Topology>,
    pub num_vectors: Option<usize>,
    pub vector_dim: Option<usize>,
    pub vector_heads: Option<usize>,
    pub cross_attention_layers: Option<Vec<usize>>,
    pub encoder_position_prior: Option<bool>,
    pub overwrite_update: Option<OverwriteUpdate>,
    pub message_tokens: Option<usize>,
    pub latent_steps: Option<usize>,
    pub transmit: Option<Transmit>,
    pub feed: Option<FeedKind>,
    pub adapter_scope: Option<AdapterScope>,
    pub think: Option<Thinking>,
    pub batch_size: Option<usize>,
    pub dtype: Option<WeightDtype>,
    pub precision: Option<ComputeDtype>,
    pub backend: Option<String>,
    pub device_index: Option<usize>,
    pub data: Option<PathBuf>,
    pub eval_data: Option<PathBuf>,
    pub output: Option<PathBuf>,
    #[serde(deserialize_with = "finite")]
    pub learning_rate: Option<f64>,
    pub gradient_accumulation_steps: Option<usize>,
    pub max_steps: Option<usize>,
    #[serde(deserialize_with = "finite")]
    pub num_train_epochs: Option<f64>,
    pub warmup_steps: Option<usize>,
    pub lr_scheduler_type: Option<LrSchedulerType>,
    #[serde(deserialize_with = "finite")]
    pub max_grad_norm: Option<f64>,
    #[serde(deserialize_with = "finite")]
    pub weight_decay: Option<f64>,
    pub decay: Option<Decay>,
    pub seed: Option<u64>,
    pub save_steps: Option<usize>,
    pub save_total_limit: Option<usize>,
    pub trace_gradient: Option<TraceGradient>,
    pub max_skipped_updates: Option<usize>,
    #[serde(deserialize_with = "finite")]
    pub trajectory_weight: Option<f64>,
    #[serde(deserialize_with = "finite")]
    pub sender_dropout: Option<f64>,
    #[serde(deserialize_with = "finite")]
    pub position_dropout: Option<f64>,
    pub curriculum: Option<Curriculum>,
    #[serde(deserialize_with = "finite")]
    pub initial_competence: Option<f64>,
    pub curriculum_steps: Option<usize>,
    pub phase_preset: Option<PhasePreset>,
    /// What learns when.
    pub phases: Option<Vec<PhaseConfig>>,
    pub lora_r: Option<usize>,
    #[serde(deserialize_with = "finite")]
    pub lora_alpha: Option<f64>,
    pub target_modules: Option<Vec<String>>,
    pub use_rslora: Option<bool>,
    pub tensorboard: Option<bool>,
    pub csv: Option<bool>,
    /// The whole team, as a run's own config.toml holds it; `system` wins.
    pub team: Option<TeamConfig>,
}

impl Options {
    /// The settings of `file` with those of `flags` on top.
    ///
    /// # Errors
    /// If the file cannot be read, has an unknown or misspelt key, a number that is none, or a team that makes no sense.
    pub fn read(file: Option<&Path>, flags: &[Value]) -> Result<Self> {
        let base: Self = file.map(read_toml).transpose()?.unwrap_or_default();
        if let (Some(path), Some(team)) = (file, &base.team) {
            team.validate().map_err(|e| Error::file(path, e))?;
        }
        let mut merged = object(&base)?;
        for flags in flags {
            for (key, value) in flags.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
                let named = base.channel.as_ref().map(|channel| channel.kind.name());
                if key == "channel" && value.as_str() == named {
                    continue; // the file's own choice, which may have a table
                }
                merged.insert(key.clone(), value.clone());
                if key == "system" {
                    merged.remove("team");
                }
            }
        }
        Ok(serde_json::from_value(Value::Object(merged))?)
    }

    /// The value of a setting without which there is nothing to do.
    pub fn required<'a, T>(value: &'a Option<T>, flag: &str) -> Result<&'a T> {
        value
            .as_ref()
            .ok_or_else(|| Error::invalid(format!("--{flag} is required (as a flag or in --config)")))
    }

    /// The files and folders that the settings name as input.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.adapter, &self.system, &self.data, &self.eval_data].into_iter().flatten();
        self.model.as_deref().map(Path::new).into_iter().chain(files.map(PathBuf::as_path))
    }

    /// The settings of `args`, and where a trained team is named, its own.
    ///
    /// # Errors
    /// As for [`Self::read`] and [`Self::of_run`].
    pub fn of_team(args: &TeamArgs, run: Option<&Path>) -> Result<Self> {
        let options = Self::read(args.config.as_deref(), &[flags(args)?])?;
        match run {
            Some(dir) => options.of_run(dir),
            None => Ok(options),
        }
    }

    /// As [`EngineConfig::of_run`], with the held-out data of the run.
    ///
    /// # Errors
    /// As there.
    pub fn of_run(self, dir: &Path) -> Result<Self> {
        let engine = self.engine()?.of_run(dir)?;
        let run = engine.adapter.as_deref().and_then(run_of);
        Ok(Self {
            eval_data: self.eval_data.or(run.and_then(|run| run.eval_data)),
            model: engine.model,
            adapter: engine.adapter,
            think: engine.think,
            dtype: engine.dtype,
            precision: engine.precision,
            ..self
        })
    }

    /// What says which team runs on which model and device.
    ///
    /// # Errors
    /// Never, as long as the fields of the two structs are of the same types.
    pub fn engine(&self) -> Result<EngineConfig> {
        Ok(serde_json::from_value(serde_json::to_value(self)?)?)
    }

    /// Settings of the training loop.
    pub fn train_config(&self) -> Result<TrainConfig> {
        let d = TrainConfig::default();
        let config = TrainConfig {
            learning_rate: self.learning_rate.unwrap_or(d.learning_rate),
            batch_size: self.batch_size.unwrap_or(d.batch_size),
            gradient_accumulation_steps: self
                .gradient_accumulation_steps
                .unwrap_or(d.gradient_accumulation_steps),
            max_steps: self.max_steps,
            num_train_epochs: self.num_train_epochs.unwrap_or(d.num_train_epochs),
            warmup_steps: self.warmup_steps.unwrap_or(d.warmup_steps),
            lr_scheduler_type: self.lr_scheduler_type.unwrap_or(d.lr_scheduler_type),
            max_grad_norm: self.max_grad_norm.unwrap_or(d.max_grad_norm),
            weight_decay: self.weight_decay.unwrap_or(d.weight_decay),
            decay: self.decay.unwrap_or(d.decay),
            seed: self.seed.unwrap_or(d.seed),
            save_steps: self.save_steps.unwrap_or(d.save_steps),
            save_total_limit: self.save_total_limit,
            trace_gradient: self.trace_gradient.unwrap_or(d.trace_gradient),
            max_skipped_updates: self.max_skipped_updates.unwrap_or(d.max_skipped_updates),
            trajectory_weight: self.trajectory_weight.unwrap_or(d.trajectory_weight),
            sender_dropout: self.sender_dropout.unwrap_or(d.sender_dropout),
            position_dropout: self.position_dropout.unwrap_or(d.position_dropout),
            curriculum: self.curriculum.clone().unwrap_or(d.curriculum),
            initial_competence: self.initial_competence.unwrap_or(d.initial_competence),
            curriculum_steps: self.curriculum_steps,
            phase_preset: self.phase_preset.unwrap_or(d.phase_preset),
            phases: self.phases.clone().unwrap_or(d.phases),
        };
        config.validate()?;
        Ok(config)
    }

    /// The settings with every default written out and the team inside, as `config.toml` of a run holds them.
    pub fn resolved(mut self, team: &TeamConfig, config: &TrainConfig, backend: BackendKind) -> Result<Self> {
        let mut all = object(&self)?;
        all.extend(object(config)?.into_iter().filter(|(_, v)| !v.is_null()));
        self = serde_json::from_value(Value::Object(all))?;
        self.channel = Some(team.channel.clone());
        self.latent_steps = None;
        self.transmit = None;
        self.feed = None;
        self.topology = None;
        self.num_vectors = None;
        self.vector_dim = None;
        self.vector_heads = None;
        self.cross_attention_layers = None;
        self.encoder_position_prior = None;
        self.overwrite_update = None;
        self.message_tokens = None;
        self.system = None;
        self.offline = None; // of this machine now, not of the run
        self.team = Some(team.clone());
        self.backend = Some(backend.to_string());
        let Precision { weights, compute } = self.engine()?.load_precision();
        (self.dtype, self.precision) = (Some(weights), Some(compute));
        let paths = [&mut self.data, &mut self.eval_data, &mut self.adapter].into_iter().flatten();
        for path in paths.filter(|path| path.exists()) {
            *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
        }
        if let Some(model) = &mut self.model
            && Path::new(model.as_str()).exists()
            && let Ok(path) = std::path::absolute(&*model)
        {
            *model = path.display().to_string();
        }
        Ok(self)
    }
}

/// TOML has `nan` and `inf`, which would pass for an absent setting when flags are laid over the file.
fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<f64>, D::Error> {
    match Option::<f64>::deserialize(deserializer)? {
        Some(x) if !x.is_finite() => Err(serde::de::Error::custom(format!("{x} is not a finite number"))),
        x => Ok(x),
    }
}

/// One of the names of `T`, which help and errors list.
pub fn one_of<T: NamedEnum>() -> impl TypedValueParser<Value = T> {
    let names = T::choices().into_iter().map(|(name, what)| PossibleValue::new(name).help(what));
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

/// A number that is one: no `nan`, no `inf`.
pub fn number(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err("it must be a finite number".into()),
    }
}

/// Flags as the object that [`Options::read`] takes.
pub fn flags(args: &impl Serialize) -> Result<Value> {
    object(args).map(Value::Object)
}

fn object(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(map) => Ok(map),
        _ => unreachable!("settings are a struct"),
    }
}

#[cfg(test)]
mod tests {
    use diffmas::backbone::ParameterGroup;
    use diffmas::backends::ModelBackend;
    use diffmas::communication::{ChannelPair, ChannelType, TeamSizes, TraceChannel, register};

    use super::*;

    /// A channel with a table and a group of its own.
    struct Ring;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct RingSettings {
        width: usize,
    }

    impl Default for RingSettings {
        fn default() -> Self {
            Self { width: 3 }
        }
    }

    impl ChannelType for Ring {
        const NAME: &'static str = "ring";
        const ABOUT: &'static str = "The trace, with a table.";
        const SEGMENTS: bool = true;
        const GROUPS: &'static [ParameterGroup] = &[ParameterGroup::named("spokes")];
        type Settings = RingSettings;

        fn build<B: ModelBackend>(_settings: RingSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
            ChannelPair::new(TraceChannel)
        }
    }

    #[test]
    fn flags_win_over_the_file_and_every_flag_is_a_key_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "learning_rate = 0.5\nbatch_size = 3\ntrace_gradient = \"last:1\"\n").unwrap();
        let args = TrainArgs { learning_rate: Some(0.25), ..TrainArgs::default() };
        let o = Options::read(Some(&path), &[flags(&args).unwrap()]).unwrap();
        assert_eq!((o.learning_rate, o.batch_size), (Some(0.25), Some(3)));
        assert_eq!(o.trace_gradient, Some(TraceGradient::Last(1)));
        let keys = object(&Options::default()).unwrap();
        for flags in [object(&TrainArgs::default()).unwrap(), object(&TeamArgs::default()).unwrap()] {
            assert!(flags.keys().all(|k| keys.contains_key(k)));
        }
    }

    #[test]
    fn every_recipe_is_understood_and_starts_with_its_command() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut recipes = 0;
        for entry in std::fs::read_dir(root.join("runs")).unwrap() {
            let path = entry.unwrap().path();
            let options = Options::read(Some(&path), &[]).unwrap();
            let engine = options.engine().unwrap();
            engine.overridden(engine.stated_team().unwrap().unwrap_or_else(TeamConfig::preset)).unwrap();
            options.train_config().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let (first, name) = (text.lines().next().unwrap(), path.file_name().unwrap().to_str().unwrap());
            assert!(first.starts_with("# cargo run --release"), "{name}: {first}");
            assert!(first.contains(&format!(" train --config runs/{name}")), "{name}: {first}");
            recipes += 1;
        }
        assert!(recipes > 0);
    }

    #[test]
    fn a_registered_channel_is_named_by_flag_or_file_and_keeps_its_table() {
        let kind = register::<Ring>().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let team = |file: &str, flag: Option<&str>| {
            std::fs::write(&path, file).unwrap();
            let args = TeamArgs { channel: flag.map(|name| name.parse().unwrap()), ..TeamArgs::default() };
            let o = Options::read(Some(&path), &[flags(&args).unwrap()]).unwrap();
            let engine = o.engine().unwrap();
            let stated = engine.stated_team().unwrap();
            let team = engine.overridden(stated.unwrap_or_else(TeamConfig::preset)).unwrap();
            let resolved = o.resolved(&team, &TrainConfig::default(), BackendKind::default_kind().unwrap());
            std::fs::write(&path, toml::to_string(&resolved.unwrap()).unwrap()).unwrap();
            let again = Options::read(Some(&path), &[]).unwrap().engine().unwrap();
            assert_eq!(again.stated_team().unwrap().unwrap(), team);
            team.channel
        };
        let width = |channel: &ChannelConfig| channel.settings().get("width").cloned();
        let named = team("", Some(Ring::NAME));
        assert_eq!((named.kind, width(&named)), (kind, Some(3.into())));
        let table = format!("[channel.{}]\nwidth = 5\n", Ring::NAME);
        for flag in [None, Some(Ring::NAME)] {
            assert_eq!(width(&team(&table, flag)), Some(5.into()));
            let inside = format!("[team.channel.{}]\nwidth = 5\n[[team.agents]]\nname = \"a\"\n", Ring::NAME);
            assert_eq!(width(&team(&inside, flag)), Some(5.into()));
        }
        assert_eq!(team(&table, Some("vectors")), ChannelKind::VECTORS.into());
        let phase = |part: &str| {
            std::fs::write(&path, format!("[[phases]]\nname = \"a\"\ntrain = [\"{part}\"]\n")).unwrap();
            Options::read(Some(&path), &[]).map_err(|e| e.to_string())
        };
        phase("spokes").unwrap();
        let error = phase("spoke").unwrap_err();
        assert!(
            error.contains("line 3: unknown part `spoke`; did you mean `spokes`? (known: lora, "),
            "{error}"
        );
    }

    #[test]
    fn resolved_settings_read_back_as_the_same_run() {
        let mut o = Options { model: Some("m".into()), latent_steps: Some(3), ..Options::default() };
        let team = o.engine().unwrap().overridden(TeamConfig::preset()).unwrap();
        let config = o.train_config().unwrap();
        o = o.resolved(&team, &config, BackendKind::default_kind().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, toml::to_string(&o).unwrap()).unwrap();
        let again = Options::read(Some(&path), &[]).unwrap();
        assert_eq!(again, o);
        assert_eq!(
            (again.engine().unwrap().stated_team().unwrap(), again.train_config().unwrap()),
            (Some(team), config)
        );
    }
}
