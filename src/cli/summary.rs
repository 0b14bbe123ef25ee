//! What a finished training run says: what it gained, what it cost, where the adapter is and how to run it.

use std::fmt;

use diffmas::engine::Trained;
use diffmas::training::peak_memory_bytes;
use indicatif::FormattedDuration;

use super::progress;

/// The end of a run in a few lines, over all its sessions.
pub struct Summary<'a> {
    /// Folder of the run, as a shell takes it.
    pub dir: &'a str,
    /// What it reported.
    pub trained: &'a Trained,
    /// Whether there are curves for TensorBoard.
    pub curves: bool,
    /// The command that runs what was trained.
    pub run: String,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dir, steps) = (self.dir, &self.trained.steps);
        if let Some(loss) = self.loss() {
            writeln!(f, "{loss}")?;
        }
        let seconds: f64 = steps.iter().map(|m| m.step_seconds).sum();
        let tokens: f64 = steps.iter().map(|m| m.step_seconds * m.tokens_per_second).sum();
        write!(
            f,
            "{} updates in {}, {:.0} tokens/s",
            steps.len(),
            duration(seconds),
            tokens / seconds.max(f64::MIN_POSITIVE)
        )?;
        let process = steps.iter().map(|m| m.peak_memory_bytes).chain([peak_memory_bytes()]).max().flatten();
        if let Some(bytes) = process {
            write!(f, ", peak memory {:.2} GiB", gib(bytes))?;
        }
        if let Some(bytes) = steps.iter().filter_map(|m| m.peak_device_memory_bytes).max() {
            write!(f, ", of the device {:.2} GiB", gib(bytes))?;
        }
        writeln!(f)?;
        writeln!(f, "adapter in {dir}/adapter")?;
        if self.curves {
            writeln!(f, "curves: tensorboard --logdir {dir}")?;
        }
        write!(f, "run it: {}", self.run)
    }
}

impl Summary<'_> {
    /// The loss before and after: of held-out data where there is any, else of the first and the last update.
    fn loss(&self) -> Option<String> {
        let number = |x: Option<f64>| x.map_or("not finite".into(), |x| format!("{x:.4}"));
        let (first, last) = (self.trained.steps.first()?, self.trained.steps.last()?);
        let after_update =
            |step| self.trained.scores.iter().find(|s| s.step == step).map(|s| number(s.eval_loss));
        let right = |step| {
            let score = self.trained.scores.iter().find(|s| s.step == step)?;
            Some(format!("{:.1} %", 100.0 * score.eval_accuracy?))
        };
        let right = match (right(0), right(last.step)) {
            (Some(before), Some(after)) => format!("; right answers {before} before, {after} after"),
            _ => String::new(),
        };
        Some(match (after_update(0), after_update(last.step)) {
            (Some(before), Some(after)) => {
                format!("held-out loss {before} before, {after} after training{right}")
            }
            (None, Some(after)) => format!("held-out loss {after} after training"),
            (_, None) => {
                let [first, last] = [first.loss, last.loss].map(number);
                format!("training loss {first} in the first update, {last} in the last")
            }
        })
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn duration(seconds: f64) -> String {
    if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        FormattedDuration(progress::duration(seconds)).to_string()
    }
}
