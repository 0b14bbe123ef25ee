//! What updates and scores of held-out data report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The update, counted from 1.
    pub step: usize,
    /// The phase, in a run of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The loss before the update: mean NLL of its target tokens, and the weighted trajectories; null when it is not finite.
    pub loss: Option<f64>,
    /// The trajectories' share of the loss, where they have a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trajectory_loss: Option<f64>,
    /// The mean over target tokens of the divergence from the teacher, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation_loss: Option<f64>,
    /// The rate of this update.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping; null when it is not finite.
    pub grad_norm: Option<f64>,
    /// What the gradient was multiplied by to clip its norm; 1 where it was not. NaN is null in the file, here as in
    /// [`StepMetrics::trace_grad_norm`].
    #[serde(deserialize_with = "crate::files::null::number")]
    pub clip_factor: f64,
    /// How difficult samples were allowed to be, with a curriculum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub competence: Option<f64>,
    /// Messages that were hidden as a whole, with communication dropout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_senders: Option<usize>,
    /// Single latent positions and vectors that were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_positions: Option<usize>,
    /// Norm of ∂loss/∂segment by upstream role, through all later agents that the gradient reaches.
    #[serde(deserialize_with = "crate::files::null::by_name")]
    pub trace_grad_norm: BTreeMap<String, f64>,
    /// Prompt, latent and target positions computed forward per second.
    pub tokens_per_second: f64,
    /// Wall-clock seconds of the update.
    pub step_seconds: f64,
    /// Largest resident memory of the process so far; null where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// Largest memory that the backend's allocator had taken from the device at the end of any update of this session; absent where tensors lie
    /// in the process's own memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_memory_bytes: Option<u64>,
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
    /// Share of its questions that are answered rightly, where answers are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
}

/// The largest resident memory of this process so far, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_with_an_infinite_gradient_is_read_back() {
        let line = r#"{"step":3,"loss":1.5,"learning_rate":0.1,"grad_norm":null,"clip_factor":null,
            "trace_grad_norm":{"planner":null,"critic":0.25},"tokens_per_second":1665.1937436541787,"step_seconds":0.5,
            "peak_memory_bytes":null,"skipped":true}"#;
        let read: StepMetrics = serde_json::from_str(line).unwrap();
        assert!(read.skipped && read.clip_factor.is_nan() && read.trace_grad_norm["planner"].is_nan());
        assert_eq!((read.trace_grad_norm["critic"], read.tokens_per_second), (0.25, 1665.1937436541787));
        let written: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), written);
    }
}
