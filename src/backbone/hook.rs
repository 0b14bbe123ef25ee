//! What may be added to the residual stream before a layer.

use std::fmt::Debug;

use burn::prelude::*;

/// Changes what enters a decoder layer, before its `input_layernorm`. Cross-agent attention is one.
pub trait ResidualHook<B: Backend>: Debug + Send + Sync {
    /// The residual stream as layer `layer` is to read it; `batch` rows one after another, `t` positions each.
    ///
    /// # Shapes
    /// `x [B·t, D]` → `[B·t, D]`
    fn apply(&self, layer: usize, x: Tensor<B, 2>, batch: usize) -> Tensor<B, 2>;

    /// How much each position listens to each sender in layer `layer`, where the hook listens there; the rest of the weight, up to 1, is
    /// on nobody.
    ///
    /// # Shapes
    /// `x [B·t, D]` → `[B·t, senders]`
    fn weights(&self, _layer: usize, _x: Tensor<B, 2>, _batch: usize) -> Option<Tensor<B, 2>> {
        None
    }
}
