//! What the final agent receives: the upstream agents of a batch, and its control.

use std::time::Instant;

use diffmas_backends::ModelBackend;

use super::super::Session;
use super::super::stream::Tell;
use super::super::trace::through_file;
use super::event::{AnswerEvent, RolledOut};
use super::received::{Received, Written};
use super::request::{AnswerRequest, AnswerRow};
use crate::agents::{AgentInput, Team, TeamConfig};
use crate::communication::{Context, ReceivedMessages};
use crate::error::Result;
use crate::evaluation::Control;
use crate::inference::{DecodeOptions, Upstream, Writing, WrittenMessage, roll_out_self, roll_out_upstream};
use crate::text::{TokenizedSample, lines};

/// Rows whose upstream agents are done: what their final agent goes on from.
pub(super) struct Group<B: ModelBackend> {
    /// The rows, by their places in the request.
    pub rows: Vec<usize>,
    /// The final agent's prompts.
    pub prompt: AgentInput,
    /// What it attends to before them.
    pub context: Context<B>,
    /// The same in numbers, by row.
    pub received: Vec<Received>,
    /// How much it attends to each sender of vectors, by row; empty where that was not asked for.
    pub sender_attention: Vec<Vec<(String, f64)>>,
    /// Wall-clock seconds of the upstream agents.
    pub seconds: f64,
}

/// The rows of a batch by what their messages are computed with: those of a group have it in common.
pub(super) fn groups(session: &Session, rows: &[AnswerRow], batch: &[usize]) -> Vec<Vec<usize>> {
    let key = |row: usize| {
        let options = &rows[row].options;
        let (control, decode) = (&options.control, &options.decode);
        let writes = session.team.channel.kind.text && *control != Control::None;
        // The length of an answer changes no message.
        let writing = writes.then(|| DecodeOptions { max_new_tokens: 0, ..decode.clone() });
        (control, (*control == Control::Random).then_some(decode.seed), writing)
    };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &row in batch {
        match groups.iter_mut().find(|group| key(group[0]) == key(row)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// Runs the upstream agents of the rows `group`, and applies the control that these have in common.
///
/// # Errors
/// If a prompt cannot be made, a score is not finite, or the trace file does not fit.
pub(super) fn roll_out<B: ModelBackend>(
    session: &Session,
    team: &Team<B>,
    request: &AnswerRequest,
    group: Vec<usize>,
    tell: &Tell<AnswerEvent, ()>,
) -> Result<Group<B>> {
    let config = &team.layout.config;
    let rows: Vec<&AnswerRow> = group.iter().map(|&row| &request.rows[row]).collect();
    let ids: Vec<u64> = rows.iter().map(|row| row.sample_id).collect();
    let (control, decode) = (&rows[0].options.control, &rows[0].options.decode);

    let clock = Instant::now();
    let writing = session.writing(session.with_stop_tokens(decode.clone()));
    let writing = writing.filter(|_| *control != Control::None);
    let upstream = match &request.trace {
        Some(file) => {
            let own: Vec<TokenizedSample> = rows.iter().map(|row| row.sample.clone()).collect();
            let run = || roll_out_upstream(team, &own, writing.as_ref(), &ids, |_, _| ());
            through_file(file, session, team, &own, decode.max_new_tokens, run)?
        }
        None if *control == Control::SelfRollout => {
            roll_out_self(team, &rows.iter().map(|row| row.sample.clone()).collect::<Vec<_>>())
        }
        None => of_senders(team, &rows, writing.as_ref(), &ids)?,
    };
    let written = upstream.written.iter().map(|row| written(session, config, row));
    let written: Vec<Vec<Written>> = written.collect::<Result<_>>()?;
    let batch = upstream.batch().numbered(ids);
    let messages = control.apply(upstream.received, config, decode.seed, &batch.message_numbers());
    let seconds = clock.elapsed().as_secs_f64();
    let sizes = |&row: &usize| Received {
        written: written.get(row).cloned().unwrap_or_default(),
        ..Received::of(&messages, config, row)
    };
    let received: Vec<Received> = batch.messages.iter().map(sizes).collect();
    tell.event(AnswerEvent::RolledOut(RolledOut {
        rows: group.clone(),
        received: received.clone(),
        seconds,
    }));

    let prompt = batch.prompts.last().expect("a team has an agent").clone();
    let sender_attention = match request.sender_attention {
        true => by_sender(team, &prompt, &messages.select(&batch.messages), group.len()),
        false => Vec::new(),
    };
    let context = team.read(&messages).select(&batch.messages);
    Ok(Group { rows: group, context, prompt, received, sender_attention, seconds })
}

/// The messages of the samples that send to `rows`, which are not always those that are asked; those of a line's first question are those of
/// all its questions.
fn of_senders<B: ModelBackend>(
    team: &Team<B>,
    rows: &[&AnswerRow],
    writing: Option<&Writing>,
    ids: &[u64],
) -> Result<Upstream<B>> {
    let samples: Vec<TokenizedSample> = rows.iter().map(|row| row.sample.clone()).collect();
    if rows.iter().all(|row| row.upstream.is_none()) {
        return roll_out_upstream(team, &samples, writing, ids, |_, _| ());
    }
    let first: Vec<usize> = lines(&samples).into_iter().map(|line| line.start).collect();
    let sender = |&i: &usize| rows[i].upstream.as_ref().unwrap_or(&rows[i].sample).clone();
    let senders: Vec<TokenizedSample> = first.iter().map(sender).collect();
    let ids: Vec<u64> = first.iter().map(|&i| ids[i]).collect();
    let upstream = roll_out_upstream(team, &senders, writing, &ids, |_, _| ())?;
    Ok(Upstream { samples, ..upstream })
}

/// How much the final agent attends to each sender of vectors, by row; to each sender of a segment, where none sends vectors.
fn by_sender<B: ModelBackend>(
    team: &Team<B>,
    prompt: &AgentInput,
    received: &ReceivedMessages<B>,
    rows: usize,
) -> Vec<Vec<(String, f64)>> {
    let last = team.layout.config.agents.len() - 1;
    let to_vectors = team.sender_attention(prompt, received);
    let Some(attention) = to_vectors.or_else(|| team.segment_attention(last, prompt, received)) else {
        return Vec::new();
    };
    let name = |&sender: &usize| team.layout.config.agents[sender].name.clone();
    let of_row = |row| attention.senders.iter().map(name).zip(attention.of_row(row)).collect();
    (0..rows).map(of_row).collect()
}

/// The messages of text for one row.
fn written(session: &Session, team: &TeamConfig, all: &[WrittenMessage]) -> Result<Vec<Written>> {
    let tokenizer = session.model.tokenizer.as_deref();
    let one = |message: &WrittenMessage| {
        let text = tokenizer.map_or(Ok(String::new()), |t| t.decode(&message.token_ids))?;
        Ok(Written { sender: team.agents[message.sender].name.clone(), text: text.trim().to_string() })
    };
    all.iter().map(one).collect()
}
