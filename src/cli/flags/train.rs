//! Flags of `train`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{LoraFlags, TeamFlags, TrainingFlags};

/// Flags of `train`.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(args_override_self = true)]
pub struct TrainFlags {
    #[command(flatten)]
    #[serde(flatten)]
    pub team: TeamFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub training: TrainingFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub lora: LoraFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: TrainDataFlags,
}

/// What is learned from, and what is written.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Data and output")]
pub struct TrainDataFlags {
    /// Training data: JSONL or Parquet, or ORG/NAME:SPLIT on the Hugging Face hub
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Held-out data, scored before and after training, and with --eval-steps between updates
    #[arg(long, value_name = "FILE")]
    pub eval_data: Option<PathBuf>,
    /// Read the first N lines of each of them only [all]
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroUsize>,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Go on from the newest checkpoint in --output, with the settings of its config.toml
    #[arg(long)]
    pub resume: Option<bool>,
    /// Replace what the output folder holds
    #[arg(long)]
    pub overwrite: Option<bool>,
    /// Curves for TensorBoard in --output [true]
    #[arg(long)]
    pub tensorboard: Option<bool>,
    /// A table metrics.csv in --output, beside metrics.jsonl
    #[arg(long)]
    pub csv: Option<bool>,
}
