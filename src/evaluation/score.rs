//! Loss, perplexity and accuracy on held-out samples.

use std::ops::Range;
use std::time::Instant;

use diffmas_backends::{ModelBackend, host_data};
use serde::{Deserialize, Serialize};

use super::intervals::{accuracy, loss_interval};
use super::sample_score::{Accuracy, SampleScore};
use super::{Checking, Control, Gains, Paired};
use crate::agents::Team;
use crate::error::{Error, Result};
use crate::inference::{Upstream, Writing, decode, roll_out_self, roll_out_upstream};
use crate::processes::Processes;
use crate::text::{TokenizedSample, lines};

/// The score of a set of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// What the final agent read.
    #[serde(flatten, with = "super::former_names::control")]
    pub control: String,
    /// Mean NLL over all target tokens, in nats.
    #[serde(deserialize_with = "crate::files::null::number")]
    pub loss: f64,
    /// Its 95 % interval over lines; none for fewer than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_interval: Option<[f64; 2]>,
    /// `exp(loss)`.
    #[serde(deserialize_with = "crate::files::null::number")]
    pub perplexity: f64,
    /// Right answers, where they were checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// Samples.
    pub samples: usize,
    /// Lines, where some have several questions: what intervals take as independent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<usize>,
    /// Target tokens of all samples.
    pub target_tokens: usize,
    /// Bytes of a message, as a mean over lines and senders; 0 where nothing was sent.
    pub message_bytes: usize,
    /// What answering cost, where answers were checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// How it does on each question against the real message, where both were scored together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_real: Option<Paired>,
    /// With the real message: by how much it is better than controls that were scored together with it.
    #[serde(flatten)]
    pub gains: Gains,
}

/// What it costs to answer a question, as a mean over questions that ran in batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds from token ids to the answer's.
    pub seconds: f64,
    /// Positions computed forward by all agents: prompts, latent steps, what was written and the answer.
    pub forward_positions: f64,
}

/// How a team is scored.
#[derive(Clone)]
pub struct Scoring<'a> {
    /// Lines that run together, each with all its questions.
    pub batch_size: usize,
    /// What the final agent reads.
    pub control: &'a Control,
    /// Seed of controls.
    pub seed: u64,
    /// How messages of text are generated, on the channel `text`; without it there are none.
    pub writing: Option<&'a Writing>,
    /// How answers are checked, if they are.
    pub checking: Option<&'a Checking>,
    /// The processes that share the batches; each of them gets all scores.
    pub processes: &'a dyn Processes,
}

/// Scores `samples`; `on_batch` sees the scores as they come.
///
/// # Errors
/// If a sample has no target or the control cannot be applied.
pub fn evaluate<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    scoring: &Scoring<'_>,
    mut on_batch: impl FnMut(&[SampleScore]) -> Result<()>,
) -> Result<Evaluation> {
    evaluate_after(team, samples, scoring, Vec::new(), |batch| on_batch(&batch.scores)).map(|(all, _)| all)
}

/// As [`evaluate`], going on after batches that are `done`; returns the scores, too.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_after<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    scoring: &Scoring<'_>,
    done: Vec<ScoredBatch>,
    mut on_batch: impl FnMut(&ScoredBatch) -> Result<()>,
) -> Result<(Evaluation, Vec<SampleScore>)> {
    let lines = lines(samples);
    scoring.control.validate(&team.layout.config, lines.len())?;
    if let Some(s) = samples.iter().find(|s| s.target.as_ref().is_none_or(Vec::is_empty)) {
        return Err(Error::invalid(format!("line {}: there is no answer to score", s.line)));
    }
    let room = scoring.checking.map_or(0, |checking| checking.options.max_new_tokens);
    scoring.control.check_context(
        &team.layout.config,
        samples,
        room,
        team.layout.sizes.max_position_embeddings,
    )?;
    let others = scoring.control.senders(lines.len(), scoring.seed);
    let mut all: Vec<SampleScore> = Vec::with_capacity(samples.len());
    let mut total = Spent::default();
    for ScoredBatch { scores, spent } in done {
        total.add(&spent);
        all.extend(scores);
    }
    let open: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].start >= all.len()).collect();
    let score = |rows: &[usize]| {
        let questions = lines[rows[0]].start..lines[rows[rows.len() - 1]].end;
        let own = samples[questions.clone()].to_vec();
        let first = |line: usize| &samples[lines[line].start];
        let sender =
            |&i: &usize| others.as_ref().map(|others| scoring.control.input(first(i), first(others[i])));
        let senders = rows.iter().map(sender).collect();
        let sample_ids: Vec<u64> = questions.map(|i| i as u64).collect();
        score_batch(team, own, senders, scoring, &sample_ids)
    };
    let batches: Vec<&[usize]> = open.chunks(scoring.batch_size.max(1)).collect();
    for round in batches.chunks(scoring.processes.count()) {
        let own = round.get(scoring.processes.rank()).map(|rows| score(rows)).transpose()?;
        for batch in scoring.processes.all(own)?.into_iter().flatten() {
            on_batch(&batch)?;
            total.add(&batch.spent);
            all.extend(batch.scores);
        }
    }
    let tokens: usize = all.iter().map(|s| s.target_tokens).sum();
    let loss = all.iter().map(|s| s.loss * s.target_tokens as f64).sum::<f64>() / tokens.max(1) as f64;
    let checked = |line: &Range<usize>| all[line.clone()].iter().filter_map(|s| s.is_correct).collect();
    let checked: Vec<Vec<bool>> = lines.iter().map(checked).collect();
    let evaluation = Evaluation {
        control: scoring.control.to_string(),
        loss,
        loss_interval: loss_interval(&all, &lines, loss, tokens),
        perplexity: loss.exp(),
        accuracy: accuracy(&checked),
        samples: samples.len(),
        clusters: Some(lines.len()).filter(|&n| n < samples.len()),
        target_tokens: tokens,
        message_bytes: total.bytes / total.messages.max(1),
        cost: scoring.checking.map(|_| Cost {
            seconds: total.seconds / samples.len().max(1) as f64,
            forward_positions: total.positions as f64 / samples.len().max(1) as f64,
        }),
        against_real: None,
        gains: Gains::default(),
    };
    Ok((evaluation, all))
}

/// What one batch adds to an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredBatch {
    /// The scores of its samples.
    pub scores: Vec<SampleScore>,
    spent: Spent,
}

/// What upstream agents sent to the final one, and what that and its answers cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Spent {
    bytes: usize,
    messages: usize,
    positions: usize,
    seconds: f64,
}

impl Spent {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.messages += other.messages;
        self.positions += other.positions;
        self.seconds += other.seconds;
    }
}

/// Scores whole lines; their messages are those of `senders`, one for each, if there are any.
fn score_batch<B: ModelBackend>(
    team: &Team<B>,
    own: Vec<TokenizedSample>,
    senders: Option<Vec<TokenizedSample>>,
    scoring: &Scoring<'_>,
    sample_ids: &[u64],
) -> Result<ScoredBatch> {
    let config = &team.layout.config;
    let clock = Instant::now();
    let writing = scoring.writing.filter(|_| *scoring.control != Control::None);
    let mut upstream = match senders {
        None if *scoring.control == Control::SelfRollout => roll_out_self(team, &own),
        None => roll_out_upstream(team, &own, writing, sample_ids, |_, _| ())?,
        Some(senders) => {
            let message_ids: Vec<u64> = lines(&own).into_iter().map(|line| sample_ids[line.start]).collect();
            let theirs = roll_out_upstream(team, &senders, writing, &message_ids, |_, _| ())?;
            Upstream { samples: own, ..theirs }
        }
    };
    let batch = upstream.batch().numbered(sample_ids.to_vec());
    let message_ids = batch.message_numbers();
    upstream.received = scoring.control.apply(upstream.received, config, scoring.seed, &message_ids);
    let bytes: Vec<usize> =
        (0..message_ids.len()).flat_map(|row| upstream.message_bytes(row, config.message_dtype)).collect();
    let prompt = batch.prompts.last().expect("a team has an agent");
    let mut spent = Spent {
        bytes: bytes.iter().sum(),
        messages: bytes.len(),
        positions: upstream.positions + prompt.count(),
        seconds: 0.0,
    };
    let context = team.read(&upstream.received).select(&batch.messages);
    let mut answered = vec![(None, None); batch.rows()];
    if let Some(checking) = scoring.checking {
        let answers = decode(team.answering(), prompt, &context, &checking.options, sample_ids, |_, _| {
            std::ops::ControlFlow::Continue(())
        })
        .map_err(|e| e.of_agent(config.final_name()))?;
        spent.seconds = clock.elapsed().as_secs_f64();
        for ((answered, sample), answer) in answered.iter_mut().zip(&upstream.samples).zip(answers) {
            spent.positions += answer.token_ids.len();
            let text = checking.tokenizer.as_ref().map(|t| t.decode(&answer.token_ids)).transpose()?;
            *answered = (checking.is_correct(sample, &answer.token_ids)?, text);
        }
    }
    let target = batch.target.as_ref().expect("every sample has a target");
    let nll = team.target_nll(prompt, target, &context);
    let mut nll = host_data(nll).iter::<f64>().collect::<Vec<_>>().into_iter();
    let Upstream { samples, received, .. } = &upstream;
    let mut scores = Vec::with_capacity(samples.len());
    for ((sample, (is_correct, text)), &message) in samples.iter().zip(answered).zip(&batch.messages) {
        let n = sample.target.as_ref().map_or(0, Vec::len);
        let tokens: Vec<f64> = nll.by_ref().take(n).collect();
        if let Some(token) = tokens.iter().position(|nll| !nll.is_finite()) {
            let position =
                received.start[message] as usize + sample.prompts.last().map_or(0, Vec::len) + token;
            return Err(Error::invalid(format!(
                "line {}: agent `{}`: the loss of the token at position {position} is not finite: a weight of the model or the \
                 adapter, or a message, is damaged or too large",
                sample.line,
                config.final_name()
            )));
        }
        scores.push(SampleScore {
            line: sample.line,
            question_index: sample.question,
            loss: tokens.iter().sum::<f64>() / n.max(1) as f64,
            target_tokens: n,
            trace_positions: received.positions(message),
            is_correct,
            text,
        });
    }
    Ok(ScoredBatch { scores, spent })
}
