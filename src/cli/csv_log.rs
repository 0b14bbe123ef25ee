//! `metrics.csv`: what updates report as a table.

use std::path::{Path, PathBuf};

use diffmas::agents::TeamConfig;
use diffmas::files::{append, write_atomic};
use diffmas::training::StepMetrics;
use diffmas::{Error, Result};

/// One row an update, the same columns in every run of a team.
pub struct Csv {
    path: PathBuf,
    roles: Vec<String>,
}

impl Csv {
    /// Writes the header and a row for each of `steps`.
    pub fn create(dir: &Path, team: &TeamConfig, steps: &[StepMetrics]) -> Result<Self> {
        let roles = team.upstream().iter().map(|agent| agent.name.clone()).collect();
        let csv = Self { path: dir.join("metrics.csv"), roles };
        let rows = std::iter::once(csv.header()).chain(steps.iter().map(|m| csv.row(m)));
        write_atomic(&csv.path, &csv.format(rows)?)?;
        Ok(csv)
    }

    /// Adds a row.
    pub fn append(&self, metrics: &StepMetrics) -> Result<()> {
        append(&self.path, &self.format([self.row(metrics)])?)
    }

    fn header(&self) -> Vec<String> {
        let norms = self.roles.iter().map(|role| format!("trace_grad_norm/{role}"));
        let before = [
            "step",
            "phase",
            "loss",
            "trajectory_loss",
            "distillation_loss",
            "learning_rate",
            "grad_norm",
            "clip_factor",
        ];
        let draws = ["competence", "dropped_senders", "dropped_positions"];
        let after = ["tokens_per_second", "step_seconds", "peak_memory_bytes", "skipped"];
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        names(&before).into_iter().chain(names(&draws)).chain(norms).chain(names(&after)).collect()
    }

    /// The cells of one update; empty where there is no number.
    fn row(&self, m: &StepMetrics) -> Vec<String> {
        let cell = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        let mut row = vec![m.step.to_string(), m.phase.clone().unwrap_or_default()];
        row.extend([m.loss, m.trajectory_loss, m.distillation_loss].map(cell));
        row.extend([Some(m.learning_rate), m.grad_norm, Some(m.clip_factor)].map(cell));
        let count = |n: Option<usize>| n.map(|n| n as f64);
        row.extend([m.competence, count(m.dropped_senders), count(m.dropped_positions)].map(cell));
        row.extend(self.roles.iter().map(|role| cell(m.trace_grad_norm.get(role).copied())));
        row.extend([m.tokens_per_second.to_string(), m.step_seconds.to_string()]);
        row.extend([m.peak_memory_bytes.map_or(String::new(), |b| b.to_string()), m.skipped.to_string()]);
        row
    }

    fn format(&self, rows: impl IntoIterator<Item = Vec<String>>) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        rows.into_iter()
            .try_for_each(|row| writer.write_record(row))
            .map_err(|e| Error::file(&self.path, e))?;
        writer.into_inner().map_err(|e| Error::file(&self.path, e))
    }
}
