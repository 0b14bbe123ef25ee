//! What a reader finds: the messages of those it reads, in its order.

use burn::prelude::*;

use super::{Message, MessageDtype};
use crate::backbone::KeyValues;

/// `τ = m_1 ⊕ m_2 ⊕ …`, a value that is passed in and returned. It only grows; nothing is overwritten. Segments stand where the reader
/// finds them.
#[derive(Clone, Debug)]
pub struct ReceivedMessages<B: Backend> {
    /// The messages, in reading order.
    pub messages: Vec<Message<B>>,
    /// Per row, the id of the reader's own first position.
    pub start: Vec<u32>,
}

impl<B: Backend> ReceivedMessages<B> {
    /// A trace for `batch` readers that find nothing.
    pub fn empty(batch: usize) -> Self {
        Self { messages: Vec::new(), start: vec![0; batch] }
    }

    /// Positions and vectors that the reader of row `b` sees, padding not counted.
    pub fn positions(&self, b: usize) -> usize {
        self.messages.iter().map(|m| m.positions(b)).sum()
    }

    /// Bytes of all messages to the reader of row `b`, passed on as `dtype`, padding not counted.
    pub fn bytes(&self, b: usize, dtype: MessageDtype) -> usize {
        self.messages.iter().map(|m| m.bytes(b, dtype)).sum()
    }

    /// Keys and values of all segments, where they lie.
    pub fn segments(&self) -> impl Iterator<Item = &KeyValues<B>> {
        self.messages.iter().filter_map(|m| Some(&m.segment.as_ref()?.kv))
    }
}
