//! What a training run writes down while it goes on: `metrics.jsonl`, `eval_metrics.jsonl`, TensorBoard events.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::{MAX_LONG_TEXT, append, jsonl, read_text, write_atomic};
use crate::training::{EvalMetrics, EventFile, StepMetrics};

/// The logs of a run, those of its earlier sessions included.
pub(super) struct RunLog {
    steps: JsonLines<StepMetrics>,
    scores: JsonLines<EvalMetrics>,
    events: Option<EventFile>,
}

impl RunLog {
    /// Opens the logs in `dir` for a session that goes on after update `done`, with curves for TensorBoard on request; what later updates
    /// logged is dropped, since they are done again. Without a folder, nothing is written.
    pub fn open(dir: Option<&Path>, done: usize, tensorboard: bool) -> Result<Self> {
        let path = |name: &str| dir.map(|dir| dir.join(name));
        let steps = JsonLines::open(path("metrics.jsonl"), |m: &StepMetrics| m.step <= done)?;
        let scores = JsonLines::open(path("eval_metrics.jsonl"), |m: &EvalMetrics| m.step <= done)?;
        let events = dir.filter(|_| tensorboard).map(|dir| EventFile::create(dir, done)).transpose()?;
        Ok(Self { steps, scores, events })
    }

    /// Adds what an update reports.
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.step(metrics)?;
        }
        self.steps.push(metrics.clone())
    }

    /// Adds a score of the held-out data.
    pub fn score(&mut self, metrics: &EvalMetrics) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.score(metrics)?;
        }
        self.scores.push(metrics.clone())
    }

    /// Whether the held-out data was scored after update `step`.
    pub fn has_score(&self, step: usize) -> bool {
        self.scores.lines.iter().any(|s| s.step == step)
    }

    /// Every update of the run so far.
    pub fn steps(&self) -> &[StepMetrics] {
        &self.steps.lines
    }

    /// Every update and every score of the held-out data so far.
    pub fn into_lines(self) -> (Vec<StepMetrics>, Vec<EvalMetrics>) {
        (self.steps.lines, self.scores.lines)
    }
}

/// A file with one JSON object a line, and what it holds.
struct JsonLines<T> {
    path: Option<PathBuf>,
    lines: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> JsonLines<T> {
    /// Keeps those lines of the file at `path`, if there is one, that `keep` wants.
    fn open(path: Option<PathBuf>, keep: impl Fn(&T) -> bool) -> Result<Self> {
        let Some(file) = &path else { return Ok(Self { path, lines: Vec::new() }) };
        let text = match read_text(file, MAX_LONG_TEXT) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { path, lines: Vec::new() }),
            text => text.map_err(|e| Error::file(file, e))?,
        };
        // A line that a crash cut short belongs to an update that is done again, too.
        let (kept, lines): (Vec<&str>, Vec<T>) = text
            .lines()
            .filter_map(|line| Some((line, serde_json::from_str(line).ok()?)))
            .filter(|(_, value)| keep(value))
            .unzip();
        write_atomic(file, kept.iter().flat_map(|line| [line, "\n"]).collect::<String>().as_bytes())?;
        Ok(Self { path, lines })
    }

    fn push(&mut self, value: T) -> Result<()> {
        if let Some(path) = &self.path {
            append(path, jsonl(path, std::slice::from_ref(&value))?.as_bytes())?;
        }
        self.lines.push(value);
        Ok(())
    }
}
