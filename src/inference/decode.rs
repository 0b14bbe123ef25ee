//! The decode loop of an agent that answers, for a batch of rows.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use diffmas_backends::ModelBackend;
use rand_chacha::ChaCha8Rng;

use super::Sampling;
use super::sampling::penalise;
use crate::agents::{AgentInput, Embedded, last_position, prefill, read_on};
use crate::backbone::{Backbone, KeyValues};
use crate::communication::Context;
use crate::error::{Error, Result};
use crate::random::generator;

/// Generated positions after which the growing block is joined to what no longer grows: growth then copies few positions a token.
const CHUNK: usize = 64;

/// How to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Hugging Face's `repetition_penalty`, on the tokens of the final agent's prompt and of the answer so far; 1 changes nothing.
    /// Upstream agents' prompts do not count: the final agent reads them as keys and values, not as tokens.
    pub repetition_penalty: f64,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Tokens that end an answer; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Seed of all draws; each sample draws from a stream of its own.
    pub seed: u64,
}

impl Default for DecodeOptions {
    /// Up to 256 best tokens.
    fn default() -> Self {
        Self {
            sampling: Sampling::Greedy,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            stop_tokens: Vec::new(),
            seed: 0,
        }
    }
}

impl DecodeOptions {
    /// `ids` without the token that ends them, where they end with one.
    pub fn without_end<'a>(&self, ids: &'a [u32]) -> &'a [u32] {
        match ids.split_last() {
            Some((last, rest)) if self.stop_tokens.contains(last) => rest,
            _ => ids,
        }
    }
}

/// What the final agent wrote for one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its tokens, without the one that ended it.
    pub token_ids: Vec<u32>,
    /// Whether it ended by a stop token or by its reader rather than by `max_new_tokens`.
    pub stopped: bool,
}

/// Lets an agent answer on `context` with its backbone; `sample_ids` numbers the samples, `on_token(row, token)` sees tokens as they come and
/// ends the row's answer with `Break`.
///
/// A row's answer depends neither on the other rows nor on padding.
///
/// # Errors
/// If a score is not finite, naming the position: no token could be chosen, only made up.
pub fn decode<B: ModelBackend>(
    backbone: &Backbone<B>,
    prompt: &AgentInput,
    context: &Context<B>,
    options: &DecodeOptions,
    sample_ids: &[u64],
    mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Answer>> {
    let rows = prompt.batch();
    let mut rngs: Vec<ChaCha8Rng> =
        sample_ids.iter().map(|&stream| generator(options.seed, stream)).collect();
    let mut answers = vec![Answer::default(); rows];
    if options.max_new_tokens == 0 {
        return Ok(answers);
    }
    let penalty = options.repetition_penalty;
    let mut seen: Vec<BTreeSet<u32>> = if penalty == 1.0 { Vec::new() } else { distinct(prompt) };
    let mut next = context.start.clone();
    let (hidden, mut still) = prefill(backbone, prompt.embed(backbone), context, &mut next);
    let mut last = last_position(hidden, rows);
    let mut growing: Option<KeyValues<B>> = None;
    loop {
        let mut logits: Vec<f32> = backbone.logits(last).into_data().iter::<f32>().collect();
        let mut tokens = vec![0u32; rows];
        let vocab = logits.len() / rows;
        for (row, scores) in logits.chunks_exact_mut(vocab).enumerate() {
            let answer = &mut answers[row];
            if answer.stopped {
                continue;
            }
            if scores.iter().any(|score| !score.is_finite()) {
                return Err(Error::invalid(format!(
                    "the scores of the token after position {} are not finite: a weight of the model or the adapter, or a message, is \
                     damaged or too large",
                    next[row] - 1
                )));
            }
            if let Some(seen) = seen.get(row) {
                penalise(scores, seen, penalty);
            }
            let token = options.sampling.choose(scores, &mut rngs[row]);
            if options.stop_tokens.contains(&token) {
                answer.stopped = true;
            } else {
                answer.token_ids.push(token);
                tokens[row] = token;
                if let Some(seen) = seen.get_mut(row) {
                    seen.insert(token);
                }
                answer.stopped = on_token(row, token).is_break();
            }
        }
        if answers.iter().all(|a| a.stopped || a.token_ids.len() >= options.max_new_tokens) {
            return Ok(answers);
        }
        if growing.as_ref().is_some_and(|g| g.len() >= CHUNK) {
            still =
                KeyValues::cat(&[Some(&still), growing.as_ref()].into_iter().flatten().collect::<Vec<_>>())
                    .expect("a prompt is never empty");
            growing = None;
        }
        let past: Vec<&KeyValues<B>> = context.kv.iter().chain([&still]).collect();
        let input = Embedded { x: backbone.embed(&tokens), batch: rows, valid: vec![true; rows] };
        let hook = context.hook.as_deref();
        let (hidden, grown) = read_on(backbone, input, &past, growing.as_ref(), hook, &mut next);
        last = hidden;
        growing = Some(grown);
    }
}

/// The tokens that each row's prompt holds; embeddings are none.
fn distinct(prompt: &AgentInput) -> Vec<BTreeSet<u32>> {
    let Some(prompt) = prompt.ids() else { return vec![BTreeSet::new(); prompt.batch()] };
    let rows = prompt.ids.chunks_exact(prompt.len).zip(prompt.valid.chunks_exact(prompt.len));
    rows.map(|(ids, valid)| ids.iter().zip(valid).filter(|(_, v)| **v).map(|(&id, _)| id).collect()).collect()
}
