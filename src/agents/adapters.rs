//! Which adapter is active in whose passes.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::TeamConfig;
use crate::backbone::{
    Adapter, AdapterLayout, Backbone, BackboneConfig, ParameterGroup, ParameterSpec, Parameters,
};
use crate::checkpoint::AdapterConfig;
use crate::error::{Error, Result};

named_enum! {
    /// Which roles an adapter is active in.
    AdapterScope, "adapter scope" {
        /// One adapter for all roles.
        #[default]
        Shared = "shared",
        /// Each role's own adapter, in that role's passes.
        PerRole = "per_role",
        /// One adapter, in the final agent's passes only.
        FinalOnly = "final_only",
    }
}

/// The name of the adapter that is not a single role's.
const SHARED: &str = "default";

/// What stands before the names of an adapter's factors among the parameters of a team.
fn prefix(name: &str) -> String {
    format!("adapter.{name}.")
}

/// All adapters of a team, without their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterSet {
    /// Which roles they are active in.
    pub scope: AdapterScope,
    /// By role for `per_role`, else under one name.
    pub adapters: BTreeMap<String, AdapterLayout>,
}

impl AdapterSet {
    /// No adapter at all: every role runs the bare backbone.
    pub fn none() -> Self {
        Self::default()
    }

    /// The adapters that `scope` asks for, all of the shape `config`, in a model of the sizes `model`.
    ///
    /// # Errors
    /// If `config` makes no sense or targets no layer of the model.
    pub fn new(
        scope: AdapterScope,
        config: &AdapterConfig,
        team: &TeamConfig,
        model: &BackboneConfig,
    ) -> Result<Self> {
        let layout = AdapterLayout::new(config.clone(), model)?;
        let adapters = Self::names(scope, team).into_iter().map(|name| (name, layout.clone())).collect();
        Ok(Self { scope, adapters })
    }

    /// The names of the adapters that `scope` asks for.
    fn names(scope: AdapterScope, team: &TeamConfig) -> Vec<String> {
        match scope {
            AdapterScope::PerRole => team.agents.iter().map(|a| a.name.clone()).collect(),
            AdapterScope::Shared | AdapterScope::FinalOnly => vec![SHARED.to_string()],
        }
    }

    /// The name of the adapter that is active in the passes of agent `j`, where one is.
    pub fn of<'a>(&'a self, team: &TeamConfig, j: usize) -> Option<&'a str> {
        let name = match self.scope {
            AdapterScope::Shared => SHARED,
            AdapterScope::PerRole => &team.agents[j].name,
            AdapterScope::FinalOnly if j + 1 == team.agents.len() => SHARED,
            AdapterScope::FinalOnly => return None,
        };
        self.adapters.get_key_value(name).map(|(name, _)| name.as_str())
    }

    /// The adapter `name` with its factors among `parameters`.
    ///
    /// # Panics
    /// If there is no such adapter, or a factor is missing.
    pub(super) fn bind<B: Backend>(&self, name: &str, parameters: &Parameters<B>) -> Adapter<B> {
        self.adapters[name].bind(&parameters.within(&prefix(name)))
    }

    /// What the factors of all adapters are.
    pub fn specs(&self) -> Vec<ParameterSpec> {
        let of_adapter = |(name, adapter): (&String, &AdapterLayout)| {
            let spec = |(factor, shape): (String, [usize; 2])| {
                ParameterSpec::new(format!("{}{factor}", prefix(name)), shape, ParameterGroup::LORA)
            };
            adapter.shapes().into_iter().map(spec).collect::<Vec<_>>()
        };
        self.adapters.iter().flat_map(of_adapter).collect()
    }

    /// Fresh factors, `adapter.{role or default}.{module path}.lora_A` and `.lora_B`; each role's start from its own draw.
    pub fn init<B: Backend>(
        &self,
        team: &TeamConfig,
        model: &BackboneConfig,
        seed: u64,
        device: &B::Device,
    ) -> Parameters<B> {
        let mut all = Parameters::default();
        for (role, name) in Self::names(self.scope, team).iter().enumerate() {
            if let Some(adapter) = self.adapters.get(name) {
                all.extend(adapter.init(model, seed, role, device).under(&prefix(name)));
            }
        }
        all
    }

    /// Whether `dir` holds an adapter, or one for a role in a folder of its own.
    pub(crate) fn is_in(dir: &Path, team: &TeamConfig) -> bool {
        let has = |folder: &Path| folder.join("adapter_config.json").exists();
        has(dir) || team.agents.iter().any(|a| has(&dir.join(&a.name)))
    }

    /// Reads adapters and their factors from a PEFT folder, or for `per_role` from one PEFT folder a role inside it.
    ///
    /// Without a `scope`, a folder that has no adapter of its own but one for a role is read as `per_role`. One plain adapter is
    /// where each role starts from if `per_role` is asked for.
    ///
    /// # Errors
    /// If a folder is missing or does not fit `model`, or replaces modules of it and is not for all roles.
    pub fn read<B: ModelBackend>(
        dir: &Path,
        scope: Option<AdapterScope>,
        team: &TeamConfig,
        model: &Backbone<B>,
    ) -> Result<(Self, Parameters<B>)> {
        if !dir.is_dir() {
            return Err(Error::file(dir, "there is no such adapter folder"));
        }
        let plain = dir.join("adapter_config.json").exists();
        let nested = team.agents.iter().any(|a| dir.join(&a.name).join("adapter_config.json").exists());
        let scope =
            scope.unwrap_or(if nested && !plain { AdapterScope::PerRole } else { AdapterScope::Shared });
        let (mut adapters, mut all) = (BTreeMap::new(), Parameters::default());
        for name in Self::names(scope, team) {
            let folder =
                if scope == AdapterScope::PerRole && !plain { dir.join(&name) } else { dir.to_path_buf() };
            let (adapter, factors) = AdapterLayout::read(&folder, model)?;
            if scope != AdapterScope::Shared && !adapter.config.modules_to_save.is_empty() {
                let why = format!(
                    "the field `modules_to_save` is set, but the adapter is not for all roles (`{scope}`), which share the model's modules"
                );
                return Err(Error::file(folder, why));
            }
            all.extend(factors.under(&prefix(&name)));
            adapters.insert(name, adapter);
        }
        Ok((Self { scope, adapters }, all))
    }

    /// Writes the adapters with their factors among `parameters` as PEFT folders: into `dir`, or for `per_role` one folder a role inside it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write<B: Backend>(&self, dir: &Path, parameters: &Parameters<B>) -> Result<()> {
        for (name, adapter) in &self.adapters {
            let folder = if self.scope == AdapterScope::PerRole { dir.join(name) } else { dir.to_path_buf() };
            adapter.to_file(&parameters.within(&prefix(name))).write(&folder)?;
        }
        Ok(())
    }
}
