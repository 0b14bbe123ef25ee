//! How much the final agent receives for a row.

use diffmas_backends::ModelBackend;

use crate::agents::TeamConfig;
use crate::communication::ReceivedMessages;

/// What the final agent receives for one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// Messages of internal state, in reading order.
    pub messages: Vec<MessageSize>,
    /// Positions and vectors of all of them, padding not counted.
    pub positions: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Messages of text.
    pub written: Vec<Written>,
}

/// How large a message of internal state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSize {
    /// Name of the agent that sent it.
    pub sender: String,
    /// Positions of its keys and values, those of the prompt and all, padding of the batch included.
    pub segment: Option<[usize; 2]>,
    /// How many vectors it has, and of what width.
    pub vectors: Option<[usize; 2]>,
    /// Its bytes, padding not counted.
    pub bytes: usize,
}

/// A message of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Name of the agent that wrote it.
    pub sender: String,
    /// The text; empty where the model has no tokenizer.
    pub text: String,
}

impl Received {
    /// The sizes of what is received by row `row` of a batch; messages of text are `written`.
    pub(super) fn of<B: ModelBackend>(received: &ReceivedMessages<B>, team: &TeamConfig, row: usize) -> Self {
        let sizes = received.messages.iter().map(|message| MessageSize {
            sender: team.agents[message.sender].name.clone(),
            segment: message.segment.as_ref().map(|s| [s.prompt_len, s.kv.len()]),
            vectors: message.vectors.as_ref().map(|v| {
                let [_, count, width] = v.values.dims();
                [count, width]
            }),
            bytes: message.bytes(row, team.message_dtype),
        });
        let messages = sizes.collect();
        let (positions, bytes) = (received.positions(row), received.bytes(row, team.message_dtype));
        Self { messages, positions, bytes, written: Vec::new() }
    }
}
