//! What one agent leaves behind.

use burn::prelude::*;

use crate::backbone::{KeyValues, Positions};

/// Where a segment stands and whose it is; known on the host before its tensors are computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentLayout {
    /// Index of the agent that wrote it.
    pub sender: usize,
    /// Its transmitted positions.
    pub positions: Positions,
    /// How many leading positions are prompt; the rest are latent.
    pub prompt_len: usize,
}

/// The keys and values that one agent transmits.
#[derive(Clone, Debug)]
pub struct Segment<B: Backend> {
    /// Index of the agent that wrote it.
    pub sender: usize,
    /// How many leading positions are prompt; the rest are latent.
    pub prompt_len: usize,
    /// Keys (rotated) and values, with positions and validity.
    pub kv: KeyValues<B>,
}

impl<B: Backend> Segment<B> {
    /// The segment as a message: key and value of each layer, `[B, G, n, d]` each.
    pub fn into_tensors(self) -> Vec<Tensor<B, 4>> {
        self.kv.into_tensors()
    }

    /// The segment that a message of this layout carries.
    pub fn from_tensors(tensors: Vec<Tensor<B, 4>>, layout: &SegmentLayout) -> Self {
        Self {
            sender: layout.sender,
            prompt_len: layout.prompt_len,
            kv: KeyValues::from_tensors(tensors, layout.positions.clone()),
        }
    }

    /// Where the segment stands.
    pub fn layout(&self) -> SegmentLayout {
        SegmentLayout {
            sender: self.sender,
            positions: self.kv.positions.clone(),
            prompt_len: self.prompt_len,
        }
    }
}
