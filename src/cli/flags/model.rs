//! Which model and which team.

use std::path::PathBuf;

use clap::Args;
use diffmas::agents::AdapterScope;
use diffmas::text::Thinking;
use serde::Serialize;

use super::one_of;

/// Which team, on which model.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Model and team")]
pub struct ModelFlags {
    /// Settings under the flags' names (with `_`), for instance the config.toml of an earlier run. Flags win over a table of the command's
    /// name ([run]), which wins over the top level; there, data, limit, output, resume, overwrite and seed are those of `train`
    #[arg(long, value_name = "FILE.toml")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Hugging Face folder, .gguf file, ORG/NAME[@REVISION][:FILE.gguf] on the Hugging Face hub, or a known name
    /// (`diffmas models`)
    #[arg(long)]
    pub model: Option<String>,
    /// Fetch nothing: model and adapter must be here or cached
    #[arg(long)]
    pub offline: Option<bool>,
    /// What a team learned: the folder `adapter` of a run, any PEFT adapter, or ORG/NAME[@REVISION] on the Hugging Face hub
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Team file; without one, the team that --adapter learned in, else the planner, critic, refiner and solver of the DiffMAS paper
    #[arg(long, value_name = "FILE.toml")]
    pub system: Option<PathBuf>,
    /// Run --adapter in the team of --system or --config, although it learned in another
    #[arg(long)]
    pub override_team: Option<bool>,
    /// Which roles the adapter is active in
    #[arg(long, value_parser = one_of::<AdapterScope>())]
    pub adapter_scope: Option<AdapterScope>,
    /// Whether models that can think aloud before they answer do: Qwen3's `enable_thinking` [auto: as the model's template has it]
    #[arg(long, value_parser = one_of::<Thinking>())]
    pub think: Option<Thinking>,
}
