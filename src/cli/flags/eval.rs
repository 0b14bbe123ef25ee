//! Flags of `eval`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use diffmas::evaluation::Control;
use serde::Serialize;

use super::{TeamFlags, offering};

/// Flags of `eval`. What one needs of the others may stand in `--config`.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(
    args_override_self = true,
    group = ArgGroup::new("to_output").args(["output", "config"]).multiple(true)
)]
pub struct EvalFlags {
    /// Folder of a finished run, or its `adapter`: the trained team, with its model and its settings
    #[arg(value_name = "RUN", conflicts_with_all = ["adapter", "config"])]
    #[serde(skip)]
    pub run: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub team: TeamFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub scoring: ScoringFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: EvalDataFlags,
}

/// What is scored.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Scoring")]
pub struct ScoringFlags {
    /// What the final agent reads: real, none, zero, shuffled, shuffled-images, random, self, drop:ROLE
    #[arg(long, alias = "trace", value_parser = offering::<Control>(Control::NAMES), hide_possible_values = true)]
    pub control: Option<Control>,
    /// Score with every control, one line each: real, none, zero, shuffled, random, self, and without each upstream role
    #[arg(long)]
    pub all_controls: Option<bool>,
    /// Let the final agent answer, too, and count right answers: those that say the line's `gold`, what follows `####` in its answer, or
    /// an answer of a few words. Numbers and fractions are compared as values, choices by letter or text, and of an answer that marks its
    /// result (`####`, `\boxed{}`, "the answer is") only that counts
    #[arg(long)]
    pub accuracy: Option<bool>,
    /// Most tokens of an answer that is checked [64]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// Seed of `shuffled` and `random` [42]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// What is scored on, and where scores go.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Data and output")]
pub struct EvalDataFlags {
    /// Data with answers: JSONL or Parquet, or ORG/NAME:SPLIT on the Hugging Face hub [the held-out data of RUN]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Score the first N lines only [all]
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroUsize>,
    /// Folder for samples.jsonl, results.json and inspection.json, of which `diffmas report` makes a page
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Go on with a stopped run: finished batches are kept in samples.jsonl.part in --output
    #[arg(long, requires = "to_output")]
    pub resume: Option<bool>,
    /// Replace what the output folder holds
    #[arg(long)]
    pub overwrite: Option<bool>,
}
