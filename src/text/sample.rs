//! One sample as token ids, and which samples are questions of one line.

use std::borrow::Borrow;
use std::ops::Range;
use std::sync::Arc;

use super::Sample;
use crate::images::Image;

/// One sample as the model sees it: one question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizedSample {
    /// The line in the data file, from 1.
    pub line: usize,
    /// The question of its line, from 1. Questions of one line have the same upstream prompts, and read the same messages.
    pub question: usize,
    /// The prompt of each agent in the order of the team.
    pub prompts: Vec<Vec<u32>>,
    /// What the final agent should give, end of turn included, if the line says so.
    pub target: Option<Vec<u32>>,
    /// What each agent should write if it wrote text, end of turn included, where the line says so; empty where it says nothing.
    pub trajectories: Vec<Option<Vec<u32>>>,
    /// For each upstream agent, the range of its prompt's tokens that the content of the last user turn takes, where slots are spread over it; empty
    /// where the whole prompt is content.
    pub contents: Vec<Range<usize>>,
    /// The image that each agent sees, which stands before its prompt, by agent; empty where nobody sees any.
    pub images: Vec<Option<Arc<Image>>>,
    /// What a teacher reads before it gives the target: the evidence of all agents in one context; only where one is asked for.
    pub teacher: Option<Vec<u32>>,
    /// The line itself.
    pub source: Option<Arc<Sample>>,
}

impl TokenizedSample {
    /// The image that agent `j` sees, if it sees one.
    pub fn image(&self, j: usize) -> Option<&Arc<Image>> {
        self.images.get(j)?.as_ref()
    }

    /// Whether agent `j` reads the same of its own for another sample.
    pub fn reads_alike(&self, other: &Self, j: usize) -> bool {
        self.prompts[j] == other.prompts[j] && self.image(j) == other.image(j)
    }

    /// Positions of what agent `j` reads of its own: its image and its prompt.
    pub fn positions(&self, j: usize) -> usize {
        self.image(j).map_or(0, |image| image.kind().positions()) + self.prompts[j].len()
    }
}

/// The samples of each line: neighbours of the same line whose questions count up. What upstream agents compute for one of them they
/// compute for all.
pub fn lines<S: Borrow<TokenizedSample>>(samples: &[S]) -> Vec<Range<usize>> {
    lines_by(samples, |sample| (sample.borrow().line, sample.borrow().question))
}

/// [`lines`] of what has a line and a question.
pub(crate) fn lines_by<T>(items: &[T], place: impl Fn(&T) -> (usize, usize)) -> Vec<Range<usize>> {
    let goes_on = |a: &T, b: &T| {
        let ((line, question), (next_line, next)) = (place(a), place(b));
        // Samples made by hand all have line and question 0, and nothing in common.
        line == next_line && next > 1 && next == question + 1
    };
    let mut from = 0;
    let range = |line: &[T]| {
        let to = from + line.len();
        std::mem::replace(&mut from, to)..to
    };
    items.chunk_by(goes_on).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_count_up_in_one_line_belong_together() {
        let of = |places: &[(usize, usize)]| {
            let sample = |&(line, question)| TokenizedSample { line, question, ..Default::default() };
            lines(&places.iter().map(sample).collect::<Vec<_>>())
        };
        assert_eq!(of(&[(1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]), [0..1, 1..4, 4..5]);
        // A line that is drawn twice in a row, and a batch that begins within a line.
        assert_eq!(of(&[(2, 1), (2, 2), (2, 1), (2, 2)]), [0..2, 2..4]);
        assert_eq!(of(&[(2, 2), (2, 3), (4, 1)]), [0..2, 2..3]);
        assert_eq!(of(&[(0, 0), (0, 0), (1, 1), (1, 1)]), [0..1, 1..2, 2..3, 3..4]);
        assert!(of(&[]).is_empty());
    }
}
