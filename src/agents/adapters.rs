//! Which adapter is active in whose passes.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};

use super::TeamConfig;
use crate::backbone::{Adapter, Backbone, Lora, Parameters};
use crate::checkpoint::AdapterConfig;
use crate::error::{Error, Result};

/// Which roles an adapter is active in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum AdapterScope {
    /// One adapter for all roles.
    #[default]
    Shared,
    /// Each role's own adapter, in that role's passes.
    PerRole,
    /// One adapter, in the final agent's passes only.
    FinalOnly,
}

/// The name of the adapter that is not a single role's.
const SHARED: &str = "default";

/// All adapters of a team.
#[derive(Clone, Debug)]
pub struct AdapterSet<B: Backend> {
    /// Which roles they are active in.
    pub scope: AdapterScope,
    /// By role for `per_role`, else under one name.
    pub adapters: BTreeMap<String, Adapter<B>>,
}

impl<B: Backend> AdapterSet<B> {
    /// No adapter at all: every role runs the bare backbone.
    pub fn none() -> Self {
        Self { scope: AdapterScope::Shared, adapters: BTreeMap::new() }
    }

    /// The adapter active in the passes of agent `j`.
    pub fn of(&self, team: &TeamConfig, j: usize) -> Option<&Adapter<B>> {
        match self.scope {
            AdapterScope::Shared => self.adapters.get(SHARED),
            AdapterScope::PerRole => self.adapters.get(&team.agents[j].name),
            AdapterScope::FinalOnly if j + 1 == team.agents.len() => self.adapters.get(SHARED),
            AdapterScope::FinalOnly => None,
        }
    }

    /// Every factor by name: `adapter.{role or default}.{module}.lora_A`.
    pub fn parameters(&self) -> Parameters<B> {
        let mut all = Parameters::default();
        for (name, adapter) in &self.adapters {
            for (path, lora) in &adapter.factors {
                all.insert(format!("adapter.{name}.{path}.lora_A"), lora.a.clone());
                all.insert(format!("adapter.{name}.{path}.lora_B"), lora.b.clone());
            }
        }
        all
    }

    /// The same adapters with the values of `parameters`, on whichever backend those live.
    ///
    /// # Panics
    /// If a factor is missing there.
    pub fn bind<C: Backend>(&self, parameters: &Parameters<C>) -> AdapterSet<C> {
        let adapters = self
            .adapters
            .iter()
            .map(|(name, adapter)| {
                let get =
                    |path: &str, part: &str| parameters.get(&format!("adapter.{name}.{path}.{part}")).clone();
                let factors = adapter
                    .factors
                    .iter()
                    .map(|(path, lora)| {
                        let (a, b) = (get(path, "lora_A"), get(path, "lora_B"));
                        (path.clone(), Lora { a, b, scaling: lora.scaling })
                    })
                    .collect();
                (name.clone(), Adapter { config: adapter.config.clone(), factors })
            })
            .collect();
        AdapterSet { scope: self.scope, adapters }
    }
}

impl<B: ModelBackend> AdapterSet<B> {
    /// The names of the adapters that `scope` asks for.
    fn names(scope: AdapterScope, team: &TeamConfig) -> Vec<String> {
        match scope {
            AdapterScope::PerRole => team.agents.iter().map(|a| a.name.clone()).collect(),
            AdapterScope::Shared | AdapterScope::FinalOnly => vec![SHARED.to_string()],
        }
    }

    /// Fresh adapters; each role's starts from its own draw.
    ///
    /// # Errors
    /// If `config` targets no layer of `backbone`.
    pub fn init(
        scope: AdapterScope,
        config: &AdapterConfig,
        team: &TeamConfig,
        backbone: &Backbone<B>,
        seed: u64,
    ) -> Result<Self> {
        let adapters = Self::names(scope, team)
            .into_iter()
            .enumerate()
            .map(|(role, name)| Ok((name, Adapter::init(config.clone(), backbone, seed, role)?)))
            .collect::<Result<_>>()?;
        Ok(Self { scope, adapters })
    }

    /// Whether `dir` holds an adapter, or one for a role in a folder of its own.
    pub fn is_in(dir: &Path, team: &TeamConfig) -> bool {
        let has = |folder: &Path| folder.join("adapter_config.json").exists();
        has(dir) || team.agents.iter().any(|a| has(&dir.join(&a.name)))
    }

    /// Reads adapters from a PEFT folder, or for `per_role` from one PEFT folder a role inside it.
    ///
    /// Without a `scope`, a folder that has no adapter of its own but one for a role is read as `per_role`. One plain adapter is
    /// where each role starts from if `per_role` is asked for.
    ///
    /// # Errors
    /// If a folder is missing or does not fit `backbone`.
    pub fn read(
        dir: &Path,
        scope: Option<AdapterScope>,
        team: &TeamConfig,
        backbone: &Backbone<B>,
    ) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::file(dir, "there is no such adapter folder"));
        }
        let plain = dir.join("adapter_config.json").exists();
        let nested = team.agents.iter().any(|a| dir.join(&a.name).join("adapter_config.json").exists());
        let scope =
            scope.unwrap_or(if nested && !plain { AdapterScope::PerRole } else { AdapterScope::Shared });
        let mut adapters = BTreeMap::new();
        for name in Self::names(scope, team) {
            let folder =
                if scope == AdapterScope::PerRole && !plain { dir.join(&name) } else { dir.to_path_buf() };
            let adapter = Adapter::read(&folder, backbone)?;
            adapters.insert(name, adapter);
        }
        Ok(Self { scope, adapters })
    }

    /// Writes the adapters as PEFT folders: into `dir`, or for `per_role` one folder a role inside it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        for (name, adapter) in &self.adapters {
            let folder = if self.scope == AdapterScope::PerRole { dir.join(name) } else { dir.to_path_buf() };
            adapter.to_file().write(&folder)?;
        }
        Ok(())
    }
}
