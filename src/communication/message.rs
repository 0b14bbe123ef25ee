//! What is passed between agents.

use burn::prelude::*;
use diffmas_backends::KeyValueBlock;

use super::{MessageDtype, Segment, SegmentLayout};
use crate::backbone::KeyValues;

/// A fixed number of vectors of an agent.
#[derive(Clone, Debug)]
pub struct Vectors<B: Backend> {
    /// `[B, M, c]`
    pub values: Tensor<B, 3>,
    /// Whether a reader sees a vector, `[B, M]` row-major.
    pub valid: Vec<bool>,
}

/// What one agent passes on: keys and values, vectors, or both.
#[derive(Clone, Debug)]
pub struct Message<B: Backend> {
    /// Index of the agent that sent it.
    pub sender: usize,
    /// Keys and values.
    pub segment: Option<Segment<B>>,
    /// Vectors.
    pub vectors: Option<Vectors<B>>,
}

/// The form of a message; known on the host before its tensors are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageLayout {
    /// Where its segment stands, if it has one.
    pub segment: Option<SegmentLayout>,
    /// Which of its vectors a reader sees, `[B, M]` row-major, if it has any.
    pub vectors: Option<Vec<bool>>,
}

impl MessageLayout {
    /// Whether such a message holds nothing.
    pub fn is_empty(&self) -> bool {
        self.segment.is_none() && self.vectors.is_none()
    }

    /// Hides the rows that are `dropped` from readers; positions stay.
    pub fn hide(&mut self, dropped: &[bool]) {
        let segment = self.segment.iter_mut().map(|s| &mut s.positions.valid);
        for valid in segment.chain(&mut self.vectors) {
            let n = valid.len() / dropped.len();
            for (row, _) in dropped.iter().enumerate().filter(|(_, dropped)| **dropped) {
                valid[row * n..(row + 1) * n].fill(false);
            }
        }
    }

    /// How many tensors such a message is, in a model of `layers` layers.
    pub(crate) fn num_tensors(&self, layers: usize) -> usize {
        2 * layers * usize::from(self.segment.is_some()) + usize::from(self.vectors.is_some())
    }
}

impl<B: Backend> Message<B> {
    /// The message as tensors: key and value `[B, G, n, d]` of each layer, then the vectors `[B, 1, M, c]`.
    pub fn into_tensors(self) -> Vec<Tensor<B, 4>> {
        let mut tensors = self.segment.map_or_else(Vec::new, |s| s.kv.into_tensors());
        tensors.extend(self.vectors.map(|v| v.values.unsqueeze_dim(1)));
        tensors
    }

    /// The message of `sender` that the tensors of [`Message::into_tensors`] make up; the masks are those of `layout`.
    pub fn from_tensors(sender: usize, mut tensors: Vec<Tensor<B, 4>>, layout: &MessageLayout) -> Self {
        let vectors = layout.vectors.as_ref().map(|valid| {
            let values = tensors.pop().expect("the vectors come last").squeeze_dim(1);
            Vectors { values, valid: valid.clone() }
        });
        let segment = layout.segment.as_ref().map(|s| Segment {
            prompt_len: s.prompt_len,
            kv: KeyValues::from_tensors(tensors, s.positions.clone()),
        });
        Self { sender, segment, vectors }
    }

    /// Hides the whole message from its readers; positions stay.
    pub fn hide(&mut self) {
        if let Some(segment) = &mut self.segment {
            segment.kv.positions.valid.fill(false);
        }
        if let Some(vectors) = &mut self.vectors {
            vectors.valid.fill(false);
        }
    }

    /// Positions of the segment and vectors that a reader of row `b` sees.
    fn seen(&self, b: usize) -> [usize; 2] {
        let seen = |valid: &[bool], n: usize| valid[b * n..(b + 1) * n].iter().filter(|&&v| v).count();
        let segment = self.segment.as_ref().map_or(0, |s| seen(&s.kv.positions.valid, s.kv.len()));
        [segment, self.vectors.as_ref().map_or(0, |v| seen(&v.valid, v.values.dims()[1]))]
    }

    /// Positions and vectors of row `b` that a reader sees.
    pub fn positions(&self, b: usize) -> usize {
        self.seen(b).iter().sum()
    }

    /// Bytes of the numbers of row `b` that a reader sees, with their scales, where messages are passed on as `dtype`; padding is not sent.
    pub fn bytes(&self, b: usize, dtype: MessageDtype) -> usize {
        let [positions, vectors] = self.seen(b);
        let of_vectors = |v: &Vectors<B>| dtype.bytes(v.values.dims()[2], v.values.dtype().size());
        let of_position = |block: &KeyValueBlock<B>| {
            let [_, heads, _, width] = block.key.dims();
            2 * heads * dtype.bytes(width, block.key.dtype().size())
        };
        let segment = self.segment.iter().flat_map(|s| &s.kv.layers).map(of_position).sum::<usize>();
        positions * segment + vectors * self.vectors.as_ref().map_or(0, of_vectors)
    }
}
