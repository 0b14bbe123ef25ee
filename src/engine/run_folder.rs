//! Where in the folder of a run what it learned lies, and which settings stand beside it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::EngineConfig;
use crate::checkpoint::peft::{BASE, CONFIG};
use crate::error::{Error, Result};
use crate::files;
use crate::training::ADAPTER;

/// The settings of a run that wrote an adapter, as far as they matter to who uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFolder {
    /// The run's `config.toml`.
    pub config: PathBuf,
    /// Team, model and device.
    pub engine: EngineConfig,
    /// Held-out data.
    pub eval_data: Option<PathBuf>,
}

impl EngineConfig {
    /// What a trained team says of itself, where these settings do not: the model that `dir`, the folder of a run or an adapter's,
    /// was trained on, how its weights were stored, what its chat template is told, and its adapter.
    ///
    /// # Errors
    /// If the folder holds no trained team.
    pub fn of_run(mut self, dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            let what = if dir.exists() { "this is a file" } else { "there is no such folder" };
            return Err(Error::file(
                dir,
                format!("{what}; give the output folder of `train`, or its `adapter`"),
            ));
        }
        let adapter = learned(dir);
        if !is_learned(&adapter) {
            let why = match dir.join("checkpoints").is_dir() {
                true => {
                    "the run has not ended: it has no `adapter` yet; go on with train --resume, or give one of its checkpoints"
                }
                false => "there is no trained team here: neither a folder `adapter` nor an adapter",
            };
            return Err(Error::file(dir, why));
        }
        if let Some(run) = run_of(&adapter) {
            self.model = self.model.or(run.engine.model);
            self.think = self.think.or(run.engine.think);
            self.dtype = self.dtype.or(run.engine.dtype);
            self.precision = self.precision.or(run.engine.precision);
        }
        self.adapter = Some(adapter);
        Ok(self)
    }
}

/// What lies in the folder of a run or checkpoint is in its `adapter`.
pub fn learned(dir: &Path) -> PathBuf {
    let inner = dir.join(ADAPTER);
    if inner.is_dir() && !is_learned(dir) { inner } else { dir.to_path_buf() }
}

/// Whether something that a team learned lies in this folder.
fn is_learned(dir: &Path) -> bool {
    [BASE, CONFIG].iter().any(|name| dir.join(name).exists())
}

/// The settings of the run that wrote the adapter: beside it, or above it for a checkpoint's. A `config.toml` that is none of a run's says
/// nothing about it.
pub fn run_of(adapter: &Path) -> Option<RunFolder> {
    #[derive(Deserialize)]
    struct Data {
        eval_data: Option<PathBuf>,
    }
    let adapter = std::fs::canonicalize(adapter).ok()?;
    let config =
        adapter.ancestors().skip(1).take(3).map(|dir| dir.join("config.toml")).find(|path| path.exists())?;
    let text = files::read_text(&config, files::MAX_TEXT).ok()?;
    let engine: EngineConfig = toml::from_str(&text).ok()?;
    let Data { eval_data } = toml::from_str(&text).ok()?;
    let sound = engine.team.as_ref().is_none_or(|team| team.validate().is_ok());
    sound.then_some(RunFolder { config, engine, eval_data })
}
