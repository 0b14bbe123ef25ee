//! The works of inference. They panic on a device that has failed, as all that reads from one.

use std::ops::ControlFlow;
use std::slice;
use std::time::Instant;

use diffmas_backends::{ModelBackend, settle};

use super::clock::{Run, clocked};
use super::tokens::ids;
use crate::agents::{AgentInput, PaddedIds, Team, TeamBatch, prefill as read};
use crate::backbone::Backbone;
use crate::communication::{Context, Rollout};
use crate::error::Result;
use crate::inference::{Answer, DecodeOptions, Upstream, Writing, decode, roll_out_upstream};
use crate::text::TokenizedSample;

/// Up to the first token of the answer to one prompt of `tokens` tokens: an answer of one token. The run counts the prompt's.
///
/// # Errors
/// If a score is not finite.
pub fn prefill<B: ModelBackend>(backbone: &Backbone<B>, tokens: usize) -> Result<(Run, Answer)> {
    let prompt: AgentInput = padded("p", tokens, 1, backbone.config.vocab_size).into();
    let options = DecodeOptions { max_new_tokens: 1, ..DecodeOptions::default() };
    let more = |_, _| ControlFlow::Continue(());
    let answer = || decode(backbone, &prompt, &Context::empty(1), &options, &[0], more);
    let (answers, seconds) = clocked::<B, _>(&backbone.device(), answer);
    Ok((Run { seconds, count: prompt.count() }, answers?.remove(0)))
}

/// `rows` rows of `tokens` tokens each, read by nobody yet: what latent steps and answers go on from.
pub fn written<B: ModelBackend>(backbone: &Backbone<B>, tokens: usize, rows: usize) -> Context<B> {
    let prompt: AgentInput = padded("c", tokens, rows, backbone.config.vocab_size).into();
    let empty = Context::empty(rows);
    let mut next = empty.start.clone();
    let (_, kv) = read(backbone, prompt.embed(backbone), &empty, &mut next);
    Context { kv: vec![kv], start: next, ..empty }
}

/// The roll-out of the first agent of `team` on `context`, of one row: a prompt of one token, then the agent's latent steps. The run counts its
/// passes, the prompt's with them.
pub fn latent_steps<B: ModelBackend>(team: &Team<B>, context: &Context<B>) -> (Run, Rollout<B>) {
    let backbone = team.answering();
    let prompt: AgentInput = padded("l", 1, 1, backbone.config.vocab_size).into();
    let batch = TeamBatch::of_inputs(vec![prompt; team.layout.config.agents.len()]);
    let plan = team.plan(&batch);
    let roll_out = || team.roll_out(&[0], &batch, &plan, slice::from_ref(context));
    let (mut rollouts, seconds) = clocked::<B, _>(&backbone.device(), roll_out);
    let rollout = rollouts.remove(0);
    (Run { seconds, count: rollout.latents.len() }, rollout)
}

/// Answers on `context`, each after a prompt of one token: `tokens` tokens a row from the first on, which is not timed and with which all rows
/// but `stay` leave. The run counts the tokens.
///
/// # Errors
/// If a score is not finite.
///
/// # Panics
/// If no row stays.
pub fn decoding<B: ModelBackend>(
    backbone: &Backbone<B>,
    context: &Context<B>,
    tokens: usize,
    stay: usize,
) -> Result<(Run, Vec<Answer>)> {
    let (rows, device) = (context.batch(), backbone.device());
    let last = ids("d", 1, backbone.config.vocab_size);
    let prompt = PaddedIds::left(&vec![last.as_slice(); rows]).into();
    let options = DecodeOptions { max_new_tokens: tokens + 1, ..DecodeOptions::default() };
    let samples: Vec<u64> = (0..rows as u64).collect();
    let mut clock = None;
    let answers = decode(backbone, &prompt, context, &options, &samples, |row, _| {
        clock.get_or_insert_with(|| {
            settle::<B>(&device);
            Instant::now()
        });
        if row < stay { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    settle::<B>(&device);
    let seconds = clock.expect("a row wrote a token").elapsed().as_secs_f64();
    let count = answers.iter().take(stay).map(|answer| answer.token_ids.len() - 1).sum();
    Ok((Run { seconds, count }, answers))
}

/// The answer of a whole team to one question: its upstream agents, then `tokens` tokens of the final one. The run counts the positions that
/// were computed.
///
/// # Errors
/// If a prompt cannot be made, or a score is not finite.
pub fn answering<B: ModelBackend>(
    team: &Team<B>,
    sample: &TokenizedSample,
    writing: Option<&Writing>,
    tokens: usize,
) -> Result<(Run, Answer)> {
    let options = DecodeOptions { max_new_tokens: tokens, ..DecodeOptions::default() };
    let answer = || -> Result<_> {
        let upstream = roll_out_upstream(team, slice::from_ref(sample), writing, &[0], |_, _| ())?;
        let Upstream { received, positions, .. } = &upstream;
        let (batch, context) = (upstream.batch(), team.read(received));
        let prompt = batch.prompts.last().expect("a team has an agent");
        let more = |_, _| ControlFlow::Continue(());
        let mut answers = decode(team.answering(), prompt, &context, &options, &[0], more)?;
        let answer = answers.remove(0);
        Ok((positions + prompt.count() + answer.token_ids.len(), answer))
    };
    let (answered, seconds) = clocked::<B, _>(&team.answering().device(), answer);
    let (count, answer) = answered?;
    Ok((Run { seconds, count }, answer))
}

/// `rows` rows of `tokens` ids.
fn padded(tag: &str, tokens: usize, rows: usize, vocab: usize) -> PaddedIds {
    let rows: Vec<_> = (0..rows).map(|row| ids(&format!("{tag}/{row}"), tokens, vocab)).collect();
    PaddedIds::left(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
}
