//! Ways of solving the same questions, side by side.

use serde::{Deserialize, Serialize};

use super::{Accuracy, Cost, Paired};

/// Ways of answering the same questions; `comparison.json` in an output folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was compared, in a few words.
    pub title: String,
    /// Accuracy of the best constant answer.
    pub guessing: f64,
    /// One entry a method, in the order in which they are shown.
    pub rows: Vec<Method>,
}

/// What a method of answering is in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What frames the others: all evidence in one context, the final agent alone.
    Bound,
    /// Another method of communicating.
    Baseline,
    /// The trained team.
    Trained,
    /// The trained team with a control in place of the message.
    Control,
}

/// One method of answering, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// Its name, as it is shown.
    pub name: String,
    /// What it is in the comparison.
    pub part: Part,
    /// What its agents pass on, by the name of the channel; nothing where there is one agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Right answers.
    pub accuracy: Accuracy,
    /// Positions of a message: latent ones, vectors, or tokens of text; a mean as [`Method::message_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_positions: Option<f64>,
    /// Bytes of a message, as a mean over samples and senders.
    pub message_bytes: f64,
    /// What a question costs.
    #[serde(flatten)]
    pub cost: Cost,
    /// How a control does on each question against the trained team's real message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_real: Option<Paired>,
}
