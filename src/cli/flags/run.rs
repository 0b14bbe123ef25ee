//! Flags of `run`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use diffmas::evaluation::Control;
use serde::Serialize;

use super::{GenerationFlags, TeamFlags, offering};
use crate::cli::fields::field;

/// Flags of `run`. What one needs of the others may stand in `--config`.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(
    args_override_self = true,
    group = ArgGroup::new("asked").args(["question", "data", "config"]).multiple(true),
    group = ArgGroup::new("of_data").args(["data", "config"]).multiple(true),
    group = ArgGroup::new("to_output").args(["output", "config"]).multiple(true)
)]
pub struct RunFlags {
    /// Folder of a finished run, or its `adapter`: the trained team, with its model and its settings
    #[arg(value_name = "RUN", conflicts_with_all = ["adapter", "config"])]
    #[serde(skip)]
    pub run: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub team: TeamFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub generation: GenerationFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: RunDataFlags,
}

/// What is asked, and where answers go.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Data and output")]
pub struct RunDataFlags {
    /// One question; without it and without --data, a chat
    #[arg(long)]
    pub question: Option<String>,
    /// A field beside the question, for prompts that read more than that; may be given several times. A dot in NAME leads into an object, and a
    /// list or object in VALUE is read as JSON
    #[arg(long, value_name = "NAME=VALUE", value_parser = field, conflicts_with = "data")]
    pub field: Option<Vec<String>>,
    /// Questions: JSONL or Parquet, or ORG/NAME:SPLIT on the Hugging Face hub
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Answer the first N lines of --data only [all]
    #[arg(long, value_name = "N", requires = "of_data")]
    pub limit: Option<NonZeroUsize>,
    /// File for the answers, one JSON object a line in the order of --data; without it they are printed
    #[arg(long, value_name = "FILE.jsonl", requires = "of_data")]
    pub output: Option<PathBuf>,
    /// Go on with a stopped run: finished batches are kept in FILE.jsonl.part until all questions are answered
    #[arg(long, requires = "to_output")]
    pub resume: Option<bool>,
    /// Replace the files of --output, --save-trace and --save-trajectories, and what a stopped run left
    #[arg(long)]
    pub overwrite: Option<bool>,
    /// What the final agent reads: real, none, zero, shuffled, shuffled-images, random, self, drop:ROLE
    #[arg(long, alias = "trace", value_parser = offering::<Control>(Control::NAMES), hide_possible_values = true)]
    pub control: Option<Control>,
    /// Write what the upstream agents leave, for --load-trace on another machine; with --max-new-tokens 0 nothing is answered
    #[arg(long, value_name = "FILE.safetensors", requires = "asked")]
    pub save_trace: Option<PathBuf>,
    /// Let the final agent answer on a trace of --save-trace; the upstream agents do not run
    #[arg(long, value_name = "FILE.safetensors", requires = "asked")]
    pub load_trace: Option<PathBuf>,
    /// On the channel text: write what the agents wrote for questions that the team answered rightly, as training lines with
    /// `trajectories`
    #[arg(long, value_name = "FILE.jsonl", requires = "of_data")]
    pub save_trajectories: Option<PathBuf>,
    /// Print JSON, with trace positions and timings
    #[arg(long, requires = "asked")]
    pub json: Option<bool>,
}
