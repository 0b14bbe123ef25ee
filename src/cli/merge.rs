//! `diffmas merge`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use diffmas::agents::AdapterScope;
use diffmas::backbone::merge;
use diffmas::checkpoint::{StoredType, recover};
use diffmas::{Error, Result};

use super::options::Options;
use super::{fetch, interrupt, output};

/// Flags of `merge`.
#[derive(Debug, Args)]
pub struct MergeCommand {
    /// Hugging Face folder, ORG/NAME[@REVISION] on the Hugging Face hub, or a known name (`diffmas models`)
    #[arg(long)]
    model: String,
    /// PEFT adapter: a folder, or ORG/NAME[@REVISION] on the Hugging Face hub
    #[arg(long)]
    adapter: PathBuf,
    /// Folder for the merged model
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// How weights are stored [as in the model]
    #[arg(long, value_enum)]
    dtype: Option<StoredType>,
    /// Replace the merged model that the output folder holds
    #[arg(long)]
    overwrite: bool,
    /// Fetch nothing: model and adapter must be here or cached
    #[arg(long)]
    offline: bool,
}

impl MergeCommand {
    /// Merges and says where the model is.
    pub fn execute(mut self) -> Result<()> {
        self.adapter = fetch::adapter(&self.adapter, self.offline)?;
        self.check_adapter()?;
        self.check_output()?;
        let base = fetch::model(&self.model, self.offline)?;
        if within(&base, &self.output) {
            return Err(Error::file(&self.output, "the output must not hold the model that is merged"));
        }
        interrupt::set_words("interrupted; nothing was written");
        let dtype = merge(&base, &self.adapter, &self.output, self.dtype, |_| Ok(()))?;
        output::print(&format!("merged model in {} ({})", self.output.display(), dtype.name()))
    }

    /// One set of weights must be able to stand for every role's.
    fn check_adapter(&self) -> Result<()> {
        let dir = &self.adapter;
        if !dir.is_dir() {
            return Err(Error::file(dir, "the adapter must be a folder, but this is a file"));
        }
        if !dir.join("adapter_config.json").exists() && holds_adapters(dir) {
            return Err(Error::file(
                dir,
                "the folder holds one adapter a role (per_role), and one set of merged weights cannot stand for \
                 several; merge one role's folder to get that role's model, or run the team with --adapter",
            ));
        }
        let run = run_of(dir);
        let scope = run.as_ref().and_then(|(_, options)| options.adapter_scope);
        if let (Some((config, _)), Some(AdapterScope::FinalOnly)) = (&run, scope) {
            return Err(Error::file(
                dir,
                format!(
                    "the adapter is the final agent's only (adapter_scope = \"final_only\" in {}), and merged weights \
                     would change every agent; run the team with --adapter",
                    config.display()
                ),
            ));
        }
        let beside = [dir.as_path(), dir.parent().unwrap_or(Path::new("."))];
        if beside.iter().any(|dir| dir.join("communication.safetensors").exists()) {
            tracing::warn!("the learned feed beside the adapter is no part of a model and is not merged");
        }
        Ok(())
    }

    fn check_output(&self) -> Result<()> {
        let dir = &self.output;
        if let Err(e) = recover(dir) {
            tracing::warn!("{e}");
        }
        if dir.exists() && !dir.is_dir() {
            return Err(Error::file(dir, "the output must be a folder, but this is a file"));
        }
        let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if occupied && !self.overwrite {
            return Err(Error::file(
                dir,
                "the output folder is not empty; give another --output, or --overwrite",
            ));
        }
        if within(&self.adapter, dir) {
            return Err(Error::file(dir, "the output must not hold the adapter that is merged"));
        }
        if occupied && !holds_model(dir) {
            return Err(Error::file(
                dir,
                "the folder is not empty and holds no earlier merged model (no config.json with safetensors beside it), so \
                 that --overwrite leaves it alone; give another --output",
            ));
        }
        Ok(())
    }
}

/// Whether the folder could be one that an earlier merge wrote.
fn holds_model(dir: &Path) -> bool {
    ["config.json", "model.safetensors"].iter().all(|name| dir.join(name).exists())
}

/// Whether a subfolder is a PEFT folder.
fn holds_adapters(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().join("adapter_config.json").exists())
}

/// The settings of the run that wrote the adapter: beside it, or above it for a checkpoint's. A `config.toml` that is
/// none of ours says nothing about it.
fn run_of(adapter: &Path) -> Option<(PathBuf, Options)> {
    let adapter = fs::canonicalize(adapter).ok()?;
    let config =
        adapter.ancestors().skip(1).take(3).map(|dir| dir.join("config.toml")).find(|path| path.exists())?;
    let options = Options::read(Some(&config), &[]).ok()?;
    Some((config, options))
}

/// Whether `inner` is the folder `outer` or lies in it.
fn within(inner: &Path, outer: &Path) -> bool {
    match (fs::canonicalize(inner), fs::canonicalize(outer)) {
        (Ok(inner), Ok(outer)) => inner.starts_with(outer),
        _ => false,
    }
}
