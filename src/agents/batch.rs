//! Rows of different length as one rectangle, with what is real marked.

use super::{AgentInput, TeamConfig, TeamPlan};
use crate::communication::MessageLayout;
use crate::error::{Error, Result};
use crate::rectangle::{Padding, Rectangle, padded, real};
use crate::text::TokenizedSample;

/// Token ids of `B` rows padded to one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PaddedIds {
    /// Rows `B`.
    pub batch: usize,
    /// Ids per row, padding included.
    pub len: usize,
    /// `[B, len]`, row-major; 0 at padding.
    pub ids: Vec<u32>,
    /// `[B, len]`, false at padding.
    pub valid: Vec<bool>,
}

impl PaddedIds {
    /// Pads on the left, so that the last position of every row is real.
    pub fn left(rows: &[&[u32]]) -> Self {
        Self::pad(rows, Padding::Left)
    }

    /// Pads on the right.
    pub fn right(rows: &[&[u32]]) -> Self {
        Self::pad(rows, Padding::Right)
    }

    fn pad(rows: &[&[u32]], padding: Padding) -> Self {
        Self {
            batch: rows.len(),
            len: rows.iter().map(|row| row.len()).max().unwrap_or(0),
            ids: padded(rows, 0, padding),
            valid: real(rows.iter().map(|row| row.len()), padding),
        }
    }

    /// `cells` of this rectangle's size.
    fn cells<'a, T>(&self, cells: &'a [T]) -> Rectangle<'a, T> {
        Rectangle { batch: self.batch, len: self.len, cells }
    }

    /// The first `len` columns.
    pub fn truncated(&self, len: usize) -> Self {
        Self {
            batch: self.batch,
            len,
            ids: self.cells(&self.ids).columns(0, len),
            valid: self.cells(&self.valid).columns(0, len),
        }
    }

    /// How many ids are real.
    pub fn count(&self) -> usize {
        self.valid.iter().filter(|&&v| v).count()
    }
}

/// Samples of one micro-batch: every agent's prompts, and the targets where there are any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeamBatch {
    /// What each agent reads of its own, left-padded: prompts, or embeddings in their place.
    pub prompts: Vec<AgentInput>,
    /// Right-padded targets.
    pub target: Option<PaddedIds>,
    /// Right-padded trajectories, for each upstream agent that has one in some row; empty where none has.
    pub trajectories: Vec<Option<PaddedIds>>,
    /// The number of each row's sample among all rows of an update, whatever micro-batch it stands in: what is drawn for a sample, or
    /// known of it, goes by this.
    pub numbers: Vec<u64>,
}

impl TeamBatch {
    /// Pads `samples`, numbered from 0, into a batch. Either all of them have a target, or the batch has none.
    ///
    /// # Panics
    /// If there is no sample or they are of different teams.
    pub fn new(samples: &[&TokenizedSample]) -> Self {
        let agents = samples[0].prompts.len();
        let prompts = (0..agents)
            .map(|j| {
                PaddedIds::left(&samples.iter().map(|s| s.prompts[j].as_slice()).collect::<Vec<_>>()).into()
            })
            .collect();
        let targets: Option<Vec<_>> = samples.iter().map(|s| s.target.as_deref()).collect();
        let trajectory = |j: usize| {
            let rows: Vec<&[u32]> = samples
                .iter()
                .map(|s| s.trajectories.get(j).and_then(Option::as_deref).unwrap_or_default())
                .collect();
            rows.iter().any(|r| !r.is_empty()).then(|| PaddedIds::right(&rows))
        };
        let trajectories = (0..agents.saturating_sub(1)).map(trajectory).collect();
        let numbers = (0..samples.len() as u64).collect();
        Self { prompts, target: targets.map(|t| PaddedIds::right(&t)), trajectories, numbers }
    }

    /// The same samples under other numbers.
    ///
    /// # Panics
    /// If there is not one for each row.
    pub fn numbered(self, numbers: Vec<u64>) -> Self {
        assert_eq!(numbers.len(), self.rows(), "a number for each row");
        Self { numbers, ..self }
    }

    /// The same samples without trajectories.
    pub fn without_trajectories(self) -> Self {
        Self { trajectories: Vec::new(), ..self }
    }

    /// The trajectories of agent `j`, where it has any.
    pub fn trajectory(&self, j: usize) -> Option<&PaddedIds> {
        self.trajectories.get(j)?.as_ref()
    }

    /// Whether agent `j` has trajectory in some row.
    pub fn has_trajectory(&self, j: usize) -> bool {
        self.trajectory(j).is_some()
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.prompts[0].batch()
    }

    /// Target tokens of all rows.
    pub fn target_tokens(&self) -> usize {
        self.target.as_ref().map_or(0, PaddedIds::count)
    }

    /// Prompt and target tokens of all rows and agents.
    pub fn tokens(&self) -> usize {
        let trajectories = self.trajectories.iter().flatten().map(PaddedIds::count).sum::<usize>();
        self.prompts.iter().map(AgentInput::count).sum::<usize>() + trajectories + self.target_tokens()
    }
}

/// Checks that every position of the team fits the model's context, once per sample.
///
/// # Errors
/// If trace, prompt and `answer` tokens together, or an agent's thought and its trajectory, are longer than `max_positions`, naming the
/// sample's line.
pub fn check_context(
    config: &TeamConfig,
    sample: &TokenizedSample,
    answer: usize,
    max_positions: usize,
) -> Result<()> {
    // Checked before anything of that size is made; the sum over agents is checked with their places.
    let most = |j: usize| sample.prompts[j].len().saturating_add(config.steps(j));
    if (0..config.agents.len()).all(|j| most(j) <= max_positions) {
        return check_places(config, sample, answer, max_positions);
    }
    let (longest, n) =
        (0..config.agents.len()).map(|j| (j, most(j))).max_by_key(|(_, n)| *n).expect("an agent");
    Err(Error::invalid(format!(
        "line {}: prompt and latent positions of agent `{}` are {n}, but the model has {max_positions} \
         (max_position_embeddings); shorten its prompt or lower latent_steps",
        sample.line, config.agents[longest].name
    )))
}

fn check_places(
    config: &TeamConfig,
    sample: &TokenizedSample,
    answer: usize,
    max_positions: usize,
) -> Result<()> {
    let batch = TeamBatch::new(&[sample]);
    // The most that a segment of any channel takes.
    let plan = TeamPlan::new(config, &batch, |rollout| MessageLayout {
        segment: config.channel.kind.segments.then(|| rollout.segment()),
        vectors: None,
    });
    let last = config.agents.len() - 1;
    for (j, agent) in plan.agents.iter().enumerate() {
        let (prompt, steps) = (sample.prompts[j].len(), config.steps(j));
        let (mut text, mut before) = (batch.trajectory(j).map_or(0, |e| e.len), agent.start[0] as usize);
        if config.channel.kind.text {
            before = config.reads(j).iter().map(|&r| config.message_tokens(r)).fold(0, usize::saturating_add);
            text = text.max(config.message_tokens(j));
        }
        if j == last {
            text = answer;
        }
        let total = before.saturating_add(prompt).saturating_add(steps).saturating_add(text);
        if total > max_positions {
            return Err(Error::invalid(format!(
                "line {}: agent `{}` reads {before} positions, has {prompt} prompt tokens and {steps} latent positions, and \
                 writes {text} tokens: {total} positions, but the model has {max_positions} (max_position_embeddings); \
                 shorten prompts or lower latent_steps",
                sample.line, config.agents[j].name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_pad_left_and_targets_right() {
        let l = PaddedIds::left(&[&[5], &[6, 7]]);
        assert_eq!((l.ids, l.valid), (vec![0, 5, 6, 7], vec![false, true, true, true]));
        let r = PaddedIds::right(&[&[5], &[6, 7]]);
        assert_eq!((r.ids.clone(), r.count()), (vec![5, 0, 6, 7], 3));
        assert_eq!(r.truncated(1).ids, [5, 6]);
    }
}
