//! Graphs that wait for their backward pass while others have theirs.
//!
//! After each backward pass burn-autodiff 0.21 looks at *every* graph of the process: one of which nobody holds a tensor is taken apart, and
//! of the others it looks, once for each of their nodes, for a node that somebody holds. A graph that waits is therefore safe while one of
//! its tensors is held, but the search costs the square of its size where only its outputs are. [`waiting`] holds its nodes, without what
//! they computed: the search ends at once.

use std::cell::RefCell;
use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::prelude::*;

use super::in_one_graph;

thread_local! {
    /// The nodes recorded in this thread since [`waiting`] began.
    static RECORDED: RefCell<Option<Vec<Arc<NodeId>>>> = const { RefCell::new(None) };
}

/// The nodes of a graph that waits for its backward pass; to be dropped just before that.
///
/// Whoever differentiates holds [`one_pass`](super::one_pass) as long as graphs wait.
#[derive(Debug)]
pub struct Waiting(#[expect(dead_code, reason = "held, not read")] Vec<Arc<NodeId>>);

/// Runs `build` and holds the nodes that it records, so that its graph may wait.
pub fn waiting<T>(build: impl FnOnce() -> T) -> (T, Waiting) {
    let recording = Recording { outside: RECORDED.replace(Some(Vec::new())) };
    let built = build();
    let nodes = RECORDED.take().unwrap_or_default();
    drop(recording);
    (built, Waiting(nodes))
}

/// What was recorded outside of [`waiting`], which goes on when this is dropped, also by a panic.
struct Recording {
    outside: Option<Vec<Arc<NodeId>>>,
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDED.set(self.outside.take());
    }
}

/// Notes a node that was recorded.
pub(super) fn note(node: &Arc<NodeId>) {
    RECORDED.with_borrow_mut(|recorded| recorded.iter_mut().for_each(|nodes| nodes.push(node.clone())));
}

/// The inputs of a graph of their own: leaves, to ask for gradients of, and the same as what is computed with, in one graph.
///
/// Cheaper than [`leaves`](super::leaves), which differentiates once, and as fast: no leaf is an operand more than once.
///
/// # Shapes
/// Any, with at least one element each.
#[expect(clippy::type_complexity, reason = "two lists of the same tensors")]
pub fn inputs<B: Backend, const D: usize>(
    values: Vec<Tensor<B, D>>,
) -> (Vec<Tensor<Autodiff<B>, D>>, Vec<Tensor<Autodiff<B>, D>>) {
    let leaves: Vec<Tensor<Autodiff<B>, D>> =
        values.into_iter().map(|t| Tensor::from_inner(t).require_grad()).collect();
    let placed = in_one_graph(&leaves);
    (leaves, placed)
}
