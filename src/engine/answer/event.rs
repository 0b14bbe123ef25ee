//! What is told while rows are answered, and the answers.

use super::super::stream::EventStream;
use super::received::Received;
use crate::error::Result;

/// What is told while rows are answered: of each batch what the final agent receives, then texts and answers, each as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerEvent {
    /// The upstream agents of rows are done: of those of a batch that agree in control and all else that messages are computed with.
    RolledOut(RolledOut),
    /// Text of a row that cannot change any more.
    Text {
        /// The row.
        row: usize,
        /// What it adds to the row's text.
        text: String,
    },
    /// The answer of a row, as soon as it has ended.
    Finished(RowAnswer),
}

/// What the final agent receives, by row.
#[derive(Clone, Debug, PartialEq)]
pub struct RolledOut {
    /// The rows, by their places in the request.
    pub rows: Vec<usize>,
    /// What the final agent receives, for each of them.
    pub received: Vec<Received>,
    /// Wall-clock seconds of their upstream agents.
    pub seconds: f64,
}

/// The answer of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowAnswer {
    /// The row, by its place in the request.
    pub row: usize,
    /// The tokens, without the one that ended them.
    pub token_ids: Vec<u32>,
    /// Whether it ended by a stop token, a stop text or a cancellation rather than by `max_new_tokens`.
    pub stopped: bool,
    /// The text, without the stop text that ended it; none where the model has no tokenizer.
    pub text: Option<String>,
    /// What the final agent received.
    pub received: Received,
    /// How much the final agent attended to each sender of vectors, else of segments, as a mean over layers and prompt positions, where that was
    /// asked for.
    pub sender_attention: Vec<(String, f64)>,
    /// Rows of its batch.
    pub batch_size: usize,
    /// Wall-clock seconds of the upstream agents, for all rows that ran with it.
    pub rollout_seconds: f64,
    /// Wall-clock seconds from when the whole batch had been rolled out to the answer.
    pub decode_seconds: f64,
}

/// The events of a request for answers.
pub type AnswerStream = EventStream<AnswerEvent, ()>;

impl AnswerStream {
    /// The answers in the order of the rows.
    ///
    /// # Errors
    /// As [`EventStream::finish`].
    pub fn answers(self) -> Result<Vec<RowAnswer>> {
        let mut answers = Vec::new();
        self.for_each_event(|event| {
            if let AnswerEvent::Finished(answer) = event {
                answers.push(answer);
            }
            Ok(())
        })?;
        answers.sort_by_key(|answer| answer.row);
        Ok(answers)
    }
}
