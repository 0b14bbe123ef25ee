//! What a training run writes down while it goes on: `metrics.jsonl`, `eval_metrics.jsonl`, TensorBoard events, and `metrics.csv` on
//! request.

use std::io;
use std::path::{Path, PathBuf};

use diffmas::agents::TeamConfig;
use diffmas::files::{MAX_LONG_TEXT, read_text, write_atomic};
use diffmas::training::{EvalMetrics, EventFile, StepMetrics};
use diffmas::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::output;
use super::train::TrainFiles;

/// The logs of a run, those of its earlier sessions included.
pub struct RunLog {
    steps: JsonLines<StepMetrics>,
    scores: JsonLines<EvalMetrics>,
    csv: Option<Csv>,
    events: Option<EventFile>,
}

impl RunLog {
    /// Opens the logs in `dir` for a session that goes on after update `done`; what later updates logged is dropped, since they are
    /// done again.
    pub fn open(dir: &Path, done: usize, team: &TeamConfig, files: &TrainFiles) -> Result<Self> {
        let steps = JsonLines::open(dir.join("metrics.jsonl"), |m: &StepMetrics| m.step <= done)?;
        let scores = JsonLines::open(dir.join("eval_metrics.jsonl"), |m: &EvalMetrics| m.step <= done)?;
        let csv = files.csv.then(|| Csv::create(dir, team, &steps.lines)).transpose()?;
        let events = files.tensorboard.then(|| EventFile::create(dir, done)).transpose()?;
        Ok(Self { steps, scores, csv, events })
    }

    /// Adds what an update reports.
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        if let Some(csv) = &self.csv {
            csv.append(metrics)?;
        }
        if let Some(events) = &mut self.events {
            events.step(metrics)?;
        }
        self.steps.push(metrics.clone())
    }

    /// Adds the held-out loss of the team as it is after update `step`.
    pub fn eval_loss(&mut self, step: usize, loss: f64) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.eval_loss(step, loss)?;
        }
        self.scores.push(EvalMetrics { step, eval_loss: loss.is_finite().then_some(loss) })
    }

    /// Whether the held-out data was scored after update `step`.
    pub fn has_eval_loss(&self, step: usize) -> bool {
        self.scores.lines.iter().any(|s| s.step == step)
    }

    /// Every update of the run so far.
    pub fn steps(&self) -> &[StepMetrics] {
        &self.steps.lines
    }

    /// Every score of the held-out data so far.
    pub fn scores(&self) -> &[EvalMetrics] {
        &self.scores.lines
    }

    /// Whether there are curves for TensorBoard.
    pub fn has_events(&self) -> bool {
        self.events.is_some()
    }
}

/// A file with one JSON object a line, and what it holds.
struct JsonLines<T> {
    path: PathBuf,
    lines: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> JsonLines<T> {
    /// Keeps those lines of the file at `path`, if there is one, that `keep` wants.
    fn open(path: PathBuf, keep: impl Fn(&T) -> bool) -> Result<Self> {
        let text = match read_text(&path, MAX_LONG_TEXT) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { path, lines: Vec::new() }),
            text => text.map_err(|e| Error::file(&path, e))?,
        };
        // A line that a crash cut short belongs to an update that is done again, too.
        let (kept, lines): (Vec<&str>, Vec<T>) = text
            .lines()
            .filter_map(|line| Some((line, serde_json::from_str(line).ok()?)))
            .filter(|(_, value)| keep(value))
            .unzip();
        write_atomic(&path, kept.iter().flat_map(|line| [line, "\n"]).collect::<String>().as_bytes())?;
        Ok(Self { path, lines })
    }

    fn push(&mut self, value: T) -> Result<()> {
        let line = serde_json::to_string(&value).map_err(|e| Error::file(&self.path, e))?;
        output::append(&self.path, format!("{line}\n").as_bytes())?;
        self.lines.push(value);
        Ok(())
    }
}

/// `metrics.csv`: one row an update, the same columns in every run of a team.
struct Csv {
    path: PathBuf,
    roles: Vec<String>,
}

impl Csv {
    /// Writes the header and a row for each of `steps`.
    fn create(dir: &Path, team: &TeamConfig, steps: &[StepMetrics]) -> Result<Self> {
        let roles = team.upstream().iter().map(|agent| agent.name.clone()).collect();
        let csv = Self { path: dir.join("metrics.csv"), roles };
        let rows = std::iter::once(csv.header()).chain(steps.iter().map(|m| csv.row(m)));
        write_atomic(&csv.path, &csv.format(rows)?)?;
        Ok(csv)
    }

    fn append(&self, metrics: &StepMetrics) -> Result<()> {
        output::append(&self.path, &self.format([self.row(metrics)])?)
    }

    fn header(&self) -> Vec<String> {
        let norms = self.roles.iter().map(|role| format!("trace_grad_norm/{role}"));
        let before =
            ["step", "phase", "loss", "trajectory_loss", "learning_rate", "grad_norm", "clip_factor"];
        let draws = ["competence", "dropped_senders", "dropped_positions"];
        let after = ["tokens_per_second", "step_seconds", "peak_memory_bytes", "skipped"];
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        names(&before).into_iter().chain(names(&draws)).chain(norms).chain(names(&after)).collect()
    }

    /// The cells of one update; empty where there is no number.
    fn row(&self, m: &StepMetrics) -> Vec<String> {
        let cell = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        let mut row = vec![m.step.to_string(), m.phase.clone().unwrap_or_default()];
        row.extend(
            [m.loss, m.trajectory_loss, Some(m.learning_rate), m.grad_norm, Some(m.clip_factor)].map(cell),
        );
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
