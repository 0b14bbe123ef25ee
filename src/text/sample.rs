//! One sample as token ids.

use std::ops::Range;
use std::sync::Arc;

use super::Sample;

/// One sample as the model sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizedSample {
    /// The line in the data file, from 1.
    pub line: usize,
    /// The prompt of each agent in the order of the team.
    pub prompts: Vec<Vec<u32>>,
    /// What the final agent should give, end of turn included, if the line says so.
    pub target: Option<Vec<u32>>,
    /// What each agent should write if it wrote text, end of turn included, where the line says so; empty where it says nothing.
    pub trajectories: Vec<Option<Vec<u32>>>,
    /// For each agent, the range of its prompt's tokens that the content of the last user turn takes, where slots are spread over it; empty
    /// where the whole prompt is content.
    pub contents: Vec<Range<usize>>,
    /// What a teacher reads before it gives the target: the evidence of all agents in one context; only where one is asked for.
    pub teacher: Option<Vec<u32>>,
    /// The line itself.
    pub source: Option<Arc<Sample>>,
}
