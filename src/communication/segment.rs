//! The keys and values that one agent leaves behind.

use burn::prelude::*;

use crate::backbone::{KeyValues, Positions};

/// Where a segment stands; known on the host before its tensors are computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentLayout {
    /// Its transmitted positions.
    pub positions: Positions,
    /// How many leading positions are prompt; the rest are latent.
    pub prompt_len: usize,
}

/// The keys and values that one agent transmits.
#[derive(Clone, Debug)]
pub struct Segment<B: Backend> {
    /// How many leading positions are prompt; the rest are latent.
    pub prompt_len: usize,
    /// Keys (rotated) and values, with positions and validity.
    pub kv: KeyValues<B>,
}
