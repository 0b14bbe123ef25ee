//! Keys and values of latent steps, which are differentiated and grow.

use diffmas_backends::{KeyValueBlock, ModelBackend};

use super::{KeyValues, Positions};

/// Keys and values of positions that are computed one after another, each of which reads all before it. What was read stays as it is: unlike a
/// [`DecodeCache`](super::DecodeCache), it may be part of a graph. A backend with room for them writes each position once.
#[derive(Debug)]
pub struct GrowingKeyValues<B: ModelBackend> {
    /// A block a layer, once there is a position, and the room in which it grows.
    layers: Vec<(KeyValueBlock<B>, B::Room)>,
    positions: Positions,
    /// Positions for which room is taken.
    capacity: usize,
}

impl<B: ModelBackend> GrowingKeyValues<B> {
    /// Nothing yet, of `batch` rows; room for `capacity` positions is taken once it is needed.
    pub fn new(batch: usize, capacity: usize) -> Self {
        Self { layers: Vec::new(), positions: Positions::empty(batch), capacity }
    }

    /// Where the positions stand.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Says that `new` positions follow, whose keys and values are then appended layer by layer.
    pub(super) fn extend(&mut self, new: &Positions) {
        self.positions = Positions::cat(&[&self.positions, new], new.batch);
    }

    /// Appends to layer `layer` and returns all of it.
    pub(super) fn append(&mut self, layer: usize, new: KeyValueBlock<B>) -> KeyValueBlock<B> {
        match self.layers.get_mut(layer) {
            Some((block, room)) => *block = B::grown(room, self.capacity, block.clone(), new),
            None => self.layers.push((new, B::Room::default())),
        }
        self.layers[layer].0.clone()
    }

    /// What there is, if there is any.
    pub fn into_key_values(self) -> Option<KeyValues<B>> {
        let layers: Vec<_> = self.layers.into_iter().map(|(block, _)| block).collect();
        (!layers.is_empty()).then_some(KeyValues { layers, positions: self.positions })
    }
}
