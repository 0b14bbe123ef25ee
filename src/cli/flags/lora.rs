//! The shape of a fresh adapter.

use clap::Args;
use serde::Serialize;

use super::number;

/// The shape of a fresh adapter.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Adapter")]
pub struct LoraFlags {
    /// Rank of a fresh adapter [8]
    #[arg(long, value_name = "R")]
    pub lora_r: Option<usize>,
    /// Scale of a fresh adapter: the product is multiplied by lora_alpha / r [16]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    pub lora_alpha: Option<f64>,
    /// Dropout of what a fresh adapter's factors read in training [0]
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    pub lora_dropout: Option<f64>,
    /// Modules of a fresh adapter, comma-separated, or all-linear [all seven projections]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub target_modules: Option<Vec<String>>,
    /// Scale by lora_alpha / sqrt(r) instead
    #[arg(long)]
    pub use_rslora: Option<bool>,
}
