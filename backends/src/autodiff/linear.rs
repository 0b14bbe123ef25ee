//! Linear layers of one input as a node with any number of parents and outputs.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::prelude::*;
use parking_lot::Mutex;

use super::{Ad, Node, chained, from_float, node, record, taken, target, to_float, untracked};
use crate::{LinearOutput, LinearRef, LinearSlope, LoraRef, ModelBackend};

/// Factors of LoRA, and where their gradients go.
#[derive(Clone, Debug)]
struct Factors<B: Backend> {
    a: Tensor<B, 2>,
    b: Tensor<B, 2>,
    scaling: f64,
    nodes: [Option<Node<B>>; 2],
}

#[derive(Clone, Debug)]
struct Layer<B: ModelBackend> {
    weight: B::Weight,
    lora: Option<Factors<B>>,
    kept: Option<Tensor<B, 2>>,
    residual: Option<NodeId>,
}

/// What has come from above, by layer.
type Slopes<B> = Arc<Mutex<Vec<Option<Tensor<B, 2>>>>>;

/// What the gradients need, and the nodes that get them, where they are tracked.
#[derive(Clone, Debug)]
struct LinearsState<B: ModelBackend> {
    x: Option<Tensor<B, 2>>,
    input: Option<NodeId>,
    layers: Vec<Layer<B>>,
    slopes: Slopes<B>,
}

/// Parent: the input, with factors and residuals [`chained`] to it. It has no gradient of its own: its children, the outputs, leave theirs in
/// the state, and it is their turn before this one's. All gradients are registered here, under the nodes themselves.
#[derive(Debug)]
struct Linears;

impl<B: ModelBackend> Backward<B, 1> for Linears {
    type State = LinearsState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let LinearsState { x, input, layers, slopes } = ops.state;
        let dys = std::mem::take(&mut *slopes.lock());
        let reached: Vec<_> = layers.iter().zip(dys).filter_map(|(layer, dy)| Some((layer, dy?))).collect();
        let mut slopes = Vec::with_capacity(reached.len());
        for (layer, dy) in &reached {
            if let Some(residual) = layer.residual {
                grads.register::<B>(residual, to_float(dy.clone()));
            }
            let sums = layer.lora.as_ref().and_then(|lora| match &lora.nodes {
                [Some(a), Some(b)] => taken(grads, [a, b]).map(|[a, b]| (a, b)),
                _ => None,
            });
            let lora = layer.lora.as_ref().map(|l| LoraRef { a: &l.a, b: &l.b, scaling: l.scaling });
            let (dy, kept) = (dy.clone(), layer.kept.clone());
            slopes.push(LinearSlope { dy, weight: &layer.weight, lora, kept, sums });
        }
        if slopes.is_empty() {
            return;
        }
        let (dx, factors) = B::frozen_linears_backward(x, slopes, input.is_some());
        if let (Some(input), Some(dx)) = (input, dx) {
            grads.register::<B>(input, to_float(dx));
        }
        for ((layer, _), factors) in reached.iter().zip(factors) {
            let Some((lora, (da, db))) = layer.lora.as_ref().zip(factors) else { continue };
            for (node, grad) in lora.nodes.iter().zip([da, db]) {
                if let Some(node) = node {
                    grads.register::<B>(node.node.id, to_float(grad));
                }
            }
        }
    }
}

/// Parent: [`Linears`]. State: the number of the layer, and where its gradient is left.
#[derive(Debug)]
struct Output;

impl<B: ModelBackend> Backward<B, 1> for Output {
    type State = (usize, Slopes<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float(grads.consume::<B>(&ops.node));
        let (number, slopes) = ops.state;
        slopes.lock()[number] = Some(dy);
    }
}

/// See [`ModelBackend::frozen_linears`].
pub(super) fn frozen_linears<B: ModelBackend, C: CheckpointStrategy>(
    x: Tensor<Ad<B, C>, 2>,
    layers: &[LinearRef<'_, Ad<B, C>>],
) -> Vec<LinearOutput<Ad<B, C>>> {
    let id = |x: &Tensor<Ad<B, C>, 2>| target(node(x)).map(|n| n.node.id);
    let inner = x.clone().inner();
    let factors: Vec<_> = layers
        .iter()
        .map(|layer| {
            layer.lora.map(|l| Factors {
                a: l.a.clone().inner(),
                b: l.b.clone().inner(),
                scaling: l.scaling,
                nodes: [target(node(l.a)), target(node(l.b))],
            })
        })
        .collect();
    let biases: Vec<_> = layers.iter().map(|layer| layer.bias.map(|b| b.clone().inner())).collect();
    let residuals: Vec<_> = layers.iter().map(|layer| layer.residual.map(|r| r.clone().inner())).collect();
    let parts = layers.iter().zip(&factors).zip(biases.iter().zip(&residuals));
    let parts: Vec<_> = parts
        .map(|((layer, factors), (bias, residual))| LinearRef {
            weight: layer.weight,
            bias: bias.as_ref(),
            lora: factors.as_ref().map(|l| LoraRef { a: &l.a, b: &l.b, scaling: l.scaling }),
            residual: residual.as_ref(),
        })
        .collect();
    let outputs = B::frozen_linears(inner.clone(), &parts);

    let input = id(&x);
    let mut chain = x;
    for layer in layers {
        if let Some(lora) = layer.lora {
            chain = chained(chain, [node(lora.a), node(lora.b)]);
        }
        if let Some(residual) = layer.residual {
            chain = chained(chain, [node(residual), node(residual)]);
        }
    }
    let slopes: Slopes<B> = Arc::new(Mutex::new(vec![None; layers.len()]));
    let learns = factors.iter().any(Option::is_some);
    let state = || {
        let parts = layers.iter().zip(factors).zip(&outputs);
        let layers = parts.map(|((layer, lora), output)| Layer {
            weight: layer.weight.clone(),
            lora,
            kept: output.kept.clone(),
            residual: layer.residual.and_then(id),
        });
        LinearsState {
            x: learns.then(|| inner.clone()),
            input,
            layers: layers.collect(),
            slopes: slopes.clone(),
        }
    };
    let all: Tensor<Ad<B, C>, 2> = record(Linears, [node(&chain)], inner.clone(), state);
    let all = node(&all);
    outputs
        .into_iter()
        .enumerate()
        .map(|(number, output)| LinearOutput {
            y: record(Output, [all.clone()], output.y, || (number, slopes.clone())),
            kept: output.kept.map(untracked),
        })
        .collect()
}
