//! Scores of single samples.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::text::lines_by;

/// The score of one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleScore {
    /// Its line in the data file, from 1.
    pub line: usize,
    /// The question of its line, from 1.
    #[serde(default = "first")]
    pub question: usize,
    /// Mean NLL of its target tokens, in nats.
    pub loss: f64,
    /// Its target tokens.
    pub target_tokens: usize,
    /// Positions and vectors that the final agent found, padding not counted.
    pub trace_positions: usize,
    /// Whether the final agent's own answer was right, where that was checked.
    #[serde(flatten, with = "super::former_names::is_correct")]
    pub is_correct: Option<bool>,
}

/// What files say that have one question a line.
fn first() -> usize {
    1
}

impl SampleScore {
    /// The scores of each line.
    pub(super) fn lines(scores: &[Self]) -> Vec<Range<usize>> {
        lines_by(scores, |score| (score.line, score.question))
    }
}

/// The score of one sample with one control, as a line of `samples.jsonl` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlledScore {
    /// What the final agent read.
    #[serde(flatten, with = "super::former_names::control")]
    pub control: String,
    /// The score.
    #[serde(flatten)]
    pub score: SampleScore,
}

/// How many answers were right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Right answers by checked ones.
    pub accuracy: f64,
    /// Its 95 % interval: exact (Clopper and Pearson) where lines have one question; else with the effective sample size of Korn and Graubard,
    /// since answers of one line depend on one message.
    pub interval: [f64; 2],
    /// Answers that were checked.
    pub checked: usize,
}

impl Accuracy {
    /// The accuracy in percent with its interval, `98.6 % [97.3, 99.4]`; `unit` stands after the number.
    pub fn in_percent(&self, digits: usize, unit: &str) -> String {
        let [low, high] = self.interval.map(|x| 100.0 * x);
        format!("{:.digits$}{unit} [{low:.digits$}, {high:.digits$}]", 100.0 * self.accuracy)
    }
}
