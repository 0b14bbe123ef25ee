//! Samples of a team as one batch.

use std::ops::Range;

use super::{AgentInput, PaddedIds};
use crate::text::TokenizedSample;

/// Samples of one micro-batch: every agent's prompts, and the targets where there are any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeamBatch {
    /// What each agent reads of its own, left-padded: prompts, or embeddings in their place.
    pub prompts: Vec<AgentInput>,
    /// Right-padded targets.
    pub target: Option<PaddedIds>,
    /// Right-padded trajectories, for each upstream agent that has one in some row; empty where none has.
    pub trajectories: Vec<Option<PaddedIds>>,
    /// For each agent and row, the range of the row's own prompt tokens that is content, where slots are spread over it; empty where whole
    /// prompts are.
    pub contents: Vec<Vec<Range<usize>>>,
    /// What a teacher reads before each row's target, left-padded, where every sample says so.
    pub teacher: Option<PaddedIds>,
    /// Whether each row's target stands in the data; else it is the teacher's own answer.
    pub labelled: Vec<bool>,
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
        let of_agent = |j: usize| samples.iter().filter_map(|s| s.contents.get(j).cloned()).collect();
        let teacher: Option<Vec<_>> = samples.iter().map(|s| s.teacher.as_deref()).collect();
        Self {
            prompts,
            target: targets.map(|t| PaddedIds::right(&t)),
            trajectories,
            contents: (0..agents).map(of_agent).collect(),
            teacher: teacher.map(|t| PaddedIds::left(&t)),
            labelled: vec![true; samples.len()],
            numbers: (0..samples.len() as u64).collect(),
        }
    }

    /// The same samples under other numbers.
    ///
    /// # Panics
    /// If there is not one for each row.
    pub fn numbered(self, numbers: Vec<u64>) -> Self {
        assert_eq!(numbers.len(), self.rows(), "a number for each row");
        Self { numbers, ..self }
    }

    /// The same samples, the targets of some of which are no data.
    ///
    /// # Panics
    /// If there is not one for each row.
    pub fn labelled(self, labelled: Vec<bool>) -> Self {
        assert_eq!(labelled.len(), self.rows(), "each row's target is data or not");
        Self { labelled, ..self }
    }

    /// The same samples without trajectories.
    pub(crate) fn without_trajectories(self) -> Self {
        Self { trajectories: Vec::new(), ..self }
    }

    /// The trajectories of agent `j`, where it has any.
    pub fn trajectory(&self, j: usize) -> Option<&PaddedIds> {
        self.trajectories.get(j)?.as_ref()
    }

    /// Whether agent `j` has trajectory in some row.
    pub(crate) fn has_trajectory(&self, j: usize) -> bool {
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
