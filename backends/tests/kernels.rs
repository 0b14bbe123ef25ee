//! The kernels of the CPU backend against composed Burn operations, forward and backward, with and without padding.
#![cfg(feature = "flex")]

use std::cell::Cell;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{AttentionMask, Flex, HostMask, KeyValueBlock, LoraRef, ModelBackend, composed};

type T<const D: usize> = Tensor<Flex, D>;

thread_local! {
    /// Every test has a thread, and so the same numbers each time.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Uniform numbers of variance 1 (splitmix64).
fn random<const D: usize>(shape: [usize; D]) -> T<D> {
    let next = || {
        let state = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        STATE.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        3f32.sqrt() * ((z >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
    };
    let values: Vec<f32> = std::iter::repeat_with(next).take(shape.iter().product()).collect();
    T::from_data(TensorData::new(values, shape), &Default::default())
}

#[track_caller]
fn close<const D: usize>(got: T<D>, want: T<D>, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let values = |t: &T<D>| t.to_data().iter::<f64>().collect::<Vec<_>>();
    let (got, want) = (values(&got), values(&want));
    let scale = want.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-6);
    let off = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    assert!(off / scale < 2e-6, "{what}: off by {:.1e} of the norm", off / scale);
}

#[test]
fn frozen_linear_layers_agree_for_few_and_many_rows() {
    for rows in [1, 3, 8, 17, 40, 130] {
        for (cols, out) in [(64, 160), (70, 33), (576, 1536)] {
            let what = format!("{rows} rows, {cols} to {out}");
            let (x, w, bias) = (random([rows, cols]), random([out, cols]), random([out]));
            let (a, b) = (random([4, cols]), random([out, 4]));
            let lora = Some(LoraRef { a: &a, b: &b, scaling: 0.7 });
            close(
                Flex::frozen_linear(x.clone(), &w, Some(&bias), lora),
                composed::frozen_linear(x.clone(), &w, Some(&bias), lora),
                &what,
            );
            let dy = random([rows, out]);
            let got = Flex::frozen_linear_backward(dy.clone(), Some(x.clone()), &w, lora, true);
            let want = composed::frozen_linear_backward(dy.clone(), Some(x), &w, lora, true);
            close(got.0.unwrap(), want.0.unwrap(), &format!("{what}, dx"));
            let ((da, db), (wa, wb)) = (got.1.unwrap(), want.1.unwrap());
            close(da, wa, &format!("{what}, dA"));
            close(db, wb, &format!("{what}, dB"));
            assert!(Flex::frozen_linear_backward(dy, None, &w, None, false).0.is_none());
        }
    }
}

#[test]
fn norm_rotation_gate_and_loss_agree() {
    for (rows, width) in [(1, 64), (7, 96), (200, 576)] {
        let (x, w, dy) = (random([rows, width]), random([width]), random([rows, width]));
        close(Flex::rms_norm(x.clone(), &w, 1e-5), composed::rms_norm(x.clone(), &w, 1e-5), "norm");
        close(
            Flex::rms_norm_backward(dy.clone(), x.clone(), &w, 1e-5),
            composed::rms_norm_backward(dy.clone(), x.clone(), &w, 1e-5),
            "norm, backward",
        );
        let up = random([rows, width]);
        close(Flex::swiglu(x.clone(), up.clone()), composed::swiglu(x.clone(), up.clone()), "swiglu");
        let got = Flex::swiglu_backward(dy.clone(), x.clone(), up.clone());
        let want = composed::swiglu_backward(dy, x.clone(), up);
        close(got.0, want.0, "swiglu, d_gate");
        close(got.1, want.1, "swiglu, d_up");
        let heads = x.clone().reshape([rows, 2, width / 2]);
        let (c, s) = (random([rows, width / 4]), random([rows, width / 4]));
        close(Flex::rotary(heads.clone(), &c, &s), composed::rotary(heads, &c, &s), "rotary");
        let targets: Vec<u32> = (0..rows).map(|i| (i * 5 % width) as u32).collect();
        close(Flex::token_nll(x.clone(), &targets), composed::token_nll(x.clone(), &targets), "nll");
        let d = random([rows]);
        close(
            Flex::token_nll_backward(d.clone(), x.clone(), &targets),
            composed::token_nll_backward(d, x, &targets),
            "nll, backward",
        );
    }
}

/// Queries, blocks and mask of one call.
fn call(b: usize, t: usize, sizes: &[usize], padded: bool) -> (T<4>, Vec<KeyValueBlock<Flex>>, HostMask) {
    let (h, g, d) = (6, 2, 16);
    // Keys as the model makes them: a transposed view of [B, n, G, d].
    let kv = |n: usize| random([b, n, g, d]).swap_dims(1, 2);
    let blocks = sizes.iter().map(|&n| KeyValueBlock { key: kv(n), value: kv(n) }).collect();
    let n: usize = sizes.iter().sum();
    let valid = padded.then(|| (0..b * n).map(|i| i / n == 0 || i % n >= 3 && i % 5 != 0).collect());
    (random([b, t, h, d]), blocks, HostMask::new(b, t, n, valid))
}

#[test]
fn attention_agrees_over_one_to_three_blocks_with_and_without_padding() {
    for (b, t, sizes) in
        [(1, 5, vec![5]), (2, 1, vec![7, 4]), (1, 1, vec![9, 3, 2]), (3, 4, vec![6, 4]), (2, 1, vec![12])]
    {
        for padded in [false, true] {
            let what = format!("B = {b}, t = {t}, blocks {sizes:?}, padded {padded}");
            let (q, blocks, mask) = call(b, t, &sizes, padded);
            let mask = AttentionMask::<Flex>::on_host(mask);
            let (out, lse) = Flex::block_attention(q.clone(), &blocks, &mask, 0.25);
            let (want, want_lse) = composed::block_attention(q.clone(), &blocks, &mask, 0.25);
            close(out.clone(), want, &what);
            let d_out = random(q.dims());
            let wants: Vec<bool> = (0..blocks.len()).map(|i| i != 1).collect();
            let got = Flex::block_attention_backward(
                d_out.clone(),
                q.clone(),
                &blocks,
                &mask,
                0.25,
                out.clone(),
                lse,
                &wants,
            );
            let want =
                composed::block_attention_backward(d_out, q, &blocks, &mask, 0.25, out, want_lse, &wants);
            close(got.query, want.query, &format!("{what}, queries"));
            for (i, (got, want)) in got.blocks.into_iter().zip(want.blocks).enumerate() {
                assert_eq!((got.is_some(), want.is_some()), (wants[i], wants[i]));
                if let (Some(got), Some(want)) = (got, want) {
                    close(got.0, want.0, &format!("{what}, keys {i}"));
                    close(got.1, want.1, &format!("{what}, values {i}"));
                }
            }
        }
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros_and_finite_gradients() {
    let (q, blocks, _) = call(1, 1, &[4], false);
    let mask = AttentionMask::<Flex>::on_host(HostMask::new(1, 1, 4, Some(vec![false; 4])));
    for composed in [false, true] {
        let forward = if composed { composed::block_attention::<Flex> } else { Flex::block_attention };
        let (out, lse) = forward(q.clone(), &blocks, &mask, 0.25);
        assert!(out.to_data().iter::<f32>().all(|x| x == 0.0));
        let backward = if composed {
            composed::block_attention_backward::<Flex>
        } else {
            Flex::block_attention_backward
        };
        let got = backward(random(q.dims()), q.clone(), &blocks, &mask, 0.25, out, lse, &[true]);
        let (dk, dv) = got.blocks.into_iter().next().unwrap().unwrap();
        for t in [got.query, dk, dv] {
            assert!(t.to_data().iter::<f32>().all(|x| x == 0.0));
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (x, w) = (random([1, 576]), random([1536, 576]));
    let dy = random([1, 1536]);
    // Many query heads share each KV head, so that one query makes many rows.
    let q = random([1, 1, 24, 16]);
    let blocks = [KeyValueBlock { key: random([1, 2, 300, 16]), value: random([1, 2, 300, 16]) }];
    let mask = HostMask { batch: 1, queries: 1, keys: 300, valid: None };
    let compute = || -> [TensorData; 3] {
        let mask = Flex::attention_mask(mask.clone(), &Default::default());
        [
            Flex::frozen_linear(x.clone(), &w, None, None).into_data(),
            Flex::frozen_linear_backward(dy.clone(), None, &w, None, true).0.unwrap().into_data(),
            Flex::block_attention(q.clone(), &blocks, &mask, 0.25).0.into_data(),
        ]
    };
    let with = |n: usize| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(compute);
    let one = with(1);
    for n in [2, 3, 5] {
        assert_eq!(with(n), one, "{n} threads");
    }
}
