//! The inside of a team on a few samples: attention weights by sender, the logit lens on latent positions, one question from prompt to answer.

use std::ops::ControlFlow;

use diffmas_backends::{ModelBackend, host_data};
use serde::{Deserialize, Serialize};

use super::Checking;
use crate::agents::{AgentInput, SenderAttention, Team, TeamBatch};
use crate::backbone::Backbone;
use crate::communication::{MessageDtype, ReceivedMessages, Rollout};
use crate::error::Result;
use crate::inference::{Writing, decode, roll_out_upstream};
use crate::text::{TokenizedSample, Tokenizer};

/// Tokens of the logit lens at each position.
const LENS: usize = 3;

/// What was seen inside a team; `inspection.json` in an output folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Names of the agents in order; the last one answers.
    pub agents: Vec<String>,
    /// What the numbers of messages are rounded to.
    #[serde(default)]
    pub message_dtype: MessageDtype,
    /// Samples that the means below run over.
    pub samples: usize,
    /// How much each reader attended to what it found, one entry for each agent that receives a message.
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
    /// positions (keys and values) or is the null key's (vectors).
    #[serde(deserialize_with = "crate::files::null::rows")]
    pub weights: Vec<Vec<f64>>,
}

/// The latent positions of one sender through the logit lens: the language model's head on the hidden state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latents {
    /// Name of the agent whose rollout they are.
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
    #[serde(deserialize_with = "crate::files::null::number")]
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
    #[serde(flatten, with = "super::former_names::is_correct")]
    pub is_correct: Option<bool>,
}

/// Runs `team` on `samples` and records attention weights, the logit lens of latent positions, and the first sample from prompt to answer.
/// `writing` generates the messages of the channel `text`.
///
/// # Errors
/// If tokens are no text, or a prompt cannot be made of what was written.
///
/// # Panics
/// If there is no sample.
pub fn inspect<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    writing: Option<&Writing>,
    checking: &Checking,
    tokenizer: &Tokenizer,
) -> Result<Inspection> {
    let sample_ids: Vec<u64> = (0..samples.len() as u64).collect();
    let last = team.layout.config.agents.len() - 1;
    let mut attention = Vec::new();
    let mut rollouts = Vec::new();
    // Where there are latent rollouts, nothing is written: prompts are those of `samples`.
    let unwritten = TeamBatch::new(&samples.iter().collect::<Vec<_>>());
    let upstream = roll_out_upstream(team, samples, writing, &sample_ids, |rollout, found| {
        attention.extend(attends(team, rollout.sender, &unwritten.prompts[rollout.sender], found));
        rollouts.push(rollout.clone());
    })?;
    let batch = upstream.batch();
    let (received, prompt) = (&upstream.received.select(&batch.messages), &batch.prompts[last]);
    attention.extend(attends(team, last, prompt, received));
    attention.extend(attends_to_vectors(team, prompt, received));
    let lens = rollouts.iter().filter(|rollout| rollout.latents.len() > 1);
    let latents = lens.map(|rollout| latents(team, rollout, tokenizer)).collect::<Result<_>>()?;
    let options = &checking.options;
    let context = team.read(received);
    // Only the traced sample's answer is shown; the others need not be written to their ends.
    let traced = |row, _| if row == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    let answers = decode(team.answering(), prompt, &context, options, &sample_ids, traced)
        .map_err(|e| e.of_agent(team.layout.config.final_name()))?;
    let first = &upstream.samples[0];
    let written = upstream.written.first().into_iter().flatten();
    let target = options.without_end(first.target.as_deref().unwrap_or_default());
    let example = Example {
        line: first.line,
        prompts: first.prompts.iter().map(|ids| tokenizer.decode(ids)).collect::<Result<_>>()?,
        written: written.map(|w| tokenizer.decode(&w.token_ids)).collect::<Result<_>>()?,
        message_bytes: upstream.message_bytes(0, team.layout.config.message_dtype),
        expected: (!target.is_empty()).then(|| tokenizer.decode(target)).transpose()?,
        answered: tokenizer.decode(&answers[0].token_ids)?,
        is_correct: checking.is_correct(first, &answers[0].token_ids)?,
    };
    let agents = team.layout.config.agents.iter().map(|agent| agent.name.clone()).collect();
    let message_dtype = team.layout.config.message_dtype;
    Ok(Inspection { agents, message_dtype, samples: samples.len(), attention, latents, example })
}

/// How agent `j` attends to the segments that it found, if it found any.
fn attends<B: ModelBackend>(
    team: &Team<B>,
    j: usize,
    prompt: &AgentInput,
    found: &ReceivedMessages<B>,
) -> Option<Attention> {
    let attention = team.segment_attention(j, prompt, found)?;
    // Every position counts as much as another, whatever row it is of.
    let of_rows = prompt.valid().chunks_exact(prompt.len());
    let counts: Vec<f64> = of_rows.map(|row| row.iter().filter(|v| **v).count() as f64).collect();
    let reader = team.layout.config.agents[j].name.clone();
    Some(averaged(team, reader, attention, &counts))
}

/// The weights as a mean over rows that count `counts`.
fn averaged<B: ModelBackend>(
    team: &Team<B>,
    reader: String,
    attention: SenderAttention,
    counts: &[f64],
) -> Attention {
    let total: f64 = counts.iter().sum();
    let mean = |layer: &Vec<Vec<f64>>| -> Vec<f64> {
        let of = |s: usize| layer.iter().zip(counts).map(|(row, n)| n * row[s]).sum::<f64>() / total;
        (0..attention.senders.len()).map(of).collect()
    };
    let weights = attention.weights.iter().map(mean).collect();
    let name = |&sender: &usize| team.layout.config.agents[sender].name.clone();
    let senders = attention.senders.iter().map(name).collect();
    Attention { reader, senders, layers: attention.layers, weights }
}

/// The cross-agent attention weights of the final agent over vectors, if it received any.
fn attends_to_vectors<B: ModelBackend>(
    team: &Team<B>,
    prompt: &AgentInput,
    found: &ReceivedMessages<B>,
) -> Option<Attention> {
    let attention = team.sender_attention(prompt, found)?;
    let reader = format!("{}, vectors", team.layout.config.final_name());
    Some(averaged(team, reader, attention, &vec![1.0; prompt.batch()]))
}

/// The first row's latent positions through the logit lens.
fn latents<B: ModelBackend>(team: &Team<B>, rollout: &Rollout<B>, tokenizer: &Tokenizer) -> Result<Latents> {
    let backbone: &Backbone<B> = &team.roles[rollout.sender];
    let positions = rollout.latents[1..].iter().map(|h| {
        let scores = B::softmax_last(backbone.logits(h.clone().narrow(0, 0, 1)));
        let mut scores: Vec<(usize, f64)> = host_data(scores).iter::<f64>().enumerate().collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        let token = |&(id, probability): &(usize, f64)| {
            Ok(LensToken { token: tokenizer.decode(&[id as u32])?, probability })
        };
        scores.iter().take(LENS).map(token).collect::<Result<Vec<_>>>()
    });
    let positions = positions.collect::<Result<_>>()?;
    Ok(Latents { sender: team.layout.config.agents[rollout.sender].name.clone(), positions })
}
