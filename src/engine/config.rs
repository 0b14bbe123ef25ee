//! Which team runs, on which model and device. The fields have the names of the keys in a configuration file.

use std::path::{Path, PathBuf};

use diffmas_backends::BackendKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agents::{
    AdapterScope, ChannelConfig, FeedKind, MessageDtype, OverwriteUpdate, SlotPlacement, TeamConfig,
    Topology, Transmit,
};
use crate::backbone::{ComputeDtype, Precision, WeightDtype};
use crate::error::Result;
use crate::files::from_root;
use crate::settings::{Layer, Section, lay_over};
use crate::text::Thinking;

/// Samples that run together, where nothing else is said.
const BATCH_SIZE: usize = 8;

/// Which team runs, on which model and device. What is not set has its default, or is what an adapter says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineConfig {
    /// A Hugging Face folder, a `.gguf` file, a name on the Hugging Face hub, or a known name; without one, the model that the adapter
    /// was trained on.
    pub model: Option<String>,
    /// Whether nothing is fetched: model and adapter must be here or cached.
    pub offline: Option<bool>,
    /// What a team learned: a folder, or a name on the Hugging Face hub.
    pub adapter: Option<PathBuf>,
    /// A team file; wins over `team`.
    pub system: Option<PathBuf>,
    /// Runs the adapter in the team of `system` or `team`, although it was trained in another.
    pub override_team: Option<bool>,
    /// What agents pass on, in place of the team's own channel.
    pub channel: Option<ChannelConfig>,
    /// Who reads whom, in place of the team's own.
    pub topology: Option<Topology>,
    /// Vectors of a message, in place of the team's own.
    pub num_vectors: Option<usize>,
    /// Width of a vector, in place of the team's own.
    pub vector_dim: Option<usize>,
    /// Heads of communication encoder and cross-agent attention, in place of the team's own.
    pub vector_heads: Option<usize>,
    /// Layers with cross-agent attention, in place of the team's own.
    pub cross_attention_layers: Option<Vec<usize>>,
    /// Whether a query of the encoder prefers its own part of the rollout, in place of the team's own.
    pub encoder_position_prior: Option<bool>,
    /// How a state of the channel `overwrite` is replaced, in place of the team's own.
    pub overwrite_update: Option<OverwriteUpdate>,
    /// Most tokens of a message on the channel `text`, in place of the team's and its agents' own.
    pub message_tokens: Option<usize>,
    /// Latent steps of every upstream agent, in place of the team's and its agents' own.
    pub latent_steps: Option<usize>,
    /// Which positions go into a message, in place of the team's and its agents' own.
    pub transmit: Option<Transmit>,
    /// How a hidden state becomes the next input, in place of the team's and its agents' own.
    pub feed: Option<FeedKind>,
    /// Where slots stand in a prompt, in place of the team's own.
    pub slot_placement: Option<SlotPlacement>,
    /// What the numbers of messages are rounded to, in place of the team's own.
    pub message_dtype: Option<MessageDtype>,
    /// Which roles the adapter is active in; without it, those that it was trained in.
    pub adapter_scope: Option<AdapterScope>,
    /// What the chat template is told of thinking before the answer.
    pub think: Option<Thinking>,
    /// Data lines that run together, each with all its questions; 8 where it is absent.
    pub batch_size: Option<usize>,
    /// How the model's weights are stored.
    pub dtype: Option<WeightDtype>,
    /// What is computed in.
    pub precision: Option<ComputeDtype>,
    /// Name of the backend; the first with a usable device where it is absent.
    pub backend: Option<String>,
    /// Which of the backend's devices; the first where it is absent.
    pub device: Option<usize>,
    /// The team itself.
    pub team: Option<TeamConfig>,
    /// Seed of fresh adapters and modules; 42 where it is absent.
    pub seed: Option<u64>,
}

/// Another team on the weights of an engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeamChoice {
    /// The team; without one, that of the adapter, else the built-in one.
    pub team: Option<TeamConfig>,
    /// What the team learned: a folder, or a name on the Hugging Face hub.
    pub adapter: Option<PathBuf>,
    /// Which roles the adapter is active in; without it, those that it was trained in.
    pub adapter_scope: Option<AdapterScope>,
    /// Runs the adapter in `team`, although it was trained in another.
    pub override_team: Option<bool>,
}

impl EngineConfig {
    /// The built-in team, untrained, on the model of this name or path.
    pub fn of_model(name: impl Into<String>) -> Self {
        Self { model: Some(name.into()), ..Self::default() }
    }

    /// The team that these settings name, if they do.
    ///
    /// # Errors
    /// If the team file makes no sense.
    pub fn stated_team(&self) -> Result<Option<TeamConfig>> {
        match (&self.system, &self.team) {
            (Some(path), _) => TeamConfig::read(path).map(Some),
            (None, team) => Ok(team.clone()),
        }
    }

    /// `team` with the settings that stand in place of its own.
    ///
    /// # Errors
    /// If the combination makes no sense.
    pub fn overridden(&self, team: TeamConfig) -> Result<TeamConfig> {
        let mut stated = Layer::of(self)?.take(Section::of::<TeamConfig>().keys).values;
        // Its name alone does not take the table of the team's own channel away.
        if let Some(channel) = self.channel.as_ref().filter(|c| **c == ChannelConfig::from(c.kind)) {
            stated.insert("channel".into(), channel.kind.name().into());
        }
        let mut table = Layer::of(&team)?.values;
        let agents = table.get_mut("agents").and_then(Value::as_array_mut).into_iter().flatten();
        for agent in agents.filter_map(Value::as_object_mut) {
            // A setting speaks for the whole team, also for agents that the file gives a value of their own.
            agent.retain(|key, _| !stated.contains_key(key));
            if self.topology.is_some_and(|topology| topology != Topology::Graph) {
                agent.shift_remove("reads");
            }
        }
        lay_over(&mut table, stated);
        serde_json::from_value::<TeamConfig>(table.into())?.ordered()
    }

    /// These settings with `team` as a whole in place of its file and of what stands in place of its own settings.
    pub fn with_team(self, team: TeamConfig) -> Self {
        Self {
            team: Some(team),
            model: self.model,
            offline: self.offline,
            adapter: self.adapter,
            override_team: self.override_team,
            adapter_scope: self.adapter_scope,
            think: self.think,
            batch_size: self.batch_size,
            dtype: self.dtype,
            precision: self.precision,
            backend: self.backend,
            device: self.device,
            seed: self.seed,
            ..Self::default()
        }
    }

    /// These settings with `team` inside, every default of a run written out, and paths from the root: as the `config.toml` of a run holds
    /// them.
    ///
    /// # Errors
    /// If the backend is not compiled in.
    pub fn resolved(&self, team: &TeamConfig) -> Result<Self> {
        let model = self.model.as_deref().map(|name| from_root(Path::new(name)).display().to_string());
        let Precision { weights, compute } = self.load_precision();
        Ok(Self {
            model,
            offline: None, // of this machine now, not of the run
            adapter: self.adapter.as_deref().map(from_root),
            backend: Some(self.backend()?.to_string()),
            dtype: Some(weights),
            precision: Some(compute),
            ..self.clone().with_team(team.clone())
        })
    }

    /// The files and folders that the settings name as input.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.adapter, &self.system].into_iter().flatten().map(PathBuf::as_path);
        self.model.as_deref().map(Path::new).into_iter().chain(files)
    }

    /// The backend asked for, or the first with a usable device.
    ///
    /// # Errors
    /// If it is not compiled in.
    pub fn backend(&self) -> Result<BackendKind> {
        Ok(match &self.backend {
            Some(name) => name.parse(),
            None => BackendKind::automatic(self.device),
        }?)
    }

    /// How the model is loaded.
    pub fn load_precision(&self) -> Precision {
        Precision { weights: self.dtype.unwrap_or_default(), compute: self.precision.unwrap_or_default() }
    }

    /// Samples that run together.
    pub fn batch_size(&self) -> usize {
        self.batch_size.unwrap_or(BATCH_SIZE)
    }
}
