//! Answers as they are written.

use diffmas::Result;
use diffmas::agents::MessageDtype;
use diffmas::engine::RowAnswer;
use diffmas::evaluation::{Asked, Checking};
use diffmas::text::TokenizedSample;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One answer as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answered {
    pub line: usize,
    /// The question of its line, from 1, where the line has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_index: Option<usize>,
    #[serde(flatten)]
    pub asked: Asked,
    pub text: Option<String>,
    pub token_ids: Vec<u32>,
    /// What the upstream agents wrote, by role.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub messages: Map<String, Value>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// What `--json` adds; times are those of the answer's whole batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Details {
    stopped: bool,
    trace_positions: usize,
    trace_bytes: usize,
    /// Bytes of each message of internal state, by sender.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    message_bytes: Map<String, Value>,
    /// What the numbers of messages were rounded to.
    #[serde(default)]
    message_dtype: MessageDtype,
    /// How much the final agent attended to each sender, as a mean over layers and prompt positions; what is missing to 1 stayed with itself.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    attention: Map<String, Value>,
    batch_size: usize,
    think_seconds: f64,
    decode_seconds: f64,
}

impl Details {
    /// What is to be told of `answer`, whose batch took so long to decode.
    pub fn of(answer: &RowAnswer, message_dtype: MessageDtype, decode_seconds: f64) -> Self {
        let received = &answer.received;
        let named = |(name, weight): &(String, f64)| (name.clone(), Value::from(*weight));
        Self {
            stopped: answer.stopped,
            trace_positions: received.positions,
            trace_bytes: received.bytes,
            message_bytes: received.messages.iter().map(|m| (m.sender.clone(), m.bytes.into())).collect(),
            message_dtype,
            attention: answer.sender_attention.iter().map(named).collect(),
            batch_size: answer.batch_size,
            think_seconds: answer.rollout_seconds,
            decode_seconds,
        }
    }
}

/// The lines that were answered rightly, each with what its agents wrote, in the form of training data.
pub(super) fn trajectories(
    checking: &Checking,
    samples: &[TokenizedSample],
    answers: &[Answered],
) -> Result<Vec<Map<String, Value>>> {
    let mut lines = Vec::new();
    for (sample, answered) in samples.iter().zip(answers) {
        let right = checking.is_correct(sample, &answered.token_ids)? == Some(true);
        let whole = answered.messages.values().all(|text| text.as_str().is_some_and(|t| !t.is_empty()));
        let Some(source) = sample.source.as_ref().filter(|_| right && whole) else { continue };
        let mut line = source.line_fields();
        line.insert("trajectories".into(), Value::Object(answered.messages.clone()));
        lines.push(line);
    }
    Ok(lines)
}
