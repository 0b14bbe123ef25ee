//! What updates and scores of held-out data report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The update, counted from 1.
    pub step: usize,
    /// Mean NLL of the update's target tokens, before the update; null when it is not finite.
    pub loss: Option<f64>,
    /// The rate of this update.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping; null when it is not finite.
    pub grad_norm: Option<f64>,
    /// Norm of ∂loss/∂segment by upstream role, through all later agents that the gradient reaches.
    pub trace_grad_norm: BTreeMap<String, f64>,
    /// Prompt, latent and target positions computed forward per second.
    pub tokens_per_second: f64,
    /// Wall-clock seconds of the update.
    pub step_seconds: f64,
    /// Largest resident memory of the process so far; null where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// Whether the update was skipped because loss or gradient was not finite.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// One line of `eval_metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalMetrics {
    /// Updates done before the held-out data was scored.
    pub step: usize,
    /// Mean NLL of its target tokens; null when it is not finite.
    pub eval_loss: Option<f64>,
}

/// The largest resident memory of this process so far, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}
