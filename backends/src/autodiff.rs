//! [`ModelBackend`] for `Autodiff<B>`: one graph node an operation, with the gradient that the inner backend computes.
//!
//! An operation on untracked tensors records nothing. Second derivatives are not tracked.

mod attention;
mod linear;
mod rotary;
mod waiting;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use burn::tensor::backend::AutodiffBackend;
use parking_lot::{ReentrantMutex, ReentrantMutexGuard};

use crate::{
    AttentionCall, AttentionMask, DeviceMemory, HeadNorm, HostMask, KeyValueBlock, LinearGrads, LinearOutput,
    LinearRef, LoraRef, ModelBackend, ProductDtype, StoredDtype, StoredMatrix, WeightUse,
};

pub use waiting::{Waiting, inputs, waiting};

type Ad<B, C> = Autodiff<B, C>;
type Node<B> = <Autodiff<B> as burn::tensor::backend::BackendTypes>::FloatTensorPrimitive;

/// The autodiff tensor below the public one.
fn node<B: Backend, C: CheckpointStrategy, const D: usize>(x: &Tensor<Ad<B, C>, D>) -> Node<B> {
    x.clone().into_primitive().tensor()
}

fn from_float<B: Backend, const D: usize>(x: B::FloatTensorPrimitive) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

fn to_float<B: Backend, const D: usize>(x: Tensor<B, D>) -> B::FloatTensorPrimitive {
    x.into_primitive().tensor()
}

fn untracked<B: Backend, C: CheckpointStrategy, const D: usize>(x: Tensor<B, D>) -> Tensor<Ad<B, C>, D> {
    from_float(<Ad<B, C> as AutodiffBackend>::from_inner(to_float(x)))
}

/// Records `op` with its `state` and output if any parent is tracked.
fn record<B, C, O, S, const N: usize, const D: usize>(
    op: O,
    parents: [Node<B>; N],
    output: Tensor<B, D>,
    state: impl FnOnce() -> S,
) -> Tensor<Ad<B, C>, D>
where
    B: Backend,
    C: CheckpointStrategy,
    O: Backward<B, N, State = S>,
    S: Clone + Send + std::fmt::Debug + 'static,
{
    if !parents.iter().any(|p| p.is_tracked()) {
        return untracked(output);
    }
    let nodes = parents.each_ref().map(|p| p.node.clone());
    match op.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let output = prep.finish(state(), to_float(output));
            waiting::note(&output.rc);
            from_float(output)
        }
        OpsKind::UnTracked(prep) => from_float(prep.finish(to_float(output))),
    }
}

/// Parents: the chain so far, and two more. A node of burn-autodiff has a number of parents that the compiler knows; a chain of nodes has any.
/// It computes nothing and has no gradient: it only makes its parents ancestors of what it leads to.
#[derive(Debug)]
struct Chain;

impl<B: Backend> Backward<B, 3> for Chain {
    type State = ();

    fn backward(self, _: Ops<Self::State, 3>, _: &mut Gradients, _: &mut Checkpointer) {}
}

/// `chain`, and two more ancestors of what it leads to.
fn chained<B: Backend, C: CheckpointStrategy, const D: usize>(
    chain: Tensor<Ad<B, C>, D>,
    more: [Node<B>; 2],
) -> Tensor<Ad<B, C>, D> {
    let [first, second] = more;
    let (parents, value) = ([node(&chain), first, second], chain.inner());
    record(Chain, parents, value, || ())
}

/// `x` as a place for gradients, if it is tracked. It is held for that alone: it is no reader of what the graph computes.
fn target<B: Backend>(mut x: Node<B>) -> Option<Node<B>> {
    x.rc = std::sync::Arc::new(x.node.id);
    x.is_tracked().then_some(x)
}

/// The gradients that all `targets` have so far, no longer registered: what is registered next has to hold them. None where one has none, and
/// then nothing is taken.
fn taken<B: Backend, const N: usize, const D: usize>(
    grads: &mut Gradients,
    targets: [&Node<B>; N],
) -> Option<[Tensor<B, D>; N]> {
    let all = targets.iter().all(|target| grads.get::<B>(target).is_some());
    all.then(|| targets.map(|target| from_float(grads.remove::<B>(target).expect("one was found"))))
}

/// State: each operand, where the other one's gradient needs it.
#[derive(Debug)]
struct Matmul<const D: usize>;

impl<B: ModelBackend, const D: usize> Backward<B, 2> for Matmul<D> {
    type State = (Option<Tensor<B, D>>, Option<Tensor<B, D>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float::<B, D>(grads.consume::<B>(&ops.node));
        let ((a, b), [a_node, b_node]) = (ops.state, ops.parents);
        if let (Some(n), Some(b)) = (a_node, b) {
            grads.register::<B>(n.id, to_float(B::matmul(dy.clone(), b.transpose())));
        }
        if let (Some(n), Some(a)) = (b_node, a) {
            grads.register::<B>(n.id, to_float(B::matmul(a.transpose(), dy)));
        }
    }
}

/// State: the shape of what was summed.
#[derive(Debug)]
struct Sum<const D: usize>;

impl<B: ModelBackend, const D: usize> Backward<B, 1> for Sum<D> {
    type State = [usize; D];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float::<B, 1>(grads.consume::<B>(&ops.node));
        if let [Some(n)] = ops.parents {
            grads.register::<B>(n.id, to_float(dy.reshape([1; D]).expand(ops.state)));
        }
    }
}

/// State: the shape of what was summed.
#[derive(Debug)]
struct SumLast<const D: usize>;

impl<B: ModelBackend, const D: usize> Backward<B, 1> for SumLast<D> {
    type State = [usize; D];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float::<B, D>(grads.consume::<B>(&ops.node));
        if let [Some(n)] = ops.parents {
            grads.register::<B>(n.id, to_float(dy.expand(ops.state)));
        }
    }
}

/// State: the weights.
#[derive(Debug)]
struct Softmax<const D: usize>;

impl<B: ModelBackend, const D: usize> Backward<B, 1> for Softmax<D> {
    type State = Tensor<B, D>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float::<B, D>(grads.consume::<B>(&ops.node));
        let y = ops.state;
        if let [Some(n)] = ops.parents {
            let mean = B::sum_last(dy.clone() * y.clone());
            grads.register::<B>(n.id, to_float(y * (dy - mean)));
        }
    }
}

/// State: the weight.
#[derive(Debug)]
struct TransposedLinear;

impl<B: ModelBackend> Backward<B, 1> for TransposedLinear {
    type State = B::Weight;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float::<B, 2>(grads.consume::<B>(&ops.node));
        if let [Some(n)] = ops.parents {
            grads.register::<B>(n.id, to_float(B::frozen_linear(dy, &ops.state, None, None)));
        }
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: ModelBackend> Backward<B, 1> for RmsNorm {
    type State = (Tensor<B, 2>, Tensor<B, 1>, f64, Option<Node<B>>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float(grads.consume::<B>(&ops.node));
        let (x, weight, eps, target) = ops.state;
        if let Some(target) = target {
            let dx = match taken(grads, [&target]) {
                Some([sum]) => B::rms_norm_backward_onto(sum, dy, x, &weight, eps),
                None => B::rms_norm_backward(dy, x, &weight, eps),
            };
            grads.register::<B>(target.node.id, to_float(dx));
        }
    }
}

/// Parents: what was there, and what is new. State: the positions of each.
#[derive(Debug)]
struct Append;

impl<B: Backend> Backward<B, 2> for Append {
    type State = [usize; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float::<B, 4>(grads.consume::<B>(&ops.node));
        let [before, more] = ops.state;
        for (parent, (from, len)) in ops.parents.into_iter().zip([(0, before), (before, more)]) {
            if let Some(n) = parent {
                grads.register::<B>(n.id, to_float(dy.clone().narrow(2, from, len)));
            }
        }
    }
}

#[derive(Debug)]
struct SwiGlu;

impl<B: ModelBackend> Backward<B, 2> for SwiGlu {
    type State = (Tensor<B, 2>, Tensor<B, 2>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = from_float(grads.consume::<B>(&ops.node));
        let (d_gate, d_up) = B::swiglu_backward(dy, ops.state.0, ops.state.1);
        for (parent, grad) in ops.parents.into_iter().zip([d_gate, d_up]) {
            if let Some(n) = parent {
                grads.register::<B>(n.id, to_float(grad));
            }
        }
    }
}

#[derive(Debug)]
struct TokenNll;

impl<B: ModelBackend> Backward<B, 1> for TokenNll {
    type State = (Tensor<B, 2>, Vec<u32>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_nll = from_float(grads.consume::<B>(&ops.node));
        let (logits, targets) = ops.state;
        if let [Some(n)] = ops.parents {
            grads.register::<B>(n.id, to_float(B::token_nll_backward(d_nll, logits, &targets)));
        }
    }
}

#[derive(Debug)]
struct TokenKl;

impl<B: ModelBackend> Backward<B, 1> for TokenKl {
    type State = (Tensor<B, 2>, Tensor<B, 2>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_kl = from_float(grads.consume::<B>(&ops.node));
        let (log_p, logits) = ops.state;
        if let [Some(n)] = ops.parents {
            grads.register::<B>(n.id, to_float(B::token_kl_backward(d_kl, log_p, logits)));
        }
    }
}

impl<B: ModelBackend, C: CheckpointStrategy> ModelBackend for Autodiff<B, C> {
    type Weight = B::Weight;
    type Room = B::Room;

    const GROWS_IN_PLACE: bool = B::GROWS_IN_PLACE;

    fn device_memory(device: &Self::Device) -> Option<DeviceMemory> {
        B::device_memory(device)
    }

    fn attention_mask(mask: HostMask, device: &Self::Device) -> AttentionMask<Self> {
        B::attention_mask(mask, device).map(Tensor::from_inner)
    }

    fn matmul<const D: usize>(a: Tensor<Self, D>, b: Tensor<Self, D>) -> Tensor<Self, D> {
        assert_eq!(a.dims()[..D - 2], b.dims()[..D - 2], "the leading dimensions of a matrix product");
        let parents = [node(&a), node(&b)];
        let [wants_a, wants_b] = parents.each_ref().map(|p| p.is_tracked());
        let (a, b) = (a.inner(), b.inner());
        let y = B::matmul(a.clone(), b.clone());
        record(Matmul::<D>, parents, y, || (wants_b.then_some(a), wants_a.then_some(b)))
    }

    fn sum<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, 1> {
        let (parent, shape) = (node(&x), x.dims());
        record(Sum::<D>, [parent], B::sum(x.inner()), || shape)
    }

    fn sum_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        let (parent, shape) = (node(&x), x.dims());
        record(SumLast::<D>, [parent], B::sum_last(x.inner()), || shape)
    }

    fn argmax_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D, Int> {
        Tensor::from_inner(B::argmax_last(x.inner()))
    }

    fn softmax_last<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        let parent = node(&x);
        let y = B::softmax_last(x.inner());
        record(Softmax::<D>, [parent], y.clone(), || y)
    }

    fn keeps(dtype: StoredDtype, device: &Self::Device) -> bool {
        B::keeps(dtype, device)
    }

    fn largest_tensor(device: &Self::Device) -> Option<u64> {
        B::largest_tensor(device)
    }

    fn frozen_weight(matrix: StoredMatrix, used: WeightUse, device: &Self::Device) -> Self::Weight {
        B::frozen_weight(matrix, used, device)
    }

    fn multiplies(dtype: ProductDtype, device: &Self::Device) -> Result<(), String> {
        B::multiplies(dtype, device)
    }

    fn multiplied_in(weight: Self::Weight, products: ProductDtype) -> Self::Weight {
        B::multiplied_in(weight, products)
    }

    fn frozen_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Weight,
        bias: Option<&Tensor<Self, 1>>,
        lora: Option<LoraRef<'_, Self>>,
    ) -> Tensor<Self, 2> {
        let layer = LinearRef { weight, bias, lora, residual: None };
        let output = Self::frozen_linears(x, &[layer]).pop();
        output.expect("an output for each layer").y
    }

    fn frozen_linears(x: Tensor<Self, 2>, layers: &[LinearRef<'_, Self>]) -> Vec<LinearOutput<Self>> {
        linear::frozen_linears(x, layers)
    }

    fn frozen_linear_backward(
        dy: Tensor<Self, 2>,
        x: Option<Tensor<Self, 2>>,
        weight: &Self::Weight,
        lora: Option<LoraRef<'_, Self>>,
        wants_dx: bool,
    ) -> LinearGrads<Self> {
        let factors = lora.map(|l| (l.a.clone().inner(), l.b.clone().inner(), l.scaling));
        let inner = factors.as_ref().map(|(a, b, scaling)| LoraRef { a, b, scaling: *scaling });
        let (dx, grads) =
            B::frozen_linear_backward(dy.inner(), x.map(Tensor::inner), weight, inner, wants_dx);
        (dx.map(untracked), grads.map(|(a, b)| (untracked(a), untracked(b))))
    }

    fn frozen_transposed(x: Tensor<Self, 2>, weight: &Self::Weight) -> Tensor<Self, 2> {
        let parent = node(&x);
        record(TransposedLinear, [parent], B::frozen_transposed(x.inner(), weight), || weight.clone())
    }

    fn embed(weight: &Self::Weight, ids: &[u32], device: &Self::Device) -> Tensor<Self, 2> {
        untracked(B::embed(weight, ids, device))
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: &Tensor<Self, 1>, eps: f64) -> Tensor<Self, 2> {
        let (parent, x, weight) = (node(&x), x.inner(), weight.clone().inner());
        let y = B::rms_norm(x.clone(), &weight, eps);
        let place = target(parent.clone());
        record(RmsNorm, [parent], y, || (x, weight, eps, place))
    }

    fn rotary(x: Tensor<Self, 3>, cos: &Tensor<Self, 2>, sin: &Tensor<Self, 2>) -> Tensor<Self, 3> {
        let [y] = rotary::rotary_all([x], cos, sin);
        y
    }

    fn rotary_all<const N: usize>(
        xs: [Tensor<Self, 3>; N],
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> [Tensor<Self, 3>; N] {
        rotary::rotary_all(xs, cos, sin)
    }

    fn normed_rotary_all<const N: usize>(
        xs: [Tensor<Self, 3>; N],
        norms: [HeadNorm<'_, Self>; N],
        cos: &Tensor<Self, 2>,
        sin: &Tensor<Self, 2>,
    ) -> [Tensor<Self, 3>; N] {
        rotary::normed_rotary_all(xs, norms, cos, sin)
    }

    fn appended(tail: KeyValueBlock<Self>, new: KeyValueBlock<Self>) -> KeyValueBlock<Self> {
        longer(tail, new, B::appended)
    }

    fn grown(
        room: &mut Self::Room,
        capacity: usize,
        tail: KeyValueBlock<Self>,
        new: KeyValueBlock<Self>,
    ) -> KeyValueBlock<Self> {
        longer(tail, new, |tail, new| B::grown(room, capacity, tail, new))
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let parents = [node(&gate), node(&up)];
        let (gate, up) = (gate.inner(), up.inner());
        let y = B::swiglu(gate.clone(), up.clone());
        record(SwiGlu, parents, y, || (gate, up))
    }

    fn block_attention(call: &AttentionCall<Self>) -> (Tensor<Self, 4>, Tensor<Self, 4>) {
        attention::block_attention(call)
    }

    fn token_nll(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        let (parent, logits) = (node(&logits), logits.inner());
        let y = B::token_nll(logits.clone(), targets);
        record(TokenNll, [parent], y, || (logits, targets.to_vec()))
    }

    fn token_kl(log_p: Tensor<Self, 2>, logits: Tensor<Self, 2>) -> Tensor<Self, 1> {
        let (parent, log_p, logits) = (node(&logits), log_p.inner(), logits.inner());
        let y = B::token_kl(log_p.clone(), logits.clone());
        record(TokenKl, [parent], y, || (log_p, logits))
    }
}

/// Keys and values of `new` after those of `tail`, as `join` puts them.
fn longer<B: ModelBackend, C: CheckpointStrategy>(
    tail: KeyValueBlock<Ad<B, C>>,
    new: KeyValueBlock<Ad<B, C>>,
    join: impl FnOnce(KeyValueBlock<B>, KeyValueBlock<B>) -> KeyValueBlock<B>,
) -> KeyValueBlock<Ad<B, C>> {
    let positions = [&tail, &new].map(|block| block.key.dims()[2]);
    let [keys, values] = [[&tail.key, &new.key], [&tail.value, &new.value]].map(|pair| pair.map(node));
    let [tail, new] =
        [tail, new].map(|block| KeyValueBlock { key: block.key.inner(), value: block.value.inner() });
    let all = join(tail, new);
    KeyValueBlock {
        key: record(Append, keys, all.key, || positions),
        value: record(Append, values, all.value, || positions),
    }
}

/// Whether anything that requires a gradient led to `x`.
pub fn is_tracked<B: Backend, const D: usize>(x: &Tensor<Autodiff<B>, D>) -> bool {
    node(x).is_tracked()
}

/// Parents: the value, and a node of the graph it shall belong to. The state is what the latter's gradient is: zeros.
#[derive(Debug)]
struct Join<const D: usize>;

impl<B: Backend, const D: usize> Backward<B, 2> for Join<D> {
    type State = Tensor<B, D>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        for (parent, grad) in ops.parents.into_iter().zip([dy, to_float(ops.state)]) {
            if let Some(n) = parent {
                grads.register::<B>(n.id, grad);
            }
        }
    }
}

static PASS: ReentrantMutex<()> = ReentrantMutex::new(());

/// Keeps the other threads of this process from differentiating until it is dropped.
///
/// A backward pass of burn-autodiff 0.21 removes what it takes for unused from *every* graph of the process, also from one that another
/// thread has not finished building: that thread's gradients then lack a term, and nothing says so. Whoever differentiates holds this
/// from the first operation on a tracked tensor to the end of the backward pass. A thread may take it again while it holds it.
pub fn one_pass() -> ReentrantMutexGuard<'static, ()> {
    PASS.lock()
}

/// Makes leaves that burn-autodiff handles in linear time.
///
/// Each leaf starts a graph of its own, and every operation that meets a second graph merges the two, moving either, again and
/// again for a leaf that is used again: quadratic in the number of nodes. A backward pass over nodes that compute nothing and lead to all leaves
/// empties those graphs; from then on the leaves join whatever graph uses them.
///
/// # Shapes
/// Any, with at least one element each.
pub fn leaves<B: Backend, const D: usize>(values: Vec<Tensor<B, D>>) -> Vec<Tensor<Autodiff<B>, D>> {
    let _pass = one_pass();
    let leaves: Vec<Tensor<Autodiff<B>, D>> =
        values.into_iter().map(|t| Tensor::from_inner(t).require_grad()).collect();
    // By threes, so that what is merged is of one size.
    let mut chains = leaves.clone();
    while chains.len() > 1 {
        let joined = |chains: &[Tensor<Autodiff<B>, D>]| {
            let [first, second, third] = [0, 1, 2].map(|i| &chains[i.min(chains.len() - 1)]);
            chained(first.clone(), [node(second), node(third)])
        };
        chains = chains.chunks(3).map(joined).collect();
    }
    if let Some(root) = chains.pop() {
        root.backward();
    }
    leaves
}

/// Puts [`leaves`] into one graph, so that what is computed from them alone (a concatenation, say) does not start one each.
pub fn in_one_graph<B: Backend, const D: usize>(
    leaves: &[Tensor<Autodiff<B>, D>],
) -> Vec<Tensor<Autodiff<B>, D>> {
    let Some(first) = leaves.first() else { return Vec::new() };
    // A node made from the first leaf is the graph's origin; it is never used as an operand again.
    let origin = first.clone().slice([const { 0..1 }; D]);
    let anchor = join(origin.clone(), &origin);
    leaves.iter().map(|leaf| join(leaf.clone(), &anchor)).collect()
}

/// `x` in the graph of `graph`, a tensor of one element.
fn join<B: Backend, const D: usize>(
    x: Tensor<Autodiff<B>, D>,
    graph: &Tensor<Autodiff<B>, D>,
) -> Tensor<Autodiff<B>, D> {
    let (parents, value) = ([node(&x), node(graph)], x.inner());
    record(Join::<D>, parents, value, || graph.clone().inner().zeros_like())
}
