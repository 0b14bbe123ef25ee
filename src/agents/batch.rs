//! Samples of a team as one batch.

use std::ops::Range;

use super::{AgentInput, PaddedIds};
use crate::text::{TokenizedSample, lines};

/// Samples of one micro-batch: every agent's prompts, and the targets where there are any.
///
/// A row of the final agent is a question. A row of the upstream agents is a message, which all questions of its line read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeamBatch {
    /// What each agent reads of its own, left-padded: prompts, or embeddings in their place. One row a message, for the final agent one row a
    /// question.
    pub prompts: Vec<AgentInput>,
    /// Right-padded targets, one row a question.
    pub target: Option<PaddedIds>,
    /// Right-padded trajectories, one row a message, for each upstream agent that has one in some row; empty where none has.
    pub trajectories: Vec<Option<PaddedIds>>,
    /// The row of the messages that each question reads: from 0 on in order, each as often as its line has questions.
    pub messages: Vec<usize>,
    /// For each upstream agent and row, the range of the row's own prompt tokens that is content, where slots are spread over it; empty where whole
    /// prompts are.
    pub contents: Vec<Vec<Range<usize>>>,
    /// What a teacher reads before each question's target, left-padded, where every sample says so.
    pub teacher: Option<PaddedIds>,
    /// Whether each question's target stands in the data; else it is the teacher's own answer.
    pub labelled: Vec<bool>,
    /// The number of each question among all of an update, whatever micro-batch it stands in: what is drawn for a sample, or known of it,
    /// goes by this; what is drawn for a message, by that of its first question.
    pub numbers: Vec<u64>,
}

impl TeamBatch {
    /// Pads `samples`, numbered from 0, into a batch; questions of one line ([`lines`]) read one message. Either all of them have a target,
    /// or the batch has none.
    ///
    /// # Panics
    /// If there is no sample, they are of different teams, or questions of one line have other upstream prompts.
    pub fn new(samples: &[&TokenizedSample]) -> Self {
        Self::of_lines(samples, lines(samples))
    }

    /// The same with a message for each question, also where questions share a line.
    ///
    /// # Panics
    /// As [`TeamBatch::new`].
    pub fn by_question(samples: &[&TokenizedSample]) -> Self {
        Self::of_lines(samples, (0..samples.len()).map(|i| i..i + 1).collect())
    }

    fn of_lines(samples: &[&TokenizedSample], lines: Vec<Range<usize>>) -> Self {
        let last = samples[0].prompts.len() - 1;
        let alike = |of: &[&TokenizedSample]| of.iter().all(|s| (0..last).all(|j| s.reads_alike(of[0], j)));
        assert!(
            lines.iter().all(|line| alike(&samples[line.clone()])),
            "questions of one line have one message"
        );
        let senders: Vec<&TokenizedSample> = lines.iter().map(|line| samples[line.start]).collect();
        let prompts = (0..=last).map(|j| {
            let rows = if j < last { &senders } else { samples };
            AgentInput::of_agent(rows, j)
        });
        let targets: Option<Vec<_>> = samples.iter().map(|s| s.target.as_deref()).collect();
        let trajectory = |j: usize| {
            let rows: Vec<&[u32]> = senders
                .iter()
                .map(|s| s.trajectories.get(j).and_then(Option::as_deref).unwrap_or_default())
                .collect();
            rows.iter().any(|r| !r.is_empty()).then(|| PaddedIds::right(&rows))
        };
        // An image is content as the words behind it are.
        let content = |s: &&&TokenizedSample, j: usize| match (s.contents.get(j).cloned()?, s.image(j)) {
            (content, Some(image)) => Some(0..image.kind().positions() + content.end),
            (content, None) => Some(content),
        };
        let contents = (0..last).map(|j| senders.iter().filter_map(|s| content(&s, j)).collect());
        let teacher: Option<Vec<_>> = samples.iter().map(|s| s.teacher.as_deref()).collect();
        Self {
            prompts: prompts.collect(),
            target: targets.map(|t| PaddedIds::right(&t)),
            trajectories: (0..last).map(trajectory).collect(),
            messages: lines.iter().zip(0..).flat_map(|(line, row)| vec![row; line.len()]).collect(),
            contents: contents.collect(),
            teacher: teacher.map(|t| PaddedIds::left(&t)),
            labelled: vec![true; samples.len()],
            numbers: (0..samples.len() as u64).collect(),
        }
    }

    /// What agents read, row by row, with nothing to learn: each row of the final agent has a message of its own.
    ///
    /// # Panics
    /// If there is no agent.
    pub fn of_inputs(prompts: Vec<AgentInput>) -> Self {
        let rows = prompts[0].batch();
        Self {
            prompts,
            messages: (0..rows).collect(),
            numbers: (0..rows as u64).collect(),
            ..Self::default()
        }
    }

    /// The same samples under other numbers.
    ///
    /// # Panics
    /// If there is not one for each question.
    pub fn numbered(self, numbers: Vec<u64>) -> Self {
        assert_eq!(numbers.len(), self.rows(), "a number for each question");
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

    /// Questions: rows of the final agent.
    pub fn rows(&self) -> usize {
        self.messages.len()
    }

    /// Messages of each agent: rows of the upstream agents.
    pub fn message_rows(&self) -> usize {
        self.messages.last().map_or(0, |row| row + 1)
    }

    /// The number of each message: that of its first question.
    pub fn message_numbers(&self) -> Vec<u64> {
        let firsts = self
            .messages
            .chunk_by(|a, b| a == b)
            .scan(0, |from, questions| Some(self.numbers[std::mem::replace(from, *from + questions.len())]));
        firsts.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(line: usize, question: usize, upstream: u32) -> TokenizedSample {
        TokenizedSample {
            line,
            question,
            prompts: vec![vec![upstream], vec![question as u32; question]],
            target: Some(vec![5; question]),
            trajectories: vec![Some(vec![upstream; 2]), None],
            ..TokenizedSample::default()
        }
    }

    #[test]
    fn questions_of_a_line_share_the_upstream_rows() {
        let samples = [sample(3, 1, 7), sample(4, 1, 8), sample(4, 2, 8), sample(4, 3, 8), sample(9, 1, 9)];
        let batch = TeamBatch::new(&samples.each_ref()).numbered(vec![10, 11, 12, 13, 14]);
        assert_eq!((batch.rows(), batch.message_rows()), (5, 3));
        assert_eq!(batch.messages, [0, 1, 1, 1, 2]);
        assert_eq!(batch.message_numbers(), [10, 11, 14]);
        assert_eq!(batch.prompts[0].ids().unwrap().ids, [7, 8, 9]);
        assert_eq!((batch.prompts[1].batch(), batch.target.as_ref().unwrap().batch), (5, 5));
        assert_eq!(batch.trajectory(0).unwrap().count(), 6, "learned once a line");
        assert_eq!((batch.target_tokens(), batch.tokens()), (8, 3 + 8 + 6 + 8));
    }

    #[test]
    #[should_panic(expected = "questions of one line have one message")]
    fn questions_of_a_line_with_other_upstream_prompts_are_refused() {
        TeamBatch::new(&[&sample(4, 1, 7), &sample(4, 2, 8)]);
    }
}
