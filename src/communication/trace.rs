//! The ordered list of segments that a reader finds; it only grows.

use burn::prelude::*;

use super::Segment;
use crate::backbone::KeyValues;

/// `τ = S_1 ⊕ S_2 ⊕ …`, a value that is passed in and returned.
#[derive(Clone, Debug)]
pub struct Trace<B: Backend> {
    /// The segments, in reading order.
    pub segments: Vec<Segment<B>>,
}

impl<B: Backend> Default for Trace<B> {
    fn default() -> Self {
        Self { segments: Vec::new() }
    }
}

impl<B: Backend> Trace<B> {
    /// Positions per row, padding included.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|s| s.kv.len()).sum()
    }

    /// Whether a reader finds no position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of row `b`, padding and masked ones not counted.
    pub fn positions(&self, b: usize) -> usize {
        let count = |s: &Segment<B>| {
            let p = &s.kv.positions;
            p.valid[b * p.len..(b + 1) * p.len].iter().filter(|&&v| v).count()
        };
        self.segments.iter().map(count).sum()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.kv.bytes()).sum()
    }

    /// All segments as one block; `None` when there is no position.
    pub fn joined(&self) -> Option<KeyValues<B>> {
        KeyValues::cat(&self.segments.iter().map(|s| &s.kv).collect::<Vec<_>>())
    }

    /// The trace with one more segment.
    pub fn push(mut self, segment: Segment<B>) -> Self {
        self.segments.push(segment);
        self
    }
}
