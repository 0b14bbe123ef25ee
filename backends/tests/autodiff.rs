//! Gradients of attention over any number of blocks, against plain Burn autodiff over composed operations.
#![cfg(feature = "flex")]

use burn::prelude::*;
use burn::tensor::Distribution;
use diffmas_backends::autodiff::{in_one_graph, inputs, is_tracked, leaves, one_pass, waiting};
use diffmas_backends::{
    AttentionCall, AttentionMask, Autodiff, Flex, HostMask, KeyValueBlock, ModelBackend, composed,
};

type Ad = Autodiff<Flex>;
type T = Tensor<Ad, 4>;

// Rows, queries a row, query and KV heads, head width.
const B: usize = 2;
const Q: usize = 3;
const H: usize = 4;
const G: usize = 2;
const D: usize = 8;

fn random(shape: [usize; 4]) -> Tensor<Flex, 4> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn values<const N: usize>(x: &Tensor<Flex, N>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}

#[track_caller]
fn close(got: &Tensor<Flex, 4>, want: &Tensor<Flex, 4>, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (values(got), values(want));
    let norm = want.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    assert!(off < 1e-5 * norm.max(1e-3), "{what}: off by {off:.1e} of {norm:.1e}");
}

/// The mask of `n` keys, some of which are padding.
fn mask(n: usize) -> AttentionMask<Ad> {
    let valid = (0..B * n).map(|i| i % 4 != 1 || i % n >= n - Q).collect();
    Ad::attention_mask(HostMask::new(B, Q, n, Some(valid)), &Default::default())
}

/// Asserts that the leaves get the gradients of the composed form, through attention on what `build` makes of them: queries and blocks.
/// A leaf gets one if `expected` says so.
#[track_caller]
fn agrees(
    leaves: &[T],
    build: impl Fn() -> (T, Vec<KeyValueBlock<Ad>>),
    expected: impl Fn(usize) -> bool,
    what: &str,
) {
    let d_out = random([B, Q, H, D]);
    // A backward pass uses up what it goes through.
    let [got, want] = [false, true].map(|composed| {
        let (q, blocks) = build();
        let n = blocks.iter().map(|b| b.key.dims()[2]).sum();
        let call = AttentionCall { q, blocks, mask: mask(n), scale: 0.3 };
        let (out, _) = if composed { composed::block_attention(&call) } else { Ad::block_attention(&call) };
        let mut grads = (out * Tensor::from_inner(d_out.clone())).sum().backward();
        leaves.iter().map(|x| x.grad_remove(&mut grads)).collect::<Vec<_>>()
    });
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!((got.is_some(), want.is_some()), (expected(i), expected(i)), "{what}, tensor {i}");
        if let (Some(got), Some(want)) = (got, want) {
            close(got, want, &format!("{what}, tensor {i}"));
        }
    }
}

#[test]
fn every_tracked_block_of_one_to_nine_gets_its_gradient_and_no_other() {
    let _pass = one_pass();
    for count in 1..=9 {
        let sizes: Vec<usize> = (1..count).map(|i| 1 + 2 * i % 5).chain([Q]).collect();
        // Queries alone, all blocks, and some: key and value, only one of them, none.
        for (queries, keep) in [(true, 0), (false, 1), (true, 1), (true, 2), (false, 3), (true, 3)] {
            let what = format!("{count} blocks, every {keep}th tensor tracked, queries {queries}");
            let kv = sizes.iter().flat_map(|&n| [random([B, G, n, D]), random([B, G, n, D])]);
            let all = leaves(kv.chain([random([B, Q, H, D])]).collect());
            let tracked = |i: usize| if i < 2 * count { keep > 0 && i.is_multiple_of(keep) } else { queries };
            let build = || {
                let mut placed: Vec<T> = all.iter().map(|x| x.clone().detach()).collect();
                let chosen: Vec<usize> = (0..all.len()).filter(|&i| tracked(i)).collect();
                let leaves: Vec<T> = chosen.iter().map(|&i| all[i].clone()).collect();
                for (i, leaf) in chosen.into_iter().zip(in_one_graph(&leaves)) {
                    placed[i] = leaf;
                }
                let at = |i: usize| placed[i].clone();
                let blocks = (0..count).map(|i| KeyValueBlock { key: at(2 * i), value: at(2 * i + 1) });
                (at(2 * count).mul_scalar(0.7), blocks.collect())
            };
            agrees(&all, build, tracked, &what);
        }
    }
}

#[test]
fn a_tensor_in_two_blocks_gets_the_sum_of_both_gradients() {
    let _pass = one_pass();
    let all = leaves(vec![random([B, G, Q, D]), random([B, G, Q, D]), random([B, Q, H, D])]);
    let build = || {
        // A leaf itself, what is computed from it, and both of a block's tensors the same.
        let twice = KeyValueBlock { key: all[0].clone(), value: all[1].clone() };
        let scaled = KeyValueBlock { key: all[0].clone().mul_scalar(2.0), value: all[1].clone() };
        let both = KeyValueBlock { key: all[1].clone(), value: all[1].clone() };
        (all[2].clone(), vec![twice.clone(), scaled, both, twice])
    };
    agrees(&all, build, |_| true, "blocks that share tensors");
}

#[test]
fn blocks_that_many_calls_read_get_the_sum_over_the_calls() {
    let _pass = one_pass();
    let sizes = [5, 2, 7, Q];
    let inner = leaves(sizes.iter().flat_map(|&n| [random([B, G, n, D]), random([B, G, n, D])]).collect());
    let q = leaves(vec![random([B, Q, H, D])]).remove(0);
    let run = |composed: bool| {
        let placed = in_one_graph(&inner);
        let blocks: Vec<_> = placed
            .chunks_exact(2)
            .map(|kv| KeyValueBlock { key: kv[0].clone(), value: kv[1].clone() })
            .collect();
        let mut x = q.clone();
        // Each call's queries are what the one before it made.
        for _ in 0..6 {
            let call = AttentionCall { q: x, blocks: blocks.clone(), mask: mask(17), scale: 0.3 };
            let call = if composed { composed::block_attention(&call) } else { Ad::block_attention(&call) };
            x = call.0 + q.clone();
        }
        let mut grads = x.powi_scalar(2).sum().backward();
        let all = inner.iter().chain([&q]).map(|x| x.grad_remove(&mut grads).unwrap());
        all.collect::<Vec<_>>()
    };
    for (i, (got, want)) in run(false).iter().zip(&run(true)).enumerate() {
        close(got, want, &format!("tensor {i}"));
    }
}

#[test]
fn attention_to_nothing_tracked_records_nothing() {
    let of = |n| Tensor::from_inner(random([B, G, n, D]));
    let blocks = vec![KeyValueBlock { key: of(4), value: of(4) }, KeyValueBlock { key: of(Q), value: of(Q) }];
    let q = Tensor::from_inner(random([B, Q, H, D]));
    let (out, lse) = Ad::block_attention(&AttentionCall { q, blocks, mask: mask(4 + Q), scale: 0.3 });
    assert!(!is_tracked(&out) && !is_tracked(&lse));
}

/// Queries that `count` calls of attention make of a leaf's, of the same keys and values every time: shared parameters.
fn chain(q: T, shared: &[T], count: usize) -> T {
    let block = KeyValueBlock { key: shared[0].clone(), value: shared[1].clone() };
    let call = |q| AttentionCall { q, blocks: vec![block.clone()], mask: mask(Q), scale: 0.3 };
    (0..count).fold(q, |x, _| Ad::block_attention(&call(x.clone())).0 + x)
}

#[test]
fn graphs_wait_for_their_backward_pass_while_others_have_theirs() {
    let _pass = one_pass();
    let shared = leaves(vec![random([B, G, Q, D]), random([B, G, Q, D])]);
    let starts: Vec<_> = (0..3).map(|_| random([B, Q, H, D])).collect();
    let gradients = |leaves: &[T], y: T| {
        let mut grads = y.powi_scalar(2).sum().backward();
        let all = shared.iter().chain(leaves).map(|x| values(&x.grad_remove(&mut grads).unwrap()));
        all.collect::<Vec<_>>()
    };
    let build = |i: usize| {
        let (leaves, placed) = inputs(vec![starts[i].clone()]);
        (leaves, chain(placed[0].clone(), &shared, 5 + i))
    };
    let alone: Vec<_> = (0..3).map(build).map(|(leaves, y)| gradients(&leaves, y)).collect();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut graphs: Vec<_> = (0..3).map(|i| Some(waiting(|| build(i)))).collect();
        for i in order {
            // Another pass in between, on leaves of its own.
            leaves(vec![random([B, G, Q, D])]);
            let ((leaves, y), held) = graphs[i].take().unwrap();
            drop(held);
            assert_eq!(gradients(&leaves, y), alone[i], "graph {i} of {order:?}");
        }
    }
}

#[test]
fn a_graph_that_nobody_asks_for_leaves_the_others_as_they_are() {
    let _pass = one_pass();
    let shared = leaves(vec![random([B, G, Q, D]), random([B, G, Q, D])]);
    let start = random([B, Q, H, D]);
    let once = || {
        let (leaves, placed) = inputs(vec![start.clone()]);
        let ((), _) = waiting(|| drop(chain(placed[0].clone().mul_scalar(0.5), &shared, 3)));
        let mut grads = chain(placed[0].clone(), &shared, 4).sum().backward();
        values(&leaves[0].grad_remove(&mut grads).unwrap())
    };
    assert_eq!(once(), once());
}
