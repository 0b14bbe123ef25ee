//! A team's learning on disk: adapters as PEFT stores them, communication modules beside them, and where both come from.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AdapterScope, AdapterSet, Base, Origin, TeamConfig, TeamLayout, TeamModel};
use crate::backbone::{Backbone, Parameters};
use crate::checkpoint::peft::{COMMUNICATION, COMMUNICATION_CONFIG};
use crate::checkpoint::{read_safetensors, write_atomic, write_safetensors};
use crate::communication::{ChannelKind, OverwriteUpdate, VectorsConfig};
use crate::error::{Error, Result};
use crate::input;

/// What must be the same in a team that reads communication modules and in the one that wrote them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct CommunicationConfig {
    channel: ChannelKind,
    hidden_size: usize,
    num_hidden_layers: usize,
    learned_feed: bool,
    #[serde(flatten)]
    vectors: Option<VectorsConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overwrite_update: Option<OverwriteUpdate>,
}

impl CommunicationConfig {
    fn of(layout: &TeamLayout) -> Self {
        let TeamLayout { config, sizes, .. } = layout;
        Self {
            channel: config.channel,
            hidden_size: sizes.hidden_size,
            num_hidden_layers: sizes.num_hidden_layers,
            learned_feed: layout.learns_feed(),
            vectors: config.vectors(sizes.num_hidden_layers),
            overwrite_update: (config.channel == ChannelKind::Overwrite).then_some(config.overwrite_update),
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
        let device = backbone.device();
        let bare = Self::new(config, AdapterSet::none(), backbone);
        let fresh = bare.init_modules(0);
        let (config, sizes) = (&bare.layout.config, &bare.layout.sizes);
        let (adapters, mut parameters) = if !fresh.is_empty() && !AdapterSet::is_in(dir, config) {
            (AdapterSet::none(), Parameters::default())
        } else {
            AdapterSet::read(dir, scope, config, sizes, &device)?
        };
        if !fresh.is_empty() {
            let beside = dir.parent().unwrap_or(Path::new("."));
            let found = match bare.read_modules(dir, &fresh)? {
                None => bare.read_modules(beside, &fresh)?,
                found => found,
            };
            parameters.extend(found.ok_or_else(|| {
                Error::file(
                    dir,
                    "this team needs communication.safetensors (its channel or learned feed) in this folder or the one above",
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
        let TeamLayout { config, adapters, sizes } = &*self.layout;
        let mut parameters = Parameters::default();
        if !adapters.adapters.is_empty() {
            let scope = Some(adapters.scope);
            let (_, factors) = AdapterSet::read(dir, scope, config, sizes, &self.backbone.device())?;
            parameters.extend(factors);
        }
        let fresh = self.init_modules(0);
        if !fresh.is_empty() {
            let modules = self.read_modules(dir, &fresh)?;
            parameters
                .extend(modules.ok_or_else(|| Error::file(dir, format!("there is no {COMMUNICATION}")))?);
        }
        Ok(parameters)
    }

    /// Writes what the team learns beside its adapters, where it learns anything.
    fn write_modules(&self, dir: &Path, parameters: &Parameters<B>) -> Result<()> {
        let modules = parameters.iter().filter(|(name, _)| !name.starts_with("adapter."));
        let host = |(name, value): (&String, &Tensor<B, 2>)| {
            (name.clone(), (value.dims().to_vec(), value.to_data().iter::<f32>().collect()))
        };
        let tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = modules.map(host).collect();
        if tensors.is_empty() {
            return Ok(());
        }
        write_safetensors(&dir.join(COMMUNICATION), &tensors, None)?;
        let text = serde_json::to_string_pretty(&CommunicationConfig::of(&self.layout))
            .map_err(|e| Error::file(dir, e))?;
        write_atomic(&dir.join(COMMUNICATION_CONFIG), text.as_bytes())
    }

    /// The communication modules in `dir`, named and shaped like `fresh` ones; none where there are none.
    ///
    /// # Errors
    /// If the files are damaged, or of another channel, model or team, naming the setting that differs.
    fn read_modules(&self, dir: &Path, fresh: &Parameters<B>) -> Result<Option<Parameters<B>>> {
        let (path, settings) = (dir.join(COMMUNICATION), dir.join(COMMUNICATION_CONFIG));
        if !path.exists() {
            return Ok(None);
        }
        let text = input::read_text(&settings, input::TEXT).map_err(|e| Error::file(&settings, e))?;
        let mut theirs: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| Error::file(&settings, e))?;
        // Modules that were written before it could be set have it.
        theirs.entry("encoder_position_prior").or_insert(Value::Bool(true));
        let ours = serde_json::to_value(CommunicationConfig::of(&self.layout))
            .map_err(|e| Error::file(&settings, e))?;
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
        let one = |(name, value): (&String, &Tensor<B, 2>)| match stored.remove(name) {
            Some((shape, data)) if shape == value.dims() => {
                if !data.iter().all(|x| x.is_finite()) {
                    return Err(Error::file(&path, format!("`{name}` holds a number that is not finite")));
                }
                let data = TensorData::new(data, value.dims());
                Ok((name.clone(), Tensor::from_data(data, &self.backbone.device())))
            }
            Some((shape, _)) => Err(Error::file(
                &path,
                format!("`{name}` is {shape:?}, but this team needs {:?}", value.dims()),
            )),
            None => Err(Error::file(&path, format!("there is no tensor `{name}`"))),
        };
        let read = fresh.iter().map(one).collect::<Result<Parameters<B>>>()?;
        match stored.into_keys().next() {
            Some(name) => Err(Error::file(&path, format!("the tensor `{name}` is none of this team's"))),
            None => Ok(Some(read)),
        }
    }
}
