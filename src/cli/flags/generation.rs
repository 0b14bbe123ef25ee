//! How an answer is written, under the names of Hugging Face's `generate`.

use clap::Args;
use serde::Serialize;

use super::number;

/// How tokens are chosen, and where an answer ends. What the model's generation_config.json says of it stands in place of the defaults.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Generation")]
pub struct GenerationFlags {
    /// Take the best token always; excludes the four below
    #[arg(long)]
    pub greedy: Option<bool>,
    /// Divides the scores before a draw; 0 takes the best token always [0.6]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Keep the K best tokens; 0 keeps all [0]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the fewest best tokens whose probabilities reach P [0.95]
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Keep tokens at least P times as likely as the best one; 0 keeps all [0]
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Make tokens of the final agent's prompt and of its answer less likely (above 1) or more (below 1) [1]
    #[arg(long, value_name = "R", value_parser = number, allow_negative_numbers = true)]
    pub repetition_penalty: Option<f64>,
    /// End the answer before this text or special token; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Option<Vec<String>>,
    /// Seed of all draws [42]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Most tokens of an answer [256]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
}
