//! `diffmas merge`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use diffmas::agents::{AdapterScope, Origin};
use diffmas::backbone::{ModelFiles, merge};
use diffmas::checkpoint::StoredType;
use diffmas::checkpoint::peft::{COMMUNICATION, CONFIG};
use diffmas::engine::{EngineConfig, compare_base, learned, run_of};
use diffmas::files::recover;
use diffmas::{Error, Result};

use super::config::required;
use super::flags::one_of;
use super::{fetch, interrupt, output};

/// Flags of `merge`.
#[derive(Debug, Args)]
pub struct MergeCommand {
    /// Folder of a finished run, or its `adapter`: what is merged, with the model that it learned on
    #[arg(value_name = "RUN", conflicts_with = "adapter", required_unless_present = "adapter")]
    run: Option<PathBuf>,
    /// Hugging Face folder, ORG/NAME[@REVISION] on the Hugging Face hub, or a known name (`diffmas models`) [the adapter's]
    #[arg(long, help_heading = "Model and adapter")]
    model: Option<String>,
    /// PEFT adapter: a folder, or ORG/NAME[@REVISION] on the Hugging Face hub
    #[arg(long, help_heading = "Model and adapter")]
    adapter: Option<PathBuf>,
    /// Folder for the merged model [RUN/merged]
    #[arg(long, value_name = "DIR", required_unless_present = "run", help_heading = "Output")]
    output: Option<PathBuf>,
    /// How weights are stored [as in the model]
    #[arg(long, value_parser = one_of::<StoredType>(), help_heading = "Output")]
    dtype: Option<StoredType>,
    /// Replace the merged model that the output folder holds
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Fetch nothing: model and adapter must be here or cached
    #[arg(long, help_heading = "Model and adapter")]
    offline: bool,
}

impl MergeCommand {
    /// Merges and says where the model is.
    pub fn execute(self) -> Result<()> {
        let of = EngineConfig { model: self.model, adapter: self.adapter, ..EngineConfig::default() };
        let of = match &self.run {
            Some(run) => of.of_run(run)?,
            None => of,
        };
        let adapter = fetch::adapter(required(&of.adapter, "adapter")?, self.offline)?;
        let adapter = learned(&adapter);
        let origin = Origin::read(&adapter)?;
        check_adapter(&adapter, origin.as_ref())?;
        let output = self.output.or(self.run.map(|run| run.join("merged")));
        let output = required(&output, "output")?;
        check_output(output, &adapter, self.overwrite)?;
        let known = origin.as_ref().map(|origin| origin.base.base_model_name_or_path.clone());
        let base = fetch::model(required(&of.model.or(known), "model")?, self.offline)?;
        if within(&base, output) {
            return Err(Error::file(output, "the output must not hold the model that is merged"));
        }
        if let Some(origin) = origin {
            compare_base(&adapter, &origin.base, &ModelFiles::open(&base)?)?;
        }
        interrupt::set_words("interrupted; nothing was written");
        let dtype = merge(&base, &adapter, output, self.dtype, |_| Ok(()))?;
        output::print(&format!("merged model in {} ({})", output.display(), dtype.name()))
    }
}

/// One set of weights must be able to stand for every role's.
fn check_adapter(dir: &Path, origin: Option<&Origin>) -> Result<()> {
    if !dir.is_dir() {
        return Err(Error::file(dir, "the adapter must be a folder, but this is a file"));
    }
    if !dir.join(CONFIG).exists() && holds_adapters(dir) {
        return Err(Error::file(
            dir,
            "the folder holds one adapter a role (per_role), and one set of merged weights cannot stand for \
                 several; merge one role's folder to get that role's model, or run the team with --adapter",
        ));
    }
    let scope = match origin {
        Some(origin) => Some(origin.base.adapter_scope),
        None => run_of(dir).and_then(|run| run.engine.adapter_scope),
    };
    if scope == Some(AdapterScope::FinalOnly) {
        return Err(Error::file(
            dir,
            "the adapter is the final agent's only (adapter_scope = \"final_only\"), and merged weights would change every \
                 agent; run the team with --adapter",
        ));
    }
    let beside = [dir, dir.parent().unwrap_or(Path::new("."))];
    if beside.iter().any(|dir| dir.join(COMMUNICATION).exists()) {
        tracing::warn!(
            "the communication modules beside the adapter (its channel's, a learned feed, slots) are no part of a model: they are not merged and stay beside it"
        );
    }
    Ok(())
}

fn check_output(dir: &Path, adapter: &Path, overwrite: bool) -> Result<()> {
    if let Err(e) = recover(dir) {
        tracing::warn!("{e}");
    }
    if dir.exists() && !dir.is_dir() {
        return Err(Error::file(dir, "the output must be a folder, but this is a file"));
    }
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !overwrite {
        return Err(Error::file(
            dir,
            "the output folder is not empty; give another --output, or --overwrite",
        ));
    }
    if within(adapter, dir) {
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

/// Whether the folder could be one that an earlier merge wrote.
fn holds_model(dir: &Path) -> bool {
    ["config.json", "model.safetensors"].iter().all(|name| dir.join(name).exists())
}

/// Whether a subfolder is a PEFT folder.
fn holds_adapters(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().join(CONFIG).exists())
}

/// Whether `inner` is the folder `outer` or lies in it.
fn within(inner: &Path, outer: &Path) -> bool {
    match (fs::canonicalize(inner), fs::canonicalize(outer)) {
        (Ok(inner), Ok(outer)) => inner.starts_with(outer),
        _ => false,
    }
}
