//! What a reader finds: the messages of those it reads, in its order.

use burn::prelude::*;

use super::{Message, MessageDtype, Segment, Vectors};
use crate::backbone::{KeyValues, select_rows};

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

    /// What the readers of the rows with these indices find, in this order.
    pub fn select(&self, rows: &[usize]) -> Self {
        if rows.iter().copied().eq(0..self.start.len()) {
            return self.clone();
        }
        let segment = |s: &Segment<B>| Segment { prompt_len: s.prompt_len, kv: s.kv.select(rows) };
        let vectors = |v: &Vectors<B>| {
            let [_, count, _] = v.values.dims();
            let valid = rows.iter().flat_map(|b| &v.valid[b * count..(b + 1) * count]).copied();
            Vectors { values: select_rows(v.values.clone(), rows), valid: valid.collect() }
        };
        let message = |m: &Message<B>| Message {
            sender: m.sender,
            segment: m.segment.as_ref().map(segment),
            vectors: m.vectors.as_ref().map(vectors),
        };
        Self {
            messages: self.messages.iter().map(message).collect(),
            start: rows.iter().map(|&b| self.start[b]).collect(),
        }
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
