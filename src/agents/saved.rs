//! A team's learning on disk: adapters as PEFT stores them, communication modules beside them, and where both come from.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{ModelBackend, host_data};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{AdapterScope, AdapterSet, Base, Origin, SlotPlacement, TeamConfig, TeamLayout, TeamModel};
use crate::backbone::{Backbone, ParameterSpec, Parameters};
use crate::checkpoint::peft::{COMMUNICATION, COMMUNICATION_CONFIG};
use crate::checkpoint::{read_safetensors, write_safetensors};
use crate::communication::ChannelConfig;
use crate::error::{Error, Result};
use crate::files::{MAX_TEXT, read_text, write_atomic};

/// What must be the same in a team that reads communication modules and in the one that wrote them.
#[derive(Debug, Serialize)]
struct CommunicationConfig {
    channel: ChannelConfig,
    hidden_size: usize,
    num_hidden_layers: usize,
    learned_feed: bool,
    /// Slots by role, where there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    slots: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot_placement: Option<SlotPlacement>,
    /// Encoders of what agents see, behind which there are projectors, where there are any: the hash of their file by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    encoders: BTreeMap<&'static str, &'static str>,
    #[serde(flatten)]
    channel_config: Map<String, Value>,
}

impl CommunicationConfig {
    fn of<B: ModelBackend>(model: &TeamModel<B>) -> Self {
        let TeamLayout { config, sizes, .. } = &*model.layout;
        let slots: BTreeMap<_, _> =
            model.layout.slots().map(|(name, count)| (name.to_string(), count)).collect();
        Self {
            channel: config.channel.clone(),
            hidden_size: sizes.hidden_size,
            num_hidden_layers: sizes.num_hidden_layers,
            learned_feed: model.layout.learns_feed(),
            slot_placement: (!slots.is_empty()).then_some(config.slot_placement),
            slots,
            encoders: config.encoders().into_iter().map(|(name, kind)| (name, kind.wheel.sha256)).collect(),
            channel_config: model.channel.inner.config(),
        }
    }
}

impl<B: ModelBackend> TeamModel<B> {
    /// The team that learned what lies in `dir`, and that: adapters (active as `scope` says, else as the folder does), and communication
    /// modules in the folder or the one above. A folder with communication modules alone is enough for a team that learned nothing else.
    ///
    /// # Errors
    /// If the folder lacks something, or does not fit team or backbone.
    pub fn open(
        dir: &Path,
        scope: Option<AdapterScope>,
        config: TeamConfig,
        backbone: Backbone<B>,
    ) -> Result<(Self, Parameters<B>)> {
        let bare = Self::new(config, AdapterSet::none(), backbone);
        let modules = bare.module_specs();
        let config = &bare.layout.config;
        let (adapters, mut parameters) = if !modules.is_empty() && !AdapterSet::is_in(dir, config) {
            (AdapterSet::none(), Parameters::default())
        } else {
            AdapterSet::read(dir, scope, config, &bare.backbone)?
        };
        if !modules.is_empty() {
            let beside = dir.parent().unwrap_or(Path::new("."));
            let found = match bare.read_modules(dir, &modules)? {
                None => bare.read_modules(beside, &modules)?,
                found => found,
            };
            parameters.extend(found.ok_or_else(|| {
                Error::file(
                    dir,
                    "this team needs communication.safetensors (its channel, learned feed, slots or projector) in this folder or the one above",
                )
            })?);
        }
        Ok((bare.with_adapters(adapters), parameters))
    }

    /// Writes all that the team has learned into `dir`: adapters as PEFT stores them, the communication modules, and where both come from.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path, parameters: &Parameters<B>, base: Option<&Base>) -> Result<()> {
        self.layout.adapters.write(dir, parameters)?;
        self.write_modules(dir, parameters)?;
        match base {
            Some(base) => Origin { team: self.layout.config.clone(), base: base.clone() }.write(dir),
            None => Ok(()),
        }
    }

    /// Reads what [`TeamModel::write`] left in `dir`.
    ///
    /// # Errors
    /// If a file is missing, damaged, or of another team.
    pub fn read(&self, dir: &Path) -> Result<Parameters<B>> {
        let TeamLayout { config, adapters, .. } = &*self.layout;
        let mut parameters = Parameters::default();
        if !adapters.adapters.is_empty() {
            let scope = Some(adapters.scope);
            let (_, factors) = AdapterSet::read(dir, scope, config, &self.backbone)?;
            parameters.extend(factors);
        }
        let specs = self.module_specs();
        if !specs.is_empty() {
            let modules = self.read_modules(dir, &specs)?;
            parameters
                .extend(modules.ok_or_else(|| Error::file(dir, format!("there is no {COMMUNICATION}")))?);
        }
        Ok(parameters)
    }

    /// Writes what the team learns beside its adapters, where it learns anything.
    fn write_modules(&self, dir: &Path, parameters: &Parameters<B>) -> Result<()> {
        let host = |spec: ParameterSpec| {
            let values = host_data(parameters.get(&spec.name).clone()).iter::<f32>().collect();
            (spec.name, (spec.shape.to_vec(), values))
        };
        let tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> =
            self.module_specs().into_iter().map(host).collect();
        if tensors.is_empty() {
            return Ok(());
        }
        write_safetensors(&dir.join(COMMUNICATION), &tensors, None)?;
        let text =
            serde_json::to_string_pretty(&CommunicationConfig::of(self)).map_err(|e| Error::file(dir, e))?;
        write_atomic(&dir.join(COMMUNICATION_CONFIG), text.as_bytes())
    }

    /// The communication modules in `dir`, which are to be those of `specs`; none where there are none.
    ///
    /// # Errors
    /// If the files are damaged, or of another channel, model or team, naming the setting that differs.
    fn read_modules(&self, dir: &Path, specs: &[ParameterSpec]) -> Result<Option<Parameters<B>>> {
        let (path, settings) = (dir.join(COMMUNICATION), dir.join(COMMUNICATION_CONFIG));
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&settings, MAX_TEXT).map_err(|e| Error::file(&settings, e))?;
        let mut theirs: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| Error::file(&settings, e))?;
        // Modules that were written before it could be set have it.
        theirs.entry("encoder_position_prior").or_insert(Value::Bool(true));
        let ours =
            serde_json::to_value(CommunicationConfig::of(self)).map_err(|e| Error::file(&settings, e))?;
        for (field, ours) in ours.as_object().into_iter().flatten() {
            let theirs = theirs.get(field).unwrap_or(&Value::Null);
            if theirs != ours {
                return Err(Error::file(
                    &settings,
                    format!(
                        "these communication modules are of another team: their `{field}` is {theirs}, here it is {ours}"
                    ),
                ));
            }
        }
        let mut stored = read_safetensors(&path)?;
        let one = |ParameterSpec { name, shape: wanted, .. }: &ParameterSpec| match stored.remove(name) {
            Some((shape, data)) if shape == wanted => {
                if !data.iter().all(|x| x.is_finite()) {
                    return Err(Error::file(&path, format!("`{name}` holds a number that is not finite")));
                }
                let data = TensorData::new(data, *wanted);
                Ok((name.clone(), Tensor::from_data(data, &self.backbone.device())))
            }
            Some((shape, _)) => {
                Err(Error::file(&path, format!("`{name}` is {shape:?}, but this team needs {wanted:?}")))
            }
            None => Err(Error::file(&path, format!("there is no tensor `{name}`"))),
        };
        let read = specs.iter().map(one).collect::<Result<Parameters<B>>>()?;
        match stored.into_keys().next() {
            Some(name) => Err(Error::file(&path, format!("the tensor `{name}` is none of this team's"))),
            None => Ok(Some(read)),
        }
    }
}
