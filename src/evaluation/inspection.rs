//! What happened inside a team on a few samples: who attended to whom, what latent positions are near to, one question from prompt to
//! answer.

use serde::{Deserialize, Serialize};

/// What was seen inside a team; `inspection.json` in an output folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Names of the agents in order; the last one answers.
    pub agents: Vec<String>,
    /// Samples that the means below run over.
    pub samples: usize,
    /// How much each reader attended to what it found, one entry for each agent that reads somebody.
    pub attention: Vec<Attention>,
    /// What the latent positions of each sender are near to, for the traced sample.
    pub latents: Vec<Latents>,
    /// One sample from prompt to answer.
    pub example: Example,
}

/// The attention of one reader while it reads its prompt, by sender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Name of the agent that reads.
    pub reader: String,
    /// Names of the agents that it reads, in reading order.
    pub senders: Vec<String>,
    /// Indices of the layers that the rows of `weights` belong to.
    pub layers: Vec<usize>,
    /// Weight by layer and sender, a mean over heads, positions of the prompt and samples; what is missing to 1 stays with the reader's own
    /// positions (keys and values) or is on nobody (vectors).
    #[serde(deserialize_with = "super::null::rows")]
    pub weights: Vec<Vec<f64>>,
}

/// The latent positions of one sender through the logit lens: the language model's head on the hidden state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latents {
    /// Name of the agent that thought them.
    pub sender: String,
    /// The most probable tokens at each latent position, best first.
    pub positions: Vec<Vec<LensToken>>,
}

/// A token of the logit lens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensToken {
    /// Its text.
    pub token: String,
    /// Its probability under the head.
    #[serde(deserialize_with = "super::null::number")]
    pub probability: f64,
}

/// One sample, traced through the team.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Its line in the data file, from 1.
    pub line: usize,
    /// The prompt of each agent as text, in the order of the agents.
    pub prompts: Vec<String>,
    /// What each upstream agent wrote, on the channel `text`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<String>,
    /// Bytes of each upstream agent's message.
    pub message_bytes: Vec<usize>,
    /// The expected answer, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The team's greedy answer.
    pub answered: String,
    /// Whether it is right, where that can be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
}
