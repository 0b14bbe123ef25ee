//! What a command is told: by the file of `--config`, by the table of the command's name in it, and by flags, each over the one before.

use std::path::Path;

use diffmas::engine::EngineConfig;
use diffmas::settings::{Conflict, FileLayers, Layer, Merged, Rivals, Schema, Section, read_file};
use diffmas::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::flags::{EvalFlags, RunFlags, TrainFlags};

/// Keys that mean another thing to each command. Those at the top level of a file are those of `train`, which writes them into the
/// `config.toml` of a run; the other commands take theirs from their own table.
const OF_TRAIN: [&str; 6] = ["data", "limit", "output", "overwrite", "resume", "seed"];

/// The flags of a command that has `--config`.
pub trait Flags: Serialize + Sized {
    /// The command.
    const COMMAND: &'static str;
    /// Settings that exclude each other.
    const RIVALS: Rivals<'static>;

    /// The structs that its settings are read into.
    fn sections() -> Vec<Section>;

    /// The file of `--config`.
    fn config(&self) -> Option<&Path>;

    /// Two flags that exclude each other.
    fn conflict(&self) -> Option<Conflict> {
        Layer::of(self).ok()?.conflict(Self::RIVALS)
    }
}

/// Every setting of every command that has `--config`.
pub fn schema() -> Schema {
    fn of<F: Flags>() -> (&'static str, Vec<Section>) {
        (F::COMMAND, F::sections())
    }
    Schema { commands: vec![of::<TrainFlags>(), of::<RunFlags>(), of::<EvalFlags>()] }
}

/// What a command is told.
pub struct Config {
    merged: Merged,
    /// What the file says to `train` alone, where this is another command.
    of_train: Merged,
}

impl Config {
    /// Reads the file of `--config`, and lays the flags over it.
    ///
    /// # Errors
    /// Naming file and line, if the file has a key or a value that makes no sense, or settings that exclude each other.
    pub fn read<F: Flags>(flags: &F) -> Result<Self> {
        Self::of_file(flags.config(), flags)
    }

    /// The same with another file.
    ///
    /// # Errors
    /// As for [`Config::read`].
    pub fn of_file<F: Flags>(file: Option<&Path>, flags: &F) -> Result<Self> {
        let read = |path| read_file(path, &schema(), F::COMMAND);
        let FileLayers { mut top, table } = file.map(read).transpose()?.unwrap_or_default();
        let of_train = if F::COMMAND == TrainFlags::COMMAND { Layer::default() } else { top.take(&OF_TRAIN) };
        let config = Self {
            merged: Merged::new([top, table, Layer::of(flags)?], F::RIVALS)?,
            of_train: Merged::new([of_train], &[])?,
        };
        if let (Some(path), Some(team)) = (file, config.merged.get::<EngineConfig>()?.team) {
            team.validate().map_err(|e| Error::file(path, e))?;
        }
        Ok(config)
    }

    /// A struct of settings.
    ///
    /// # Errors
    /// If a value does not fit; those of a file have been checked.
    pub fn get<T: DeserializeOwned>(&self) -> Result<T> {
        self.merged.get()
    }

    /// A struct of settings, with those of `lower` where nothing is told; and which of them count.
    ///
    /// # Errors
    /// As for [`Config::get`].
    pub fn get_over<T: DeserializeOwned>(
        &self,
        lower: Layer,
        rivals: Rivals<'_>,
    ) -> Result<(T, Map<String, Value>)> {
        let merged = self.merged.over(lower.clone(), rivals)?;
        let counts = |(key, _): &(&String, &Value)| !self.merged.says(key) && merged.says(key);
        let counting = lower.values.iter().filter(counts).map(|(key, value)| (key.clone(), value.clone()));
        Ok((merged.get()?, counting.collect()))
    }

    /// The engine's settings; fresh modules have the seed that `train` gives them.
    ///
    /// # Errors
    /// As for [`Config::get`].
    pub fn engine<F: Flags>(&self) -> Result<EngineConfig> {
        let config: EngineConfig = self.get()?;
        let seed = match F::COMMAND == TrainFlags::COMMAND {
            true => config.seed,
            false => self.of_train.get::<EngineConfig>()?.seed,
        };
        Ok(EngineConfig { seed, ..config })
    }
}

/// The value of a setting without which there is nothing to do.
pub fn required<'a, T>(value: &'a Option<T>, flag: &str) -> Result<&'a T> {
    value.as_ref().ok_or_else(|| Error::invalid(format!("--{flag} is required (as a flag or in --config)")))
}

/// Refuses a setting without one of the others, which it is about.
pub fn needs(flag: &str, is_set: bool, others: &[(&str, bool)]) -> Result<()> {
    if !is_set || others.iter().any(|(_, is_set)| *is_set) {
        return Ok(());
    }
    let others: Vec<String> = others.iter().map(|(name, _)| format!("--{name}")).collect();
    Err(Error::invalid(format!("--{flag} needs {} (as a flag or in --config)", others.join(" or "))))
}

#[cfg(test)]
mod tests;
