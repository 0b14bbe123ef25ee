//! Attention as a node with any number of parents.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::prelude::*;

use super::{Ad, Node, chained, from_float, node, record, taken, target, to_float, untracked};
use crate::{AttentionCall, KeyValueBlock, ModelBackend};

/// A tensor of every head.
type Heads<B, C> = Tensor<Ad<B, C>, 4>;

/// What attention's gradient needs, and the nodes that get it, where they are tracked: of the queries, and of key and value of each block.
#[derive(Clone, Debug)]
struct AttentionState<B: Backend> {
    call: AttentionCall<B>,
    out: Tensor<B, 4>,
    lse: Tensor<B, 4>,
    query: Option<NodeId>,
    blocks: Vec<[Option<Node<B>>; 2]>,
}

/// Parent: the queries, with the tracked blocks [`chained`] to them. All gradients are registered here, under the nodes
/// themselves: as ancestors they have their turn after this one, and as direct parents their gradients would be registered likewise.
#[derive(Debug)]
struct Attention;

impl<B: ModelBackend> Backward<B, 1> for Attention {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_out = from_float(grads.consume::<B>(&ops.node));
        let AttentionState { call, out, lse, query, blocks } = ops.state;
        let wants: Vec<bool> = blocks.iter().map(|kv| kv.iter().any(Option::is_some)).collect();
        let sum = |[key, value]: &[Option<Node<B>>; 2]| {
            let [key, value] = taken(grads, [key.as_ref()?, value.as_ref()?])?;
            Some(KeyValueBlock { key, value })
        };
        let sums = blocks.iter().map(sum).collect();
        let got = B::block_attention_backward_onto(sums, &call, d_out, out, lse, &wants);
        if let Some(query) = query {
            grads.register::<B>(query, to_float(got.query));
        }
        for (nodes, got) in blocks.into_iter().zip(got.blocks) {
            for (node, grad) in nodes.into_iter().zip(got.into_iter().flat_map(|(k, v)| [k, v])) {
                if let Some(node) = node {
                    grads.register::<B>(node.node.id, to_float(grad));
                }
            }
        }
    }
}

/// See [`ModelBackend::block_attention`].
pub(super) fn block_attention<B: ModelBackend, C: CheckpointStrategy>(
    call: &AttentionCall<Ad<B, C>>,
) -> (Heads<B, C>, Heads<B, C>) {
    let blocks: Vec<_> = call.blocks.iter().map(|b| [&b.key, &b.value].map(|x| target(node(x)))).collect();
    let inner = AttentionCall {
        q: call.q.clone().inner(),
        blocks: call
            .blocks
            .iter()
            .map(|b| KeyValueBlock { key: b.key.clone().inner(), value: b.value.clone().inner() })
            .collect(),
        mask: call.mask.map(Tensor::inner),
        scale: call.scale,
    };
    let (out, lse) = B::block_attention(&inner);
    let mut chain = call.q.clone();
    for (block, nodes) in call.blocks.iter().zip(&blocks) {
        if nodes.iter().any(Option::is_some) {
            chain = chained(chain, [node(&block.key), node(&block.value)]);
        }
    }
    let query = target(node(&call.q)).map(|q| q.node.id);
    let state = || AttentionState { call: inner, out: out.clone(), lse: lse.clone(), query, blocks };
    (record(Attention, [node(&chain)], out.clone(), state), untracked(lse))
}
