//! Messages whose numbers are rounded, and their keys apart from the rotary embedding.

use diffmas_backends::{KeyValueBlock, ModelBackend};

use super::message_dtype::straight_through;
use super::{Message, MessageDtype, Segment};
use crate::backbone::{KeyValues, RotaryEmbedding};

impl<B: ModelBackend> Message<B> {
    /// The message with keys as they are before the rotary embedding; [`Message::rotated`] is the way back.
    pub(super) fn unrotated(mut self, rotary: &RotaryEmbedding) -> Self {
        self.segment = self.segment.map(|s| Segment { kv: s.kv.unrotated(rotary), ..s });
        self
    }

    /// The message with keys turned to their positions.
    pub(super) fn rotated(mut self, rotary: &RotaryEmbedding) -> Self {
        self.segment = self.segment.map(|s| Segment { kv: s.kv.rotated(rotary), ..s });
        self
    }

    /// The message with its numbers rounded; gradients pass through as if they were not.
    pub fn rounded(mut self, dtype: MessageDtype, rotary: &RotaryEmbedding) -> Self {
        if dtype == MessageDtype::F32 {
            return self;
        }
        if let Some(segment) = &mut self.segment {
            let KeyValues { layers, positions } = &segment.kv;
            let alone = |l: &KeyValueBlock<B>| KeyValueBlock {
                key: l.key.clone().detach(),
                value: l.value.clone().detach(),
            };
            let kv = KeyValues { layers: layers.iter().map(alone).collect(), positions: positions.clone() };
            let mut kv = kv.unrotated(rotary);
            for block in &mut kv.layers {
                *block = KeyValueBlock {
                    key: dtype.round(block.key.clone()),
                    value: dtype.round(block.value.clone()),
                };
            }
            let mut kv = kv.rotated(rotary);
            for (rounded, exact) in kv.layers.iter_mut().zip(layers) {
                *rounded = KeyValueBlock {
                    key: straight_through(exact.key.clone(), rounded.key.clone()),
                    value: straight_through(exact.value.clone(), rounded.value.clone()),
                };
            }
            segment.kv = kv;
        }
        if let Some(vectors) = &mut self.vectors {
            let exact = vectors.values.clone();
            vectors.values = straight_through(exact.clone(), dtype.round(exact.detach()));
        }
        self
    }
}
