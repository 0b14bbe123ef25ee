//! Rotary embedding, and with a norm over each head before it: a node for each tensor of a call.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::prelude::*;

use super::{Ad, from_float, node, record, to_float};
use crate::{HeadNorm, ModelBackend};

/// Tensors of heads.
type All<B, C, const N: usize> = [Tensor<Ad<B, C>, 3>; N];

/// State: cosines and sines.
#[derive(Debug)]
struct Rotary;

impl<B: ModelBackend> Backward<B, 1> for Rotary {
    type State = (Tensor<B, 2>, Tensor<B, 2>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float(grads.consume::<B>(&ops.node));
        let (cos, sin) = ops.state;
        if let [Some(n)] = ops.parents {
            grads.register::<B>(n.id, to_float(B::rotary_backward(dy, &cos, &sin)));
        }
    }
}

/// What the gradient of a normed and rotated tensor needs.
#[derive(Clone, Debug)]
struct NormedState<B: Backend> {
    x: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    eps: f64,
    cos: Tensor<B, 2>,
    sin: Tensor<B, 2>,
}

#[derive(Debug)]
struct NormedRotary;

impl<B: ModelBackend> Backward<B, 1> for NormedRotary {
    type State = NormedState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float(grads.consume::<B>(&ops.node));
        let NormedState { x, weight, eps, cos, sin } = ops.state;
        if let [Some(n)] = ops.parents {
            let norm = HeadNorm { weight: &weight, eps };
            grads.register::<B>(n.id, to_float(B::normed_rotary_backward(dy, x, norm, &cos, &sin)));
        }
    }
}

/// See [`ModelBackend::rotary_all`].
pub(super) fn rotary_all<B: ModelBackend, C: CheckpointStrategy, const N: usize>(
    xs: All<B, C, N>,
    cos: &Tensor<Ad<B, C>, 2>,
    sin: &Tensor<Ad<B, C>, 2>,
) -> All<B, C, N> {
    let parents = xs.each_ref().map(node);
    let (cos, sin) = (cos.clone().inner(), sin.clone().inner());
    let mut ys = B::rotary_all(xs.map(Tensor::inner), &cos, &sin).into_iter();
    parents.map(|parent| {
        let y = ys.next().expect("a result for each");
        record(Rotary, [parent], y, || (cos.clone(), sin.clone()))
    })
}

/// See [`ModelBackend::normed_rotary_all`].
pub(super) fn normed_rotary_all<B: ModelBackend, C: CheckpointStrategy, const N: usize>(
    xs: All<B, C, N>,
    norms: [HeadNorm<'_, Ad<B, C>>; N],
    cos: &Tensor<Ad<B, C>, 2>,
    sin: &Tensor<Ad<B, C>, 2>,
) -> All<B, C, N> {
    let parents = xs.each_ref().map(node);
    let (cos, sin) = (cos.clone().inner(), sin.clone().inner());
    let norms = norms.map(|norm| (norm.weight.clone().inner(), norm.eps));
    let xs = xs.map(Tensor::inner);
    let borrowed = norms.each_ref().map(|(weight, eps)| HeadNorm { weight, eps: *eps });
    let ys = B::normed_rotary_all(xs.clone(), borrowed, &cos, &sin);
    let mut states = ys.into_iter().zip(xs).zip(norms);
    parents.map(|parent| {
        let ((y, x), (weight, eps)) = states.next().expect("a result for each");
        record(NormedRotary, [parent], y, || NormedState {
            x,
            weight,
            eps,
            cos: cos.clone(),
            sin: sin.clone(),
        })
    })
}
