//! The kernels of the CPU backend against composed Burn operations, forward and backward, with and without padding.
#![cfg(feature = "flex")]

use std::cell::Cell;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{
    AttentionCall, AttentionMask, Flex, HostMask, KeyValueBlock, LoraRef, ModelBackend, StoredMatrix,
    WeightUse, composed,
};

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

/// The frozen matrix of these values.
fn weight(w: &T<2>, used: WeightUse) -> <Flex as ModelBackend>::Weight {
    let values = w.to_data().iter::<f32>().collect();
    Flex::frozen_weight(StoredMatrix::from_f32(values, w.dims()), used, &Default::default())
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
            let (x, w, bias) = (random([rows, cols]), random([out, cols]), random([out]));
            let (a, b) = (random([4, cols]), random([out, 4]));
            let lora = Some(LoraRef { a: &a, b: &b, scaling: 0.7 });
            for (used, layout) in [(WeightUse::Table, "rows"), (WeightUse::Layer, "columns")] {
                let what = format!("{rows} rows, {cols} to {out}, {layout} without gaps");
                let kept = weight(&w, used);
                close(
                    Flex::frozen_linear(x.clone(), &kept, Some(&bias), lora),
                    composed::frozen_linear(x.clone(), &w, Some(&bias), lora),
                    &what,
                );
                let dy = random([rows, out]);
                let got = Flex::frozen_linear_backward(dy.clone(), Some(x.clone()), &kept, lora, true);
                let want = composed::frozen_linear_backward(dy.clone(), Some(x.clone()), &w, lora, true);
                close(got.0.unwrap(), want.0.unwrap(), &format!("{what}, dx"));
                let ((da, db), (wa, wb)) = (got.1.unwrap(), want.1.unwrap());
                close(da, wa, &format!("{what}, dA"));
                close(db, wb, &format!("{what}, dB"));
                assert!(Flex::frozen_linear_backward(dy, None, &kept, None, false).0.is_none());
            }
        }
    }
}

#[test]
fn a_row_of_a_product_does_not_depend_on_the_rows_beside_it() {
    for (cols, out) in [(64, 160), (70, 33), (1, 5), (3, 1), (576, 192), (1100, 40)] {
        let (x, w, bias) = (random([300, cols]), random([out, cols]), random([out]));
        let (a, b) = (random([4, cols]), random([out, 4]));
        let lora = Some(LoraRef { a: &a, b: &b, scaling: 0.7 });
        let [rows, columns] = [WeightUse::Table, WeightUse::Layer].map(|used| weight(&w, used));
        let right = w.clone().transpose().mul_scalar(1.0);
        let ways: [(&str, &dyn Fn(T<2>) -> T<2>); 5] = [
            ("rows", &|x| Flex::frozen_linear(x, &rows, Some(&bias), lora)),
            ("columns", &|x| Flex::frozen_linear(x, &columns, Some(&bias), lora)),
            ("columns alone", &|x| Flex::frozen_linear(x, &columns, None, None)),
            ("a matrix", &|x| Flex::matmul(x, right.clone())),
            ("a transposed matrix", &|x| Flex::matmul(x, w.clone().transpose())),
        ];
        for (way, f) in ways {
            let all = f(x.clone()).to_data();
            for (from, n) in [(0, 1), (7, 2), (100, 9), (31, 60), (150, 150), (0, 0)] {
                let some = f(x.clone().slice([from..from + n, 0..cols])).to_data();
                let (some, all) = (some.as_slice::<f32>().unwrap(), all.as_slice::<f32>().unwrap());
                assert!(
                    some == &all[from * out..(from + n) * out],
                    "{way}, {cols} to {out}: rows {from} to {}",
                    from + n
                );
            }
        }
    }
}

#[test]
fn products_in_leading_dimensions_agree_however_they_lie() {
    for [m, k, n] in [[1, 7, 5], [4, 64, 33], [60, 9000, 70]] {
        let (a, b) = (random([2, 3, m, k]), random([2, 3, k, n]));
        let turned = |x: &T<4>| x.clone().swap_dims(2, 3).mul_scalar(1.0).swap_dims(2, 3);
        let other = |x: &T<4>| x.clone().swap_dims(1, 2).mul_scalar(1.0).swap_dims(1, 2);
        for (a, b) in
            [(a.clone(), b.clone()), (a.clone(), turned(&b)), (turned(&a), b.clone()), (other(&a), other(&b))]
        {
            let what = format!("{m} x {k} x {n}");
            close(Flex::matmul(a.clone(), b.clone()), a.matmul(b), &what);
        }
    }
}

#[test]
fn hidden_scores_do_not_move_a_softmax() {
    for n in [1, 5, 40, 700] {
        let x = random([6, n]).mul_scalar(3.0);
        let want = Flex::softmax_last(x.clone());
        close(want.clone(), burn::tensor::activation::softmax(x.clone(), 1), "softmax");
        for hidden in [1, 3, 33] {
            let (left, right) = (x.clone().slice([0..6, 0..n / 3]), x.clone().slice([0..6, n / 3..n]));
            let none = |n: usize| T::<2>::full([6, n], -3e4, &Default::default());
            let y = Flex::softmax_last(Tensor::cat(vec![none(hidden), left, none(2), right], 1));
            let [_, all] = y.dims();
            let from = hidden + n / 3;
            let real =
                Tensor::cat(vec![y.clone().slice([0..6, hidden..from]), y.slice([0..6, from + 2..all])], 1);
            real.into_data().assert_eq(&want.to_data(), true);
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

/// A call of `t` queries a row on blocks of these sizes.
fn call(b: usize, t: usize, sizes: &[usize], padded: bool) -> AttentionCall<Flex> {
    let (h, g, d) = (6, 2, 16);
    // Keys as the model makes them: a transposed view of [B, n, G, d].
    let kv = |n: usize| random([b, n, g, d]).swap_dims(1, 2);
    let blocks = sizes.iter().map(|&n| KeyValueBlock { key: kv(n), value: kv(n) }).collect();
    let n: usize = sizes.iter().sum();
    let valid = padded.then(|| (0..b * n).map(|i| i / n == 0 || i % n >= 3 && i % 5 != 0).collect());
    let mask = AttentionMask::on_host(HostMask::new(b, t, n, valid));
    AttentionCall { q: random([b, t, h, d]), blocks, mask, scale: 0.25 }
}

#[test]
fn attention_agrees_over_one_to_nine_blocks_with_and_without_padding() {
    for (b, t, sizes) in [
        (1, 5, vec![5]),
        (2, 1, vec![7, 4]),
        (1, 1, vec![9, 3, 2]),
        (3, 4, vec![6, 4]),
        (2, 1, vec![12]),
        (2, 3, vec![1, 7, 2, 1, 40, 3, 5, 1, 3]),
        (1, 12, vec![30, 1, 1, 9, 12]),
    ] {
        for padded in [false, true] {
            let what = format!("B = {b}, t = {t}, blocks {sizes:?}, padded {padded}");
            let call = call(b, t, &sizes, padded);
            let (out, lse) = Flex::block_attention(&call);
            let (want, want_lse) = composed::block_attention(&call);
            close(out.clone(), want, &what);
            let d_out = random(call.q.dims());
            let wants: Vec<bool> = (0..sizes.len()).map(|i| i != 1).collect();
            let got = Flex::block_attention_backward(&call, d_out.clone(), out.clone(), lse, &wants);
            let want = composed::block_attention_backward(&call, d_out, out, want_lse, &wants);
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
fn attention_and_its_gradients_have_the_same_bits_however_the_past_is_cut() {
    for (b, t, sizes) in [
        (1, 1, vec![9, 3, 1, 2, 1]),
        (2, 1, vec![70, 1, 41, 7]),
        (1, 30, vec![7, 90, 2, 1, 30]),
        (2, 5, vec![600, 1, 3, 5]),
        (1, 9, vec![1, 1, 28, 29, 1, 9]),
        (3, 40, vec![1, 1, 1, 5, 1, 40]),
    ] {
        for padded in [false, true] {
            let cut = call(b, t, &sizes, padded);
            let (own, past) = cut.blocks.split_last().unwrap();
            let joined = KeyValueBlock {
                key: Tensor::cat(past.iter().map(|b| b.key.clone()).collect(), 2),
                value: Tensor::cat(past.iter().map(|b| b.value.clone()).collect(), 2),
            };
            let whole = AttentionCall { blocks: vec![joined, own.clone()], ..cut.clone() };
            let d_out = random(cut.q.dims());
            let of = |call: &AttentionCall<Flex>| {
                let (out, lse) = Flex::block_attention(call);
                let wants = vec![true; call.blocks.len()];
                let got =
                    Flex::block_attention_backward(call, d_out.clone(), out.clone(), lse.clone(), &wants);
                let (keys, values) = got.blocks.into_iter().flatten().unzip();
                let [keys, values] = [keys, values].map(|x| Tensor::cat(x, 2));
                [out, lse, got.query, keys, values].map(Tensor::into_data)
            };
            for (what, (got, want)) in ["output", "log-sum-exp", "queries", "keys", "values"]
                .iter()
                .zip(of(&cut).iter().zip(&of(&whole)))
            {
                assert!(got == want, "{what}, B = {b}, t = {t}, blocks {sizes:?}, padded {padded}");
            }
        }
    }
}

/// `x [B, t, …]` after `n` positions of other numbers.
fn after<const D: usize>(x: &T<D>, dim: usize, n: usize) -> T<D> {
    let mut shape = x.dims();
    shape[dim] = n;
    Tensor::cat(vec![random(shape).mul_scalar(100.0), x.clone()], dim)
}

#[test]
fn padding_rows_beside_and_cuts_of_the_keys_change_no_bit_of_attention() {
    let (h, g, d) = (6, 2, 48);
    for (t, sizes) in [(1, vec![70, 3]), (5, vec![20, 5]), (30, vec![90, 41, 30]), (150, vec![150])] {
        let blocks: Vec<_> = sizes
            .iter()
            .map(|&n| KeyValueBlock { key: random([1, g, n, d]), value: random([1, g, n, d]) })
            .collect();
        let q = random([1, t, h, d]);
        let n: usize = sizes.iter().sum();
        let of = |q: &T<4>, blocks: &[KeyValueBlock<Flex>], mask| {
            let (q, blocks, mask) = (q.clone(), blocks.to_vec(), AttentionMask::on_host(mask));
            Flex::block_attention(&AttentionCall { q, blocks, mask, scale: 0.2 }).0
        };
        let alone = of(&q, &blocks, HostMask::new(1, t, n, None)).to_data();

        // All keys in one block.
        let joined = [KeyValueBlock {
            key: Tensor::cat(blocks.iter().map(|b| b.key.clone()).collect(), 2),
            value: Tensor::cat(blocks.iter().map(|b| b.value.clone()).collect(), 2),
        }];
        alone.assert_eq(&of(&q, &joined, HostMask::new(1, t, n, None)).into_data(), true);

        // Padding before each block, the queries' own included, and another row beside.
        for padding in [1, 9, 40] {
            let padded: Vec<_> = blocks
                .iter()
                .map(|b| {
                    let two = |x: &T<4>| {
                        let x = after(x, 2, padding);
                        Tensor::cat(vec![random(x.dims()), x], 0)
                    };
                    KeyValueBlock { key: two(&b.key), value: two(&b.value) }
                })
                .collect();
            let own = if t == 1 { 0 } else { padding };
            let two = after(&q, 1, own);
            let two = Tensor::cat(vec![random(two.dims()), two], 0);
            let total = n + sizes.len() * padding;
            let row = sizes.iter().flat_map(|&n| [vec![false; padding], vec![true; n]].concat());
            let valid = std::iter::repeat_n(true, total).chain(row).collect();
            let out = of(&two, &padded, HostMask::new(2, t + own, total, Some(valid)));
            let real = out.slice([1..2, own..own + t, 0..h, 0..d]);
            alone.assert_eq(&real.into_data(), true);
        }
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros_and_finite_gradients() {
    let mut call = call(1, 1, &[4], false);
    call.mask = AttentionMask::on_host(HostMask::new(1, 1, 4, Some(vec![false; 4])));
    for composed in [false, true] {
        let forward = if composed { composed::block_attention::<Flex> } else { Flex::block_attention };
        let (out, lse) = forward(&call);
        assert!(out.to_data().iter::<f32>().all(|x| x == 0.0));
        let backward = if composed {
            composed::block_attention_backward::<Flex>
        } else {
            Flex::block_attention_backward
        };
        let got = backward(&call, random(call.q.dims()), out, lse, &[true]);
        let (dk, dv) = got.blocks.into_iter().next().unwrap().unwrap();
        for t in [got.query, dk, dv] {
            assert!(t.to_data().iter::<f32>().all(|x| x == 0.0));
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let w = random([1536, 576]);
    let weights = [WeightUse::Table, WeightUse::Layer].map(|used| weight(&w, used));
    let right = random([576, 200]);
    for rows in [1, 200] {
        let (x, dy) = (random([rows, 576]), random([rows, 1536]));
        // Many query heads share each KV head, so that one query makes many rows.
        let block = KeyValueBlock { key: random([1, 2, 300, 16]), value: random([1, 2, 300, 16]) };
        let mask = AttentionMask::on_host(HostMask::new(1, rows, 300, None));
        let call = AttentionCall { q: random([1, rows, 24, 16]), blocks: vec![block], mask, scale: 0.25 };
        let compute = || -> Vec<TensorData> {
            let linear = weights.iter().flat_map(|w| {
                let y = Flex::frozen_linear(x.clone(), w, None, None);
                [y, Flex::frozen_linear_backward(dy.clone(), None, w, None, true).0.unwrap()]
            });
            let products = [Flex::matmul(x.clone(), right.clone()), Flex::softmax_last(x.clone())];
            let attention = Flex::block_attention(&call).0;
            let all = linear.chain(products).map(Tensor::into_data);
            all.chain([attention.into_data()]).collect()
        };
        let with =
            |n: usize| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(compute);
        let one = with(1);
        for n in [2, 3, 5] {
            assert!(with(n) == one, "{rows} rows, {n} threads");
        }
    }
}

#[test]
fn a_block_of_one_row_is_read_by_all_rows() {
    let (batch, heads, kv_heads, d) = (3, 6, 2, 8);
    let block = |rows: usize, n: usize| KeyValueBlock {
        key: random([rows, kv_heads, n, d]),
        value: random([rows, kv_heads, n, d]),
    };
    let (shared, own) = (block(1, 7), block(batch, 4));
    let repeated = |x: &T<4>| T::cat(vec![x.clone(); batch], 0);
    let copied = KeyValueBlock { key: repeated(&shared.key), value: repeated(&shared.value) };
    for t in [1, 3] {
        let valid: Vec<bool> = (0..batch * 11).map(|i| i % 11 != 2 && i != 18).collect();
        let mask = HostMask::new(batch, t, 11, Some(valid));
        let q = random([batch, t, heads, d]);
        let attended = |first: &KeyValueBlock<Flex>, kernel: fn(&AttentionCall<Flex>) -> (T<4>, T<4>)| {
            let mask = AttentionMask::on_host(mask.clone());
            let blocks = vec![first.clone(), own.clone()];
            kernel(&AttentionCall { q: q.clone(), blocks, mask, scale: 0.3 }).0
        };
        for kernel in [Flex::block_attention, composed::block_attention::<Flex>] {
            close(attended(&shared, kernel), attended(&copied, kernel), &format!("{t} queries"));
        }
        let values = |x: T<4>| x.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(
            values(attended(&shared, Flex::block_attention)),
            values(attended(&copied, Flex::block_attention))
        );
    }
}
