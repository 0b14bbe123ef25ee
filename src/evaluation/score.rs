//! Loss and perplexity of the target on held-out samples.

use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};

use super::{Control, derangement};
use crate::agents::{Team, TeamBatch, TeamPlan};
use crate::error::{Error, Result};
use crate::text::TokenizedSample;

/// The score of one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleScore {
    /// Its line in the data file, from 1.
    pub line: usize,
    /// Mean NLL of its target tokens, in nats.
    pub loss: f64,
    /// Its target tokens.
    pub target_tokens: usize,
    /// Positions of the trace that the final agent found, padding not counted.
    pub trace_positions: usize,
}

/// The score of a set of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// What the final agent read.
    pub trace: String,
    /// Mean NLL over all target tokens, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Samples.
    pub samples: usize,
    /// Target tokens of all samples.
    pub target_tokens: usize,
}

/// Scores `samples` in batches with `control` in place of the trace; `on_batch(samples done, scores)` sees them as they come.
///
/// # Errors
/// If a sample has no target or the control cannot be applied.
pub fn evaluate<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    batch_size: usize,
    control: &Control,
    seed: u64,
    mut on_batch: impl FnMut(&[SampleScore]) -> Result<()>,
) -> Result<Evaluation> {
    control.validate(&team.config, samples.len())?;
    if let Some(s) = samples.iter().find(|s| s.target.as_ref().is_none_or(Vec::is_empty)) {
        return Err(Error::invalid(format!("line {}: there is no answer to score", s.line)));
    }
    let others = (*control == Control::Shuffled).then(|| derangement(samples.len(), seed));
    let (mut sum, mut tokens) = (0.0, 0);
    let indices: Vec<usize> = (0..samples.len()).collect();
    for rows in indices.chunks(batch_size.max(1)) {
        let batch = TeamBatch::new(&rows.iter().map(|&i| &samples[i]).collect::<Vec<_>>());
        let upstream = match &others {
            Some(other) => TeamBatch::new(&rows.iter().map(|&i| &samples[other[i]]).collect::<Vec<_>>()),
            None => batch.clone(),
        };
        let scores = score_batch(team, &batch, &upstream, control, seed, rows, samples)?;
        sum += scores.iter().map(|s| s.loss * s.target_tokens as f64).sum::<f64>();
        tokens += scores.iter().map(|s| s.target_tokens).sum::<usize>();
        on_batch(&scores)?;
    }
    let loss = sum / tokens.max(1) as f64;
    Ok(Evaluation {
        trace: control.to_string(),
        loss,
        perplexity: loss.exp(),
        samples: samples.len(),
        target_tokens: tokens,
    })
}

fn score_batch<B: ModelBackend>(
    team: &Team<B>,
    batch: &TeamBatch,
    upstream: &TeamBatch,
    control: &Control,
    seed: u64,
    rows: &[usize],
    samples: &[TokenizedSample],
) -> Result<Vec<SampleScore>> {
    let last = team.config.agents.len() - 1;
    let streams: Vec<u64> = rows.iter().map(|&i| i as u64).collect();
    let plan = TeamPlan::new(&team.config, upstream);
    let trace = team.think_all(upstream, &plan);
    let (trace, start) = control.apply(trace, &plan.stages[last].start, &team.config, seed, &streams);
    let target = batch.target.as_ref().expect("every sample has a target");
    let nll = team.target_nll(&batch.prompts[last], target, &trace, &start);
    let mut nll = nll.into_data().iter::<f64>().collect::<Vec<_>>().into_iter();
    Ok(rows
        .iter()
        .enumerate()
        .map(|(row, &i)| {
            let n = samples[i].target.as_ref().map_or(0, Vec::len);
            let total: f64 = nll.by_ref().take(n).sum();
            SampleScore {
                line: samples[i].line,
                loss: total / n.max(1) as f64,
                target_tokens: n,
                trace_positions: trace.positions(row),
            }
        })
        .collect())
}
