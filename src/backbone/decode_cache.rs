//! Keys and values of generated positions, in memory that is there before they are.

use burn::prelude::*;
use diffmas_backends::{KeyValueBlock, ModelBackend};

use super::key_values::selected;
use super::{KeyValues, Positions};

/// Keys and values of positions that are written one after another and read by the pass that writes the next: preallocated, written in
/// place, for inference alone. A trace, which is differentiated and kept, is made of [`KeyValues`].
#[derive(Debug)]
pub struct DecodeCache<B: Backend> {
    /// A block `[B, G, C, d]` a layer, of which the first positions are written; none before the first is. Taken out while it is written,
    /// so that nobody else holds it.
    layers: Vec<Option<KeyValueBlock<B>>>,
    positions: Positions,
    /// Positions `C` for which there is room.
    capacity: usize,
}

impl<B: ModelBackend> DecodeCache<B> {
    /// Room for `capacity` positions of `batch` rows; the memory is taken with the first of them.
    pub fn new(batch: usize, capacity: usize) -> Self {
        Self { layers: Vec::new(), positions: Positions::empty(batch), capacity }
    }

    /// Where the written positions stand.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Makes room for `more` positions. Where there is none the room doubles, to what `most` further positions need at most, so that each
    /// position is copied once or twice in all.
    pub fn reserve(&mut self, more: usize, most: usize) {
        let len = self.positions.len;
        if len + more <= self.capacity {
            return;
        }
        self.capacity = (2 * self.capacity).min(len + most).max(len + more);
        for layer in self.layers.iter_mut().flatten() {
            *layer = with_room(first(layer, len), self.capacity);
        }
    }

    /// Says that `new` positions follow, which are then written layer by layer.
    pub(super) fn extend(&mut self, new: &Positions) {
        let batch = new.batch;
        self.positions = Positions::cat(&[&self.positions, new], batch);
        assert!(self.positions.len <= self.capacity, "room was reserved");
    }

    /// Writes the last positions of layer `layer` and returns all that are written of it.
    pub(super) fn write(&mut self, layer: usize, new: KeyValueBlock<B>) -> KeyValueBlock<B> {
        let (len, capacity) = (self.positions.len, self.capacity);
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, || None);
        }
        let block = self.layers[layer].take().unwrap_or_else(|| KeyValueBlock {
            key: room(&new.key, capacity),
            value: room(&new.value, capacity),
        });
        let from = len - new.key.dims()[2];
        let block = KeyValueBlock {
            key: B::written(block.key, new.key, from),
            value: B::written(block.value, new.value, from),
        };
        let read = first(&block, len);
        self.layers[layer] = Some(block);
        read
    }

    /// What is written; `None` where nothing is. While it is held, the next position is not written in place.
    pub fn written(&self) -> Option<KeyValues<B>> {
        let len = self.positions.len;
        let layers: Vec<_> = self.layers.iter().flatten().map(|block| first(block, len)).collect();
        (len > 0).then(|| KeyValues { layers, positions: self.positions.clone() })
    }

    /// The rows with these indices, in this order, in memory of their own.
    pub fn select(&self, rows: &[usize]) -> Self {
        let len = self.positions.len;
        let layers = self
            .layers
            .iter()
            .map(|block| Some(with_room(selected(&first(block.as_ref()?, len), rows), self.capacity)));
        Self { layers: layers.collect(), positions: self.positions.select(rows), capacity: self.capacity }
    }
}

/// Memory for `capacity` positions like those of `x`; what it holds is never read before it is written.
fn room<B: Backend>(x: &Tensor<B, 4>, capacity: usize) -> Tensor<B, 4> {
    let [batch, heads, _, width] = x.dims();
    Tensor::empty([batch, heads, capacity, width], (&x.device(), x.dtype()))
}

/// `block` at the beginning of memory for `capacity` positions.
fn with_room<B: ModelBackend>(block: KeyValueBlock<B>, capacity: usize) -> KeyValueBlock<B> {
    let moved = |x: Tensor<B, 4>| B::written(room(&x, capacity), x, 0);
    KeyValueBlock { key: moved(block.key), value: moved(block.value) }
}

/// The first `len` positions of a block.
fn first<B: Backend>(block: &KeyValueBlock<B>, len: usize) -> KeyValueBlock<B> {
    let cut = |x: &Tensor<B, 4>| x.clone().narrow(2, 0, len);
    KeyValueBlock { key: cut(&block.key), value: cut(&block.value) }
}
