//! Rows of different length as one rectangle, with what is real marked.

use super::{AgentInput, TeamConfig, TeamPlan};
use crate::communication::{ChannelKind, MessageLayout};
use crate::error::{Error, Result};
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
        Self::pad(rows, |row, len| (len - row.len(), 0))
    }

    /// Pads on the right.
    pub fn right(rows: &[&[u32]]) -> Self {
        Self::pad(rows, |row, len| (0, len - row.len()))
    }

    fn pad(rows: &[&[u32]], amount: impl Fn(&[u32], usize) -> (usize, usize)) -> Self {
        let len = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        let mut padded = Self { batch: rows.len(), len, ..Self::default() };
        for row in rows {
            let (before, after) = amount(row, len);
            padded.ids.extend(std::iter::repeat_n(0, before).chain(row.iter().copied()));
            padded.ids.extend(std::iter::repeat_n(0, after));
            padded.valid.extend(std::iter::repeat_n(false, before));
            padded.valid.extend(std::iter::repeat_n(true, row.len()));
            padded.valid.extend(std::iter::repeat_n(false, after));
        }
        padded
    }

    /// The first `len` columns.
    pub fn truncated(&self, len: usize) -> Self {
        Self::beside(&[&self.columns(0, len)])
    }

    fn columns(&self, from: usize, to: usize) -> Self {
        let cut = |b: usize| b * self.len + from..b * self.len + to;
        Self {
            batch: self.batch,
            len: to - from,
            ids: (0..self.batch).flat_map(|b| self.ids[cut(b)].iter().copied()).collect(),
            valid: (0..self.batch).flat_map(|b| self.valid[cut(b)].iter().copied()).collect(),
        }
    }

    /// Several rectangles of the same rows side by side.
    ///
    /// # Panics
    /// If the numbers of rows differ or there is no rectangle.
    pub fn beside(parts: &[&PaddedIds]) -> Self {
        let batch = parts[0].batch;
        assert!(parts.iter().all(|p| p.batch == batch), "rectangles of different batches");
        let mut all = Self { batch, len: parts.iter().map(|p| p.len).sum(), ..Self::default() };
        for b in 0..batch {
            for p in parts {
                all.ids.extend_from_slice(&p.ids[b * p.len..(b + 1) * p.len]);
                all.valid.extend_from_slice(&p.valid[b * p.len..(b + 1) * p.len]);
            }
        }
        all
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
    /// Right-padded expert texts, for each upstream agent that has one in some row; empty where none has.
    pub experts: Vec<Option<PaddedIds>>,
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
        let expert = |j: usize| {
            let rows: Vec<&[u32]> = samples
                .iter()
                .map(|s| s.experts.get(j).and_then(Option::as_deref).unwrap_or_default())
                .collect();
            rows.iter().any(|r| !r.is_empty()).then(|| PaddedIds::right(&rows))
        };
        let experts = (0..agents.saturating_sub(1)).map(expert).collect();
        let numbers = (0..samples.len() as u64).collect();
        Self { prompts, target: targets.map(|t| PaddedIds::right(&t)), experts, numbers }
    }

    /// The same samples under other numbers.
    ///
    /// # Panics
    /// If there is not one for each row.
    pub fn numbered(self, numbers: Vec<u64>) -> Self {
        assert_eq!(numbers.len(), self.rows(), "a number for each row");
        Self { numbers, ..self }
    }

    /// The same samples without expert texts.
    pub fn without_experts(self) -> Self {
        Self { experts: Vec::new(), ..self }
    }

    /// The expert texts of agent `j`, where it has any.
    pub fn expert(&self, j: usize) -> Option<&PaddedIds> {
        self.experts.get(j)?.as_ref()
    }

    /// Whether agent `j` has expert text in some row.
    pub fn has_expert(&self, j: usize) -> bool {
        self.expert(j).is_some()
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
        let experts = self.experts.iter().flatten().map(PaddedIds::count).sum::<usize>();
        self.prompts.iter().map(AgentInput::count).sum::<usize>() + experts + self.target_tokens()
    }
}

/// Checks that every position of the team fits the model's context, once per sample.
///
/// # Errors
/// If trace, prompt and `answer` tokens together, or an agent's thought and its expert text, are longer than `max_positions`, naming the
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
    let segments = matches!(config.channel, ChannelKind::Trace | ChannelKind::Hybrid);
    let plan = TeamPlan::new(config, &batch, |thought| MessageLayout {
        segment: segments.then(|| thought.segment()),
        vectors: None,
    });
    let last = config.agents.len() - 1;
    for (j, agent) in plan.agents.iter().enumerate() {
        let (prompt, steps) = (sample.prompts[j].len(), config.steps(j));
        let (mut text, mut before) = (batch.expert(j).map_or(0, |e| e.len), agent.start[0] as usize);
        if config.channel == ChannelKind::Text {
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
