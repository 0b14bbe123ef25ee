//! Progress with rate and remaining time: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::verbosity;
use super::visible::visible;

/// Progress of one piece of work.
pub struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    first: usize,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts at `done` of `total`.
    pub fn new(what: &'static str, done: usize, total: usize) -> Self {
        let bar = (!verbosity::quiet() && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}")
                .expect("a valid template")
                .progress_chars("=> ");
            ProgressBar::new(total as u64).with_position(done as u64).with_style(style).with_prefix(what)
        });
        Self { what, total, done, first: done, start: Instant::now(), bar }
    }

    /// Moves to `done` with a few words on the latest step.
    pub fn set(&mut self, done: usize, message: &str) {
        self.done = done;
        let (rate, left) = (self.rate(), HumanDuration(self.left()));
        let gap = if message.is_empty() { "" } else { "  " };
        match &self.bar {
            Some(bar) => {
                bar.set_position(done as u64);
                bar.set_message(format!("{}{gap}{rate:.2} s each, {left} left", visible(message)));
            }
            None => verbosity::note(format_args!(
                "{} {done}/{}  {message}{gap}{rate:.2} s each, {left} left",
                self.what, self.total
            )),
        }
    }

    /// Prints a line without tearing the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(visible(text)),
            None => verbosity::note(text),
        }
    }

    /// Ends the bar, leaving it as it is.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    /// Seconds per unit of work.
    fn rate(&self) -> f64 {
        self.start.elapsed().as_secs_f64() / self.done.saturating_sub(self.first).max(1) as f64
    }

    fn left(&self) -> Duration {
        duration(self.rate() * self.total.saturating_sub(self.done) as f64)
    }
}

/// `seconds` as a time; those that are no time, or longer than any, as the longest.
pub fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
