//! Scores of single samples.

use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::accuracy::gold;
use crate::text::{TokenizedSample, lines_by};

/// The score of one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleScore {
    /// Its line in the data file, from 1.
    pub line: usize,
    /// The question of its line, from 1.
    #[serde(flatten, with = "super::former_names::question_index")]
    pub question_index: usize,
    /// Mean NLL of its target tokens, in nats.
    pub loss: f64,
    /// Its target tokens.
    pub target_tokens: usize,
    /// Positions and vectors that the final agent found, padding not counted.
    pub trace_positions: usize,
    /// Whether the final agent's own answer was right, where that was checked.
    #[serde(flatten, with = "super::former_names::is_correct")]
    pub is_correct: Option<bool>,
    /// That answer, where there is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl SampleScore {
    /// The scores of each line.
    pub(super) fn lines(scores: &[Self]) -> Vec<Range<usize>> {
        lines_by(scores, |score| (score.line, score.question_index))
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
    /// What was asked.
    #[serde(flatten)]
    pub asked: Asked,
}

/// What a sample asks, as results say it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The field `id` of the line, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// The question, where there is text.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub question: Option<String>,
    /// What a right answer says, where that can be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
}

/// Files had a number there once.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_str().map(str::to_string))
}

impl Asked {
    /// What `sample` asks.
    pub fn of(sample: &TokenizedSample) -> Self {
        let field = |name: &str| sample.source.as_ref()?.fields.get(name);
        Self {
            id: field("id").cloned(),
            question: field("question").and_then(Value::as_str).map(str::to_string),
            gold: gold(sample),
        }
    }
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
