//! What updates and held-out scores logged, as curves.

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::{open_file, read_line};
use crate::training::EvalMetrics;

/// Updates and values, in the order of the updates; only finite values.
pub type Points = Vec<(f64, f64)>;

/// What is read of a line of `metrics.jsonl`. Every value may be null: JSON has no other word for one that is not finite.
#[derive(Deserialize)]
struct UpdateLine {
    step: usize,
    phase: Option<String>,
    loss: Option<f64>,
    trajectory_loss: Option<f64>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    #[serde(default)]
    trace_grad_norm: BTreeMap<String, Option<f64>>,
    step_seconds: Option<f64>,
    #[serde(default)]
    skipped: bool,
}

/// The curves of a training run.
#[derive(Debug, Default)]
pub struct Curves {
    /// Updates that were logged.
    pub updates: usize,
    /// Updates among them that were skipped because something was not finite.
    pub skipped: usize,
    /// Wall-clock seconds of all updates.
    pub seconds: f64,
    /// The loss of the first and of the last update.
    pub ends: [Option<f64>; 2],
    /// The held-out loss before the first update and after the last score.
    pub held_out_ends: [Option<f64>; 2],
    /// The loss.
    pub loss: Points,
    /// The trajectories' share of the loss.
    pub trajectory_loss: Points,
    /// The learning rate.
    pub learning_rate: Points,
    /// The norm of the whole gradient.
    pub grad_norm: Points,
    /// The gradient's norm at each sender's message, by sender.
    pub trace_grad_norm: BTreeMap<String, Points>,
    /// The held-out loss.
    pub held_out: Points,
    /// Right answers to held-out questions, in percent.
    pub held_out_right: Points,
    /// First update of each phase, and its name.
    pub phases: Vec<(f64, String)>,
}

impl Curves {
    /// Reads the two logs of a run, of which either may be missing.
    pub fn read(metrics: &Path, eval_metrics: &Path) -> Result<Self> {
        let mut curves = Self::default();
        read_lines(metrics, |line: UpdateLine| curves.update(line))?;
        read_lines(eval_metrics, |line: EvalMetrics| curves.score(&line))?;
        Ok(curves)
    }

    /// Whether nothing was logged.
    pub fn is_empty(&self) -> bool {
        self.updates == 0 && self.held_out.is_empty()
    }

    fn update(&mut self, line: UpdateLine) {
        let step = line.step as f64;
        if self.updates == 0 {
            self.ends[0] = line.loss;
        }
        self.ends[1] = line.loss;
        self.updates += 1;
        self.skipped += usize::from(line.skipped);
        self.seconds += line.step_seconds.unwrap_or(0.0);
        let add = |points: &mut Points, value: Option<f64>| points.extend(value.map(|value| (step, value)));
        add(&mut self.loss, line.loss);
        add(&mut self.trajectory_loss, line.trajectory_loss);
        add(&mut self.learning_rate, line.learning_rate);
        add(&mut self.grad_norm, line.grad_norm);
        for (sender, norm) in line.trace_grad_norm {
            add(self.trace_grad_norm.entry(sender).or_default(), norm);
        }
        if let Some(phase) = line.phase.filter(|p| self.phases.last().is_none_or(|(_, last)| last != p)) {
            self.phases.push((step, phase));
        }
    }

    fn score(&mut self, line: &EvalMetrics) {
        match line.step {
            0 => self.held_out_ends[0] = line.eval_loss,
            _ => self.held_out_ends[1] = line.eval_loss,
        }
        let step = line.step as f64;
        self.held_out.extend(line.eval_loss.map(|loss| (step, loss)));
        let right = line.eval_accuracy.filter(|x| x.is_finite());
        self.held_out_right.extend(right.map(|right| (step, 100.0 * right)));
    }
}

/// Hands every JSON line of the file at `path` to `each`; nothing where there is no such file.
fn read_lines<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T)) -> Result<()> {
    let file = match open_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|e| Error::file(path, e))?,
    };
    let (mut reader, mut line, mut number) = (BufReader::new(file), Vec::new(), 0);
    while read_line(&mut reader, &mut line).map_err(|e| Error::file(path, e))? {
        number += 1;
        if !line.trim_ascii().is_empty() {
            match serde_json::from_slice(&line) {
                Ok(value) => each(value),
                // A crash cuts the last line short, in front of its end.
                Err(_) if !line.ends_with(b"\n") => {}
                Err(e) => return Err(Error::line(path, number, malformed(&e))),
            }
        }
        line.clear();
    }
    Ok(())
}

/// What is wrong with JSON, without the line.
pub(super) fn malformed(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("malformed JSON at column {}: {what}", error.column())
}

/// At most `limit` points, each the mean of equally many neighbours (the last one of the rest), and how many.
pub fn thin(points: &[(f64, f64)], limit: usize) -> (Points, usize) {
    let each = points.len().div_ceil(limit).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        // Divided before they are added, so that the sum of large losses stays finite.
        chunk.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n))
    };
    (points.chunks(each).map(mean).collect(), each)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(metrics: &str, eval_metrics: &str) -> Result<Curves> {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["metrics.jsonl", "eval_metrics.jsonl"].map(|name| dir.path().join(name));
        fs::write(&paths[0], metrics).unwrap();
        fs::write(&paths[1], eval_metrics).unwrap();
        Curves::read(&paths[0], &paths[1])
    }

    #[test]
    fn updates_with_nulls_and_a_cut_last_line_are_read() {
        let metrics = r#"{"step":1,"phase":"apart","loss":2.5,"grad_norm":1.0,"trace_grad_norm":{"a":0.5},"step_seconds":2.0}
{"step":2,"phase":"apart","loss":null,"learning_rate":0.1,"grad_norm":null,"trace_grad_norm":{"a":null},"skipped":true}

{"step":3,"phase":"joint","loss":1.5,"trajectory_loss":0.25,"learning_rate":0.1,"trace_grad_norm":{"a":0.25,"b":1}}
{"step":4,"loss":1.0,"learn"#;
        let scores =
            "{\"step\":0,\"eval_loss\":3.0}\n{\"step\":3,\"eval_loss\":null,\"eval_accuracy\":0.5}\n";
        let c = read(metrics, scores).unwrap();
        assert_eq!(c.held_out_right, [(3.0, 50.0)]);
        assert_eq!((c.updates, c.skipped, c.seconds), (3, 1, 2.0));
        assert_eq!(c.loss, [(1.0, 2.5), (3.0, 1.5)]);
        assert_eq!(c.trajectory_loss, [(3.0, 0.25)]);
        assert_eq!(c.trace_grad_norm["a"], [(1.0, 0.5), (3.0, 0.25)]);
        assert_eq!(c.trace_grad_norm["b"], [(3.0, 1.0)]);
        assert_eq!(c.phases, [(1.0, "apart".to_string()), (3.0, "joint".to_string())]);
        assert_eq!((c.ends, c.held_out_ends), ([Some(2.5), Some(1.5)], [Some(3.0), None]));
        assert!(read("", "").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_line_is_named() {
        let e = read("{\"step\":1,\"loss\":1.0}\n{\"step\":\n{\"step\":3,\"loss\":1.0}\n", "").unwrap_err();
        assert!(e.to_string().contains("metrics.jsonl, line 2: "), "{e}");
        let e = read("", "{\"loss\":1}\n").unwrap_err();
        assert!(
            e.to_string().contains("eval_metrics.jsonl, line 1: ") && e.to_string().contains("step"),
            "{e}"
        );
    }

    #[test]
    fn thinning_keeps_a_bounded_number_of_means() {
        let points: Points = (1..=1_000_000).map(|i| (f64::from(i), 1.0 / f64::from(i))).collect();
        let (thinned, each) = thin(&points, 400);
        assert_eq!((thinned.len(), each), (400, 2500));
        assert!((thinned[0].0 - 1250.5).abs() < 1e-6);
        assert_eq!(thin(&points[..400], 400), (points[..400].to_vec(), 1));
        let five = [(1.0, 4.0), (2.0, 8.0), (3.0, 2.0), (4.0, 1.0), (5.0, 3.0)];
        assert_eq!(thin(&five, 3), (vec![(1.5, 6.0), (3.5, 1.5), (5.0, 3.0)], 2));
        assert_eq!(thin(&[], 400), (vec![], 1));
        assert!(thin(&[(1.0, f64::MAX), (2.0, f64::MAX)], 1).0[0].1.is_finite());
    }
}
