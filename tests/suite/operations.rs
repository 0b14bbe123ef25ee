//! Every operation of a backend against its composed form, forward and backward, at sizes that no tile divides and on tensors whose rows lie
//! apart.

use burn::prelude::*;
use burn::tensor::{Bytes, DType, TensorData};
use diffmas_backends::{
    AdamWRange, AdamWState, AttentionCall, HeadNorm, HostMask, Job, KeyValueBlock, LinearRef, LinearSlope,
    LoraRef, ModelBackend, ProductDtype, StoredDtype, StoredMatrix, WeightUse, composed, host_data,
};

use crate::common::{det_fill, on_backend};

/// Numbers in a tensor without gaps.
fn filled<B: Backend, const D: usize>(name: &str, shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    let values = det_fill(&format!("{name}/{shape:?}"), shape.iter().product(), 1.0);
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// The same numbers as part of a larger tensor.
fn gapped<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let (len, dims) = (x.dims()[D - 1], x.dims());
    let mut wide = dims;
    wide[D - 1] = len + 3;
    Tensor::zeros(wide, &x.device()).slice_assign(dims.map(|n| 0..n), x).narrow(D - 1, 0, len)
}

fn values<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f64> {
    host_data(x).iter().collect()
}

#[track_caller]
fn close<B: Backend, const D: usize>(got: Tensor<B, D>, want: Tensor<B, D>, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (values(got), values(want));
    // What cancels to nothing leaves the rounding of numbers around 1.
    let scale = want.iter().map(|x| x * x).sum::<f64>().sqrt().max(0.1);
    let off = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    assert!(off / scale < 3e-6, "{what}: off by {:.1e} of the norm", off / scale);
}

/// Whether a backend computes a row in the same way whatever lies beside it.
fn by_row<B: ModelBackend>(device: &B::Device) -> bool {
    B::name(device) != "ndarray"
}

#[track_caller]
fn same<B: Backend>(got: Tensor<B, 2>, want: Tensor<B, 2>, what: &str) {
    assert!(values(got).iter().zip(values(want)).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}");
}

const ROWS: [usize; 3] = [1, 3, 70];
const WIDTHS: [usize; 8] = [1, 2, 7, 64, 65, 130, 576, 4099];

#[test]
fn norms_agree() {
    struct Norms;
    impl Job for Norms {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for (rows, len) in ROWS.iter().flat_map(|&rows| WIDTHS.map(|len| (rows, len))) {
                let what = format!("{rows} rows of {len}");
                let x = filled::<B, 2>("x", [rows, len], &device);
                let dy = filled::<B, 2>("dy", [rows, len], &device);
                let weight = filled::<B, 1>("weight", [len], &device);
                let want = composed::rms_norm(x.clone(), &weight, 1e-5);
                close(B::rms_norm(x.clone(), &weight, 1e-5), want.clone(), &what);
                close(B::rms_norm(gapped(x.clone()), &weight, 1e-5), want, &format!("{what}, apart"));
                let want = composed::rms_norm_backward(dy.clone(), x.clone(), &weight, 1e-5);
                let got = B::rms_norm_backward(dy.clone(), x.clone(), &weight, 1e-5);
                close(got, want.clone(), &format!("{what}, backward"));
                let got = B::rms_norm_backward(gapped(dy.clone()), gapped(x.clone()), &weight, 1e-5);
                close(got, want, &format!("{what}, backward, apart"));
                let sum = gapped(filled::<B, 2>("sum", [rows, len], &device));
                let want = composed::rms_norm_backward(dy.clone(), x.clone(), &weight, 1e-5) + sum.clone();
                let got = B::rms_norm_backward_onto(sum, dy, x.clone(), &weight, 1e-5);
                close(got, want, &format!("{what}, backward, onto a sum"));
                if by_row::<B>(&device) {
                    let last = |x: Tensor<B, 2>| x.narrow(0, rows - 1, 1);
                    let alone = B::rms_norm(last(x.clone()), &weight, 1e-5);
                    same(alone, last(B::rms_norm(x, &weight, 1e-5)), &format!("{what}, the last alone"));
                }
            }
        }
    }
    on_backend(Norms);
}

#[test]
fn elementwise_operations_agree() {
    struct Elementwise;
    impl Job for Elementwise {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for [n, heads, d] in [[1, 1, 2], [3, 2, 6], [70, 3, 64], [5, 9, 128]] {
                let what = format!("{n} positions of {heads} heads of {d}");
                let x = filled::<B, 3>("x", [n, heads, d], &device);
                let cos = filled::<B, 2>("cos", [n, d / 2], &device);
                let sin = filled::<B, 2>("sin", [n, d / 2], &device);
                let back = composed::rotary(x.clone(), &cos, &sin.clone().neg());
                close(B::rotary_backward(x.clone(), &cos, &sin), back, &format!("{what}, backward"));
                let want = composed::rotary(x.clone(), &cos, &sin);
                close(B::rotary(x.clone(), &cos, &sin), want.clone(), &what);
                let other = filled::<B, 3>("other", [n, 2, d], &device);
                let (cos, sin) = (gapped(cos), gapped(sin));
                let second = composed::rotary(other.clone(), &cos, &sin);
                let got = B::rotary_all([gapped(x), other], &cos, &sin);
                for (got, want) in got.into_iter().zip([want, second]) {
                    close(got, want, &format!("{what}, apart, beside others"));
                }
            }
            for ([n, heads, d], others) in
                [([1, 1, 2], 1), ([3, 2, 6], 3), ([70, 3, 64], 1), ([5, 9, 130], 2)]
            {
                let what = format!("{n} positions of {heads} and {others} normed heads of {d}");
                let (x, other) =
                    (filled::<B, 3>("x", [n, heads, d], &device), filled("o", [n, others, d], &device));
                let weights = ["of x", "of others"].map(|name| filled::<B, 1>(name, [d], &device));
                let norms = || weights.each_ref().map(|weight| HeadNorm { weight, eps: 0.1 });
                let [cos, sin] = ["cos", "sin"].map(|name| filled::<B, 2>(name, [n, d / 2], &device));
                let want = composed::normed_rotary_all([x.clone(), other.clone()], norms(), &cos, &sin);
                let got =
                    B::normed_rotary_all([gapped(x.clone()), other], norms(), &gapped(cos.clone()), &sin);
                for (got, want) in got.into_iter().zip(want) {
                    close(got, want, &what);
                }
                let dy = filled::<B, 3>("dy", [n, heads, d], &device);
                let [norm, again] = [norms(), norms()].map(|[norm, _]| norm);
                let want = composed::normed_rotary_backward(dy.clone(), x.clone(), norm, &cos, &sin);
                let got = B::normed_rotary_backward(gapped(dy), x, again, &cos, &gapped(sin.clone()));
                close(got, want, &format!("{what}, backward"));
            }
            for shape in [[1, 1], [1, 1536], [3, 65], [70, 130]] {
                let [gate, up, dy] = ["gate", "up", "dy"].map(|name| filled::<B, 2>(name, shape, &device));
                let gate = gate.mul_scalar(4.0);
                let want = composed::swiglu(gate.clone(), up.clone());
                close(B::swiglu(gate.clone(), up.clone()), want.clone(), &format!("{shape:?}"));
                close(
                    B::swiglu(gapped(gate.clone()), gapped(up.clone())),
                    want,
                    &format!("{shape:?}, apart"),
                );
                let want = composed::swiglu_backward(dy.clone(), gate.clone(), up.clone());
                for (got, how) in [
                    (B::swiglu_backward(dy.clone(), gate.clone(), up.clone()), ""),
                    (B::swiglu_backward(gapped(dy), gapped(gate), gapped(up)), ", apart"),
                ] {
                    close(got.0, want.0.clone(), &format!("{shape:?}{how}, gate"));
                    close(got.1, want.1.clone(), &format!("{shape:?}{how}, up"));
                }
            }
        }
    }
    on_backend(Elementwise);
}

#[test]
fn losses_of_tokens_agree() {
    struct Losses;
    impl Job for Losses {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for (rows, len) in [(1, 1), (1, 2), (3, 33), (70, 1000), (2, 20_001), (1, 151_936)] {
                let what = format!("{rows} rows of {len}");
                let logits = filled::<B, 2>("logits", [rows, len], &device).mul_scalar(5.0);
                let targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % len) as u32).collect();
                let d_nll = filled::<B, 1>("d_nll", [rows], &device);
                let want = composed::token_nll(logits.clone(), &targets);
                close(B::token_nll(logits.clone(), &targets), want.clone(), &what);
                // Rows that lie apart are summed number by number on ndarray: of that many, the sum is off by more.
                if by_row::<B>(&device) || len < 100_000 {
                    close(B::token_nll(gapped(logits.clone()), &targets), want, &format!("{what}, apart"));
                }
                let want = composed::token_nll_backward(d_nll.clone(), logits.clone(), &targets);
                let got = B::token_nll_backward(d_nll.clone(), logits.clone(), &targets);
                close(got, want, &format!("{what}, backward"));
                // One number for all rows.
                let one = d_nll.narrow(0, 0, 1).expand([rows]);
                let want = composed::token_nll_backward(one.clone(), logits.clone(), &targets);
                if by_row::<B>(&device) || len < 100_000 {
                    let got = B::token_nll_backward(one, gapped(logits), &targets);
                    close(got, want, &format!("{what}, backward, apart"));
                }
            }
        }
    }
    on_backend(Losses);
}

#[test]
fn the_best_tokens_agree_and_rows_that_are_not_finite_show() {
    struct Best;
    impl Job for Best {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for (rows, len) in [(1, 1), (3, 5), (2, 64), (5, 4099), (2, 151_936)] {
                let mut numbers = det_fill(&format!("best/{rows}/{len}"), rows * len, 3.0);
                for row in numbers.chunks_exact_mut(len) {
                    // Two that are the largest, of which the first counts.
                    row[len / 2] = 7.5;
                    row[len - 1] = 7.5;
                }
                let logits = |numbers: &[f32]| {
                    let data = TensorData::new(numbers.to_vec(), [rows, len]);
                    Tensor::<B, 2>::from_data(data, (&device, DType::F32))
                };
                let want = composed::best_tokens(logits(&numbers));
                for x in [logits(&numbers), gapped(logits(&numbers))] {
                    for (got, want) in B::best_tokens(x).iter().zip(&want) {
                        assert_eq!((got.id, want.id), ((len / 2) as u32, (len / 2) as u32), "{len}");
                        assert!((got.log_prob - want.log_prob).abs() < 2e-5, "{got:?} {want:?}");
                    }
                }
                for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut numbers = numbers.clone();
                    numbers[0] = wrong;
                    let best = B::best_tokens(logits(&numbers));
                    assert!(best[0].log_prob.is_nan(), "{wrong} among {len}: {:?}", best[0]);
                    assert!(best[1..].iter().all(|best| best.log_prob.is_finite()), "{wrong}: {best:?}");
                }
            }
        }
    }
    on_backend(Best);
}

#[test]
fn the_first_of_the_best_tokens_agree() {
    struct Top;
    impl Job for Top {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for (len, counts) in [
                (1, vec![1]),
                (64, vec![4, 1]),
                (500, vec![40, 0, 3]),
                (4099, vec![50, 1, 256]),
                (4099, vec![257, 5000, 1]),
                (151_936, vec![50, 1, 500]),
            ] {
                let rows = counts.len();
                let all = det_fill(&format!("top/{len}"), rows * len, 20.0);
                // Numbers of which few are equal, of which many are, and of which all are.
                for step in [1e-6, 0.25, 100.0] {
                    let numbers: Vec<f32> = all.iter().map(|x| (x / step).round() * step).collect();
                    let data = TensorData::new(numbers, [rows, len]);
                    let logits = Tensor::<B, 2>::from_data(data, (&device, DType::F32));
                    let want = composed::top_tokens(logits.clone(), &counts);
                    for (x, how) in [(logits.clone(), "as it is"), (gapped(logits), "apart")] {
                        assert_eq!(B::top_tokens(x, &counts), want, "{counts:?} of {len}, {how}");
                    }
                }
            }
        }
    }
    on_backend(Top);
}

/// A frozen matrix of `numbers`, kept as `dtype`.
fn stored(numbers: &[f32], shape: [usize; 2], dtype: StoredDtype) -> StoredMatrix {
    let mut bytes = vec![0; dtype.bytes(numbers.len()).unwrap()];
    dtype.narrow(numbers, &mut bytes);
    StoredMatrix::new(dtype, shape, Bytes::from_bytes_vec(bytes))
}

#[test]
fn keys_and_values_grow() {
    struct Growth;
    impl Job for Growth {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for [batch, heads, before, more, d] in [[1, 1, 1, 1, 1], [2, 3, 5, 1, 64], [3, 2, 1, 4, 7]] {
                let block = |name: &str, n| {
                    let shape = [batch, n, heads, d];
                    let four =
                        |of| gapped(filled::<B, 4>(&format!("{name} {of}"), shape, &device)).swap_dims(1, 2);
                    KeyValueBlock { key: four("key"), value: four("value") }
                };
                let (tail, new) = (block("tail", before), block("new", more));
                let want = composed::appended(tail.clone(), new.clone());
                let got = B::appended(tail, new);
                assert_eq!(values(got.key), values(want.key), "{batch} {heads} {before} {more} {d}");
                assert_eq!(values(got.value), values(want.value), "{batch} {heads} {before} {more} {d}");

                // In a room, step by step beyond what it holds; what was returned stays as it is.
                let mut room = B::Room::default();
                let mut all = vec![block("tail", before)];
                let mut wanted = all.clone();
                for step in 0..4 {
                    let new = block(&format!("new {step}"), more);
                    let tail = all.last().unwrap().clone();
                    all.push(B::grown(&mut room, before + 2 * more, tail, new.clone()));
                    wanted.push(composed::appended(wanted.last().unwrap().clone(), new));
                }
                for (step, (got, want)) in all.into_iter().zip(wanted).enumerate() {
                    assert_eq!(values(got.key), values(want.key), "{before} and {step} of {more}");
                    assert_eq!(values(got.value), values(want.value), "{before} and {step} of {more}");
                }
            }
        }
    }
    on_backend(Growth);
}

/// Rounded to numbers that each of these types holds.
fn rounded<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    (x.mul_scalar(64.0)).round().div_scalar(64.0)
}

#[test]
fn linear_layers_agree_for_few_and_many_rows() {
    struct Linears;
    impl Job for Linears {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for (cols, out) in [(1, 1), (7, 5), (33, 70), (64, 160), (576, 192), (130, 1000)] {
                let w = rounded(filled::<B, 2>("w", [out, cols], &device));
                let numbers: Vec<f32> = w.clone().into_data().to_vec().unwrap();
                let bias = filled::<B, 1>("bias", [out], &device);
                let dtypes = [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16];
                for dtype in dtypes.into_iter().filter(|&dtype| B::keeps(dtype, &device)) {
                    let matrix = stored(&numbers, [out, cols], dtype);
                    let kept = B::frozen_weight(matrix, WeightUse::Layer, &device);
                    for (rows, rank) in
                        [(1, 0), (1, 8), (2, 1), (3, 3), (8, 0), (9, 8), (16, 3), (17, 8), (40, 0)]
                    {
                        let what = format!("{rows} rows, {cols} to {out}, rank {rank}, {dtype:?}");
                        let x = filled::<B, 2>("x", [rows, cols], &device);
                        let dy = filled::<B, 2>("dy", [rows, out], &device);
                        let a = filled::<B, 2>("a", [rank.max(1), cols], &device);
                        let b = filled::<B, 2>("b", [out, rank.max(1)], &device);
                        let lora = (rank > 0).then_some(LoraRef { a: &a, b: &b, scaling: 0.7 });
                        let bias = (rank != 3).then_some(&bias);
                        let want = composed::frozen_linear(x.clone(), &w, bias, lora);
                        let got = B::frozen_linear(x.clone(), &kept, bias, lora);
                        close(got.clone(), want.clone(), &what);
                        close(
                            B::frozen_linear(gapped(x.clone()), &kept, bias, lora),
                            want,
                            &format!("{what}, apart"),
                        );
                        let want =
                            composed::frozen_linear_backward(dy.clone(), Some(x.clone()), &w, lora, true);
                        for (dy, x, how) in [
                            (dy.clone(), x.clone(), "backward"),
                            (gapped(dy.clone()), gapped(x.clone()), "apart"),
                        ] {
                            let got = B::frozen_linear_backward(dy, Some(x), &kept, lora, true);
                            close(got.0.unwrap(), want.0.clone().unwrap(), &format!("{what}, {how}, dx"));
                            assert_eq!(got.1.is_some(), rank > 0);
                            if let (Some((da, db)), Some((wa, wb))) = (got.1, want.1.clone()) {
                                close(da, wa, &format!("{what}, {how}, dA"));
                                close(db, wb, &format!("{what}, {how}, dB"));
                            }
                        }
                        close(
                            B::frozen_transposed(dy.clone(), &kept),
                            composed::frozen_transposed(dy, &w),
                            &format!("{what}, transposed"),
                        );
                        if by_row::<B>(&device) && rows <= 16 {
                            let last = |x: Tensor<B, 2>| x.narrow(0, rows - 1, 1);
                            let alone = B::frozen_linear(last(x), &kept, bias, lora);
                            same(alone, last(got), &format!("{what}, the last alone"));
                        }
                    }
                }
            }
        }
    }
    on_backend(Linears);
}

#[test]
fn products_of_many_rows_round_both_operands_and_no_sum() {
    struct Products;
    impl Job for Products {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            assert_eq!(B::multiplies(ProductDtype::F32, &device), Ok(()));
            // The relative step of each type.
            let narrow =
                [(ProductDtype::Tf32, 1 << 11), (ProductDtype::Bf16, 1 << 8), (ProductDtype::F16, 1 << 11)];
            for (dtype, steps) in narrow {
                if let Err(reason) = B::multiplies(dtype, &device) {
                    eprintln!("SKIPPED: {dtype:?}: this device {reason}");
                    continue;
                }
                for ([rows, cols, out], kept) in [
                    ([17, 7, 5], StoredDtype::F32),
                    ([40, 130, 192], StoredDtype::F32),
                    ([128, 576, 1536], StoredDtype::F32),
                    ([40, 64, 160], StoredDtype::F16),
                ] {
                    let what = format!("{dtype:?}, {rows} rows, {cols} to {out}, {kept:?}");
                    let (x, w) = (
                        filled::<B, 2>("x", [rows, cols], &device),
                        filled::<B, 2>("w", [out, cols], &device),
                    );
                    let dy = filled::<B, 2>("dy", [rows, out], &device);
                    let weight = |products| {
                        let matrix = stored(&w.clone().into_data().to_vec().unwrap(), [out, cols], kept);
                        B::multiplied_in(B::frozen_weight(matrix, WeightUse::Layer, &device), products)
                    };
                    let (exact, rounded) = (weight(ProductDtype::F32), weight(dtype));
                    let few = x.clone().narrow(0, 0, 16);
                    same(
                        B::frozen_linear(few.clone(), &rounded, None, None),
                        B::frozen_linear(few, &exact, None, None),
                        &format!("{what}, of which 16"),
                    );
                    let pairs = [
                        (
                            B::frozen_linear(x.clone(), &rounded, None, None),
                            B::frozen_linear(x, &exact, None, None),
                        ),
                        (B::frozen_transposed(dy.clone(), &rounded), B::frozen_transposed(dy, &exact)),
                    ];
                    for (got, want) in pairs {
                        let (got, want) = (values(got), values(want));
                        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                        let off = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b))
                            / norm(&mut want.iter().copied());
                        // Two operands, each off by half a step at most; and more than f32 is.
                        assert!(off < 1.0 / f64::from(steps), "{what}: off by {off:.1e} of the norm");
                        assert!(off > 1e-6, "{what}: nothing is rounded");
                    }
                }
            }
        }
    }
    on_backend(Products);
}

#[test]
fn layers_of_one_input_agree_with_one_after_another() {
    struct Groups;
    impl Job for Groups {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            let (cols, outs, ranks) = (130, [192, 64, 65], [8, 0, 3]);
            for (rows, dtypes) in [
                (1, [StoredDtype::F32; 3]),
                (5, [StoredDtype::F32; 3]),
                (16, [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F32]),
                (40, [StoredDtype::F32; 3]),
            ] {
                if !dtypes.iter().all(|&dtype| B::keeps(dtype, &device)) {
                    continue;
                }
                let x = filled::<B, 2>("x", [rows, cols], &device);
                let two = |name: &str, shapes: [[usize; 2]; 3]| {
                    shapes.map(|shape| filled::<B, 2>(name, shape, &device))
                };
                let weights = two("w", outs.map(|out| [out, cols])).map(rounded);
                let kept: Vec<_> = weights
                    .iter()
                    .zip(dtypes)
                    .map(|(w, dtype)| {
                        let numbers: Vec<f32> = w.clone().into_data().to_vec().unwrap();
                        B::frozen_weight(stored(&numbers, w.dims(), dtype), WeightUse::Layer, &device)
                    })
                    .collect();
                let a = two("a", ranks.map(|rank| [rank.max(1), cols]));
                let b = two("b", [0, 1, 2].map(|i| [outs[i], ranks[i].max(1)]));
                let residuals = two("residual", outs.map(|out| [rows, out]));
                let layers = [0, 1, 2].map(|i| LinearRef {
                    weight: &kept[i],
                    bias: None,
                    lora: (ranks[i] > 0).then_some(LoraRef { a: &a[i], b: &b[i], scaling: 0.7 }),
                    residual: (i != 0).then_some(&residuals[i]),
                });
                let want = composed::frozen_linears(x.clone(), &layers);
                let got = B::frozen_linears(x.clone(), &layers);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    close(got.y.clone(), want.y.clone(), &format!("{rows} rows, layer {i}"));
                }
                // With all layers and with some, with and without gradients to add to.
                for (reached, summed) in [([true; 3], false), ([true; 3], true), ([true, false, true], true)]
                {
                    let slopes = || {
                        let reached = (0..3).filter(|&i| reached[i]);
                        reached
                            .map(|i| LinearSlope {
                                dy: filled::<B, 2>("dy", [rows, outs[i]], &device),
                                weight: &kept[i],
                                lora: layers[i].lora,
                                kept: None,
                                sums: (summed && ranks[i] > 0)
                                    .then(|| (gapped(a[i].clone()), gapped(b[i].clone()))),
                            })
                            .collect::<Vec<_>>()
                    };
                    let what = format!("{rows} rows, {reached:?}, summed: {summed}");
                    let want = composed::frozen_linears_backward(Some(x.clone()), slopes(), true);
                    let kept = (0..3).filter(|&i| reached[i]).map(|i| got[i].kept.clone());
                    let slopes =
                        slopes().into_iter().zip(kept).map(|(slope, kept)| LinearSlope { kept, ..slope });
                    let got = B::frozen_linears_backward(Some(x.clone()), slopes.collect(), true);
                    close(got.0.unwrap(), want.0.unwrap(), &format!("{what}, dx"));
                    for (i, (got, want)) in got.1.into_iter().zip(want.1).enumerate() {
                        assert_eq!(got.is_some(), want.is_some(), "{what}");
                        if let (Some(got), Some(want)) = (got, want) {
                            close(got.0, want.0, &format!("{what}, dA {i}"));
                            close(got.1, want.1, &format!("{what}, dB {i}"));
                        }
                    }
                }
            }
        }
    }
    on_backend(Groups);
}

/// Matrices in one tensor, each with what follows it that is no part of it.
const MATRICES: [([usize; 2], usize); 20] = {
    let mut all = [([3, 5], 49); 20];
    all[0] = ([1, 1], 63);
    all[1] = ([8, 576], 0);
    all[2] = ([7, 7], 15);
    all[4] = ([130, 33], 0);
    all
};

/// Where each begins, and how many numbers there are.
fn places() -> (Vec<usize>, usize) {
    let mut end = 0;
    let begin = |([rows, columns], more): &([usize; 2], usize)| {
        let from = end;
        end += rows * columns + more;
        from
    };
    let places = MATRICES.iter().map(begin).collect();
    (places, end)
}

#[test]
fn matrices_lie_in_one_tensor_and_are_added_there() {
    struct Parts;
    impl Job for Parts {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            let (places, n) = places();
            let flat = filled::<B, 1>("flat", [n], &device);
            let before = values(flat.clone());
            // The one after [130, 33] begins where no buffer may.
            assert!(places[5] % 64 != 0);
            let matrix = |i: usize| {
                let x = filled::<B, 2>(&format!("matrix {i}"), MATRICES[i].0, &device);
                if i % 3 == 1 { gapped(x) } else { x }
            };
            // Not in the order in which they lie, and the third is not among them.
            let parts: Vec<_> =
                (0..MATRICES.len()).rev().filter(|&i| i != 2).map(|i| (places[i], matrix(i))).collect();
            let want = composed::added(flat.clone(), parts.clone());
            let got = B::added(flat.clone(), parts.clone());
            assert_eq!(values(got.clone()), values(want.clone()));
            assert_eq!(values(flat.clone()), before, "somebody else holds what was added to");
            let again = B::added(got, parts.clone());
            assert_eq!(values(again), values(composed::added(want, parts)), "in place");
            for (&from, (shape, _)) in places.iter().zip(MATRICES) {
                let part = B::part(&flat, from, shape);
                assert_eq!(part.dims(), shape);
                assert_eq!(values(part.clone()), before[from..][..shape[0] * shape[1]], "from {from}");
                // What is computed of a part changes nothing of the whole.
                let changed = part.mul_scalar(3.0) + 1.0;
                assert_eq!(values(changed).len(), shape[0] * shape[1]);
            }
            assert_eq!(values(flat), before, "what is computed of parts leaves the whole as it is");
        }
    }
    on_backend(Parts);
}

#[test]
fn sums_of_squares_agree_and_are_the_same_every_time() {
    struct Squares;
    impl Job for Squares {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for n in [1, 63, 256, 257, 65_537, 300_001] {
                let x = filled::<B, 1>("x", [n], &device);
                let got = B::sum_of_squares(x.clone());
                let want: f64 = values(x.clone()).iter().map(|x| x * x).sum();
                // ndarray adds one number after another in f32.
                let near = if by_row::<B>(&device) { 1e-6 } else { 1e-5 };
                assert!((got / want - 1.0).abs() < near, "{n} numbers: {got}, not {want}");
                assert_eq!(got.to_bits(), B::sum_of_squares(x).to_bits(), "{n} numbers again");
            }
        }
    }
    on_backend(Squares);
}

#[test]
fn updates_of_adamw_agree_and_leave_other_numbers_as_they_are() {
    struct Updates;
    impl Job for Updates {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            let (places, n) = places();
            let range = |matrices: std::ops::Range<usize>, updates: i32, kept: f32| {
                let betas = [0.9f32, 0.999];
                AdamWRange {
                    numbers: places[matrices.start]..places.get(matrices.end).copied().unwrap_or(n),
                    lr: 0.03,
                    betas,
                    eps: 1e-8,
                    bias_corrections: betas.map(|beta| 1.0 - beta.powi(updates)),
                    kept,
                    clip_factor: 0.7,
                    diagonal: None,
                }
            };
            let mut square = range(2..3, 2, 0.99);
            square.numbers.end = square.numbers.start + 49;
            square.diagonal = Some((7, 0.25));
            // The second matrix and what follows the third are in none of them.
            let ranges = [range(0..1, 1, 1.0), square, range(3..20, 3, 0.98)];
            let state = || AdamWState {
                parameters: filled::<B, 1>("parameters", [n], &device),
                exp_avg: filled::<B, 1>("first", [n], &device),
                exp_avg_sq: filled::<B, 1>("second", [n], &device).abs(),
            };
            let numbers = |state: &AdamWState<B>| {
                [&state.parameters, &state.exp_avg, &state.exp_avg_sq].map(|x| values(x.clone()))
            };
            let gradient = filled::<B, 1>("gradient", [n], &device);
            let held = state();
            let (before, slope) = (numbers(&held), values(gradient.clone()));
            let want = composed::adamw(state(), gradient.clone(), &ranges);
            for (start, what) in [(state(), "alone"), (held.clone(), "held by somebody else")] {
                let got = B::adamw(start, gradient.clone(), &ranges);
                close(got.parameters.clone(), want.parameters.clone(), what);
                close(got.exp_avg.clone(), want.exp_avg.clone(), what);
                close(got.exp_avg_sq.clone(), want.exp_avg_sq.clone(), what);
                let after = numbers(&got);
                for i in (0..n).filter(|i| !ranges.iter().any(|range| range.numbers.contains(i))) {
                    for (before, after) in before.iter().zip(&after) {
                        assert_eq!(before[i].to_bits(), after[i].to_bits(), "{what}: number {i}");
                    }
                }
            }
            assert_eq!(numbers(&held), before, "somebody else holds what was updated");
            assert_eq!(values(gradient), slope);
            // One number by hand.
            let i = places[3];
            let (g, [p, m, v]) = (0.7 * slope[i], before.each_ref().map(|x| x[i]));
            let (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
            let step = m / (1.0 - 0.9f64.powi(3)) / ((v / (1.0 - 0.999f64.powi(3))).sqrt() + 1e-8);
            let by_hand = 0.98 * p - 0.03 * step;
            let got = values(want.parameters)[i];
            assert!((got - by_hand).abs() < 1e-5, "{got}, not {by_hand}");
        }
    }
    on_backend(Updates);
}

/// Sizes of a call of attention: rows, queries, heads, KV heads, head width; keys of each block before the queries' own.
type Sizes = ([usize; 5], &'static [usize]);

const CALLS: [Sizes; 11] = [
    ([1, 1, 1, 1, 2], &[]),
    ([1, 1, 4, 2, 8], &[1]),
    ([2, 1, 9, 3, 64], &[130, 7, 500]),
    ([1, 5, 4, 2, 4], &[]),
    ([2, 3, 6, 2, 16], &[5, 1, 3]),
    ([3, 33, 3, 1, 64], &[4]),
    ([1, 129, 2, 2, 32], &[]),
    ([1, 7, 5, 5, 80], &[128, 129]),
    ([2, 2, 8, 2, 128], &[255]),
    ([1, 300, 4, 2, 8], &[3]),
    // A head wider than the kernels of any device take, and more blocks.
    ([1, 2, 2, 1, 130], &[1, 1, 1, 1, 1, 1, 1, 1, 1]),
];

/// As [`gapped`], and with heads and positions exchanged where they lie.
fn turned<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    gapped(x.swap_dims(1, 2)).swap_dims(1, 2)
}

#[test]
fn attention_agrees_over_any_blocks_with_and_without_padding() {
    struct Attention;
    impl Job for Attention {
        type Output = ();
        fn run<B: ModelBackend>(self, device: B::Device) {
            for ([batch, t, heads, kv_heads, d], before) in CALLS {
                let sizes: Vec<usize> = before.iter().copied().chain([t]).collect();
                let keys: usize = sizes.iter().sum();
                let four = |name: &str, shape| filled::<B, 4>(name, shape, &device);
                let q = four("q", [batch, t, heads, d]).mul_scalar(3.0);
                let d_out = four("d_out", [batch, t, heads, d]);
                for (padded, shared, apart) in
                    [(false, false, false), (true, false, true), (true, true, false), (false, true, true)]
                {
                    // The first block is everybody's, if there is one before the queries' own.
                    let shared = shared && sizes.len() > 1;
                    let rows = |i: usize| if shared && i == 0 { 1 } else { batch };
                    let how = |x| if apart { turned(x) } else { x };
                    let block = |(i, &n): (usize, &usize)| {
                        let shape = [rows(i), kv_heads, n, d];
                        let key = how(four(&format!("key {i}"), shape));
                        KeyValueBlock { key, value: how(four(&format!("value {i}"), shape)) }
                    };
                    let blocks: Vec<_> = sizes.iter().enumerate().map(block).collect();
                    // The second row sees none of its first keys, and the first row some.
                    let unseen = |row: usize, key: usize| key % 3 == 1 || (row == 1 && key < keys - t / 2);
                    let valid = || (0..batch * keys).map(|i| !unseen(i / keys, i % keys)).collect();
                    let host = HostMask::new(batch, t, keys, padded.then(valid));
                    let call = |q| {
                        let (blocks, mask) = (blocks.clone(), B::attention_mask(host.clone(), &device));
                        AttentionCall { q, blocks, mask, scale: (d as f64).powf(-0.5) }
                    };
                    let what = format!(
                        "{batch} rows, {t} queries, {heads} heads of {d} on {kv_heads}, blocks {sizes:?}, {}{}{}",
                        if padded { "padded " } else { "" },
                        if shared { "shared " } else { "" },
                        if apart { "apart" } else { "" },
                    );
                    let plain = call(q.clone());
                    let (want, want_lse) = composed::block_attention(&plain);
                    let given = call(if apart { gapped(q.clone()) } else { q.clone() });
                    let (got, lse) = B::block_attention(&given);
                    close(got.clone(), want.clone(), &what);
                    if shared {
                        continue;
                    }
                    let wants: Vec<bool> = (0..sizes.len()).map(|i| i != 1).collect();
                    let slope = if apart { turned(d_out.clone()) } else { d_out.clone() };
                    let want =
                        composed::block_attention_backward(&plain, d_out.clone(), want, want_lse, &wants);
                    let [alone, summed] = [slope.clone(), slope];
                    let alone = B::block_attention_backward(&given, alone, got.clone(), lse.clone(), &wants);
                    // Gradients that were there before, of all blocks but the last.
                    let sum =
                        |(i, block): (usize, &KeyValueBlock<B>)| (i + 1 < sizes.len()).then(|| block.clone());
                    let sums: Vec<_> = blocks.iter().enumerate().map(sum).collect();
                    let summed =
                        B::block_attention_backward_onto(sums.clone(), &given, summed, got, lse, &wants);
                    for (got, sums) in [(alone, vec![None; sizes.len()]), (summed, sums)] {
                        close(got.query, want.query.clone(), &format!("{what}, d_q"));
                        for (i, (got, sum)) in got.blocks.into_iter().zip(sums).enumerate() {
                            assert_eq!(got.is_some(), wants[i], "{what}");
                            let Some((key, value)) = got else { continue };
                            let (mut want_key, mut want_value) = want.blocks[i].clone().unwrap();
                            if let Some(sum) = sum {
                                (want_key, want_value) = (want_key + sum.key, want_value + sum.value);
                            }
                            close(key, want_key, &format!("{what}, d_key {i}"));
                            close(value, want_value, &format!("{what}, d_value {i}"));
                        }
                    }
                }
            }
        }
    }
    on_backend(Attention);
}
