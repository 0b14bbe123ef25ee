//! Frozen matrices in every format that the CPU backends keep, against composed operations on the same numbers as an f32 tensor.
#![cfg(any(feature = "flex", feature = "ndarray"))]

use burn::prelude::*;
use burn::tensor::{Bytes, TensorData};
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor};
use diffmas_backends::{
    Autodiff, FrozenMatrix, LoraRef, ModelBackend, StoredDtype, StoredMatrix, WeightUse, autodiff, composed,
};

const FORMATS: [StoredDtype; 3] = [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16];
const BLOCKS: [GgmlDType; 5] =
    [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q4K, GgmlDType::Q6K];

/// Numbers between −1 and 1 that differ with `seed`.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn tensor<B: Backend, const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<B, D> {
    let data = TensorData::new(numbers(seed, shape.iter().product()), shape);
    Tensor::from_data(data, &Default::default())
}

/// A matrix in a format of its own, and its numbers.
struct Case {
    what: String,
    matrix: StoredMatrix,
    values: Vec<f32>,
}

fn words(bytes: &[u8]) -> Bytes {
    Bytes::from_elems(bytemuck::pod_collect_to_vec::<u8, u16>(bytes))
}

/// Matrices of all formats; blocks need columns that they divide.
fn cases(shape: [usize; 2]) -> Vec<Case> {
    let [out, cols] = shape;
    let source = numbers(9, out * cols);
    let mut all = Vec::new();
    for dtype in FORMATS {
        let mut bytes = vec![0; out * cols * dtype.block_bytes()];
        dtype.narrow(&source, &mut bytes);
        let bytes = match dtype {
            StoredDtype::F32 => Bytes::from_elems(source.clone()),
            _ => words(&bytes),
        };
        all.push((format!("{dtype}"), StoredMatrix::new(dtype, shape, bytes)));
    }
    for format in BLOCKS.into_iter().filter(|format| cols.is_multiple_of(format.block_size())) {
        let values = candle_core::Tensor::from_vec(source.clone(), &shape, &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&values, format).unwrap();
        let bytes = words(&blocks.data().unwrap());
        all.push((format!("{format:?}"), StoredMatrix::new(format.into(), shape, bytes)));
    }
    let case = |(what, matrix): (String, StoredMatrix)| {
        let mut values = Vec::new();
        matrix.widen_rows(0..out, &mut values);
        Case { what: format!("{what} {shape:?}"), matrix, values }
    };
    all.into_iter().map(case).collect()
}

/// Asserts `got ≈ want`, by the norm.
#[track_caller]
fn close<B: Backend, const D: usize>(got: Tensor<B, D>, want: Tensor<B, D>, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let values = |t: Tensor<B, D>| t.into_data().iter::<f64>().collect::<Vec<_>>();
    let (got, want) = (values(got), values(want));
    let scale = want.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-6);
    let off = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    assert!(off / scale < 2e-6, "{what}: off by {:.1e} of the norm", off / scale);
}

/// Every operation on a weight agrees with that on a tensor of its numbers.
fn operations_agree<B: ModelBackend>() {
    let device = Default::default();
    // Strips of rows that are widened at once: one, and several of which the last is shorter.
    for shape in [[33, 70], [40, 512], [9_000, 256]] {
        let [out, cols] = shape;
        for Case { what, matrix, values } in cases(shape) {
            let held = matrix.bytes().len();
            let w = Tensor::<B, 2>::from_data(TensorData::new(values.clone(), shape), &device);
            let used = if out == 33 { WeightUse::Layer } else { WeightUse::Table };
            let weight = B::frozen_weight(matrix, used, &device);
            assert_eq!((weight.shape(), weight.held_bytes()), (shape, held), "{what}");
            assert_eq!(weight.rows(7..9), values[7 * cols..9 * cols], "{what}");

            let (x, dy) = (tensor::<B, 2>(1, [5, cols]), tensor::<B, 2>(2, [5, out]));
            let (bias, a, b) =
                (tensor::<B, 1>(3, [out]), tensor::<B, 2>(4, [4, cols]), tensor::<B, 2>(5, [out, 4]));
            let lora = Some(LoraRef { a: &a, b: &b, scaling: 0.7 });
            close(
                B::frozen_linear(x.clone(), &weight, Some(&bias), lora),
                composed::frozen_linear(x.clone(), &w, Some(&bias), lora),
                &what,
            );
            let got = B::frozen_linear_backward(dy.clone(), Some(x.clone()), &weight, lora, true);
            let want = composed::frozen_linear_backward(dy.clone(), Some(x), &w, lora, true);
            close(got.0.unwrap(), want.0.unwrap(), &format!("{what}, dx"));
            let ((da, db), (want_a, want_b)) = (got.1.unwrap(), want.1.unwrap());
            close(da, want_a, &format!("{what}, dA"));
            close(db, want_b, &format!("{what}, dB"));
            close(
                B::frozen_transposed(dy.clone(), &weight),
                composed::frozen_transposed(dy, &w),
                &format!("{what}, transposed"),
            );
            let ids = [3, 0, out as u32 - 1, 3];
            let rows: Vec<f32> =
                ids.iter().flat_map(|&id| &values[id as usize * cols..][..cols]).copied().collect();
            assert_eq!(B::embed(&weight, &ids, &device).into_data().iter::<f32>().collect::<Vec<_>>(), rows);
        }
    }
}

/// The gradient of a transposed layer is the layer itself, and a table's rows have none.
fn gradients_agree<B: ModelBackend>() {
    let device = Default::default();
    for Case { what, matrix, values } in cases([40, 512]) {
        let w = Tensor::<B, 2>::from_data(TensorData::new(values, [40, 512]), &device);
        let weight = B::frozen_weight(matrix, WeightUse::Table, &device);
        let seed = tensor::<B, 2>(6, [3, 512]);
        let leaf = autodiff::leaves(vec![tensor::<B, 2>(7, [3, 40])]).remove(0);
        let y = Autodiff::<B>::frozen_transposed(leaf.clone(), &weight);
        let embedded = Autodiff::<B>::embed(&weight, &[1, 2, 3], &device);
        let grads = ((y + embedded) * Tensor::from_inner(seed.clone())).sum().backward();
        close(leaf.grad(&grads).unwrap(), seed.matmul(w.transpose()), &what);
    }
}

#[cfg(feature = "flex")]
#[test]
fn operations_on_any_format_agree_on_flex() {
    operations_agree::<diffmas_backends::Flex>();
    gradients_agree::<diffmas_backends::Flex>();
}

#[cfg(feature = "ndarray")]
#[test]
fn operations_on_any_format_agree_on_ndarray() {
    operations_agree::<burn::backend::NdArray>();
    gradients_agree::<burn::backend::NdArray>();
}

/// Numbers of a random batch: which rows of `among`, at least one.
#[cfg(feature = "flex")]
fn some_rows(seed: u64, among: usize) -> std::ops::Range<usize> {
    let [from, count] = numbers(seed, 2)[..] else { unreachable!() };
    let below = |x: f32, n: usize| ((x + 1.0) / 2.0 * n as f32) as usize % n;
    let from = below(from, among);
    from..from + 1 + below(count, among - from)
}

#[cfg(feature = "flex")]
#[test]
fn a_row_of_a_product_does_not_depend_on_the_rows_beside_it_or_on_threads() {
    use diffmas_backends::Flex;
    type Product<'a> = dyn Fn(Tensor<Flex, 2>) -> Tensor<Flex, 2> + Sync + 'a;
    const ROWS: usize = 60;
    let bits = |t: Tensor<Flex, 2>| t.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
    for (shape, used) in [[65, 70], [600, 256]]
        .into_iter()
        .flat_map(|shape| [WeightUse::Layer, WeightUse::Table].map(|used| (shape, used)))
    {
        let [out, cols] = shape;
        let (a, b) = (tensor::<Flex, 2>(4, [3, cols]), tensor::<Flex, 2>(5, [out, 3]));
        let (bias, lora) = (tensor::<Flex, 1>(3, [out]), Some(LoraRef { a: &a, b: &b, scaling: 0.7 }));
        let (x, y) = (tensor::<Flex, 2>(1, [ROWS, cols]), tensor::<Flex, 2>(2, [ROWS, out]));
        for Case { what, matrix, .. } in cases(shape) {
            let weight = Flex::frozen_weight(matrix, used, &Default::default());
            let forward = |x| Flex::frozen_linear(x, &weight, Some(&bias), lora);
            let transposed = |y| Flex::frozen_transposed(y, &weight);
            let gradient = |y: Tensor<Flex, 2>| {
                let x = Tensor::ones([y.dims()[0], cols], &Default::default());
                Flex::frozen_linear_backward(y, Some(x), &weight, lora, true).0.unwrap()
            };
            let ways: [(&str, &Product, &Tensor<Flex, 2>); 3] =
                [("forward", &forward, &x), ("transposed", &transposed, &y), ("gradient", &gradient, &y)];
            for (way, f, input) in ways {
                let all = bits(f(input.clone()));
                let width = all.len() / ROWS;
                for seed in 0..12 {
                    let rows = some_rows(seed, ROWS);
                    let pool = rayon::ThreadPoolBuilder::new().num_threads([1, 2, 5][seed as usize % 3]);
                    let some =
                        pool.build().unwrap().install(|| bits(f(input.clone().slice_dim(0, rows.clone()))));
                    let alike = some == all[rows.start * width..rows.end * width];
                    assert!(alike, "{what}, {used:?}, {way}: rows {rows:?}");
                }
            }
        }
    }
}

/// Runs tests of this file once more with each kind of instructions that the processor has.
#[cfg(feature = "flex")]
#[test]
fn every_kind_of_instructions_passes_these_tests() {
    let kinds = diffmas_backends::cpu_instructions();
    for kind in kinds.iter().filter(|_| std::env::var_os("DIFFMAS_CPU").is_none()) {
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "operations_on_any_format_agree_on_flex"])
            .arg("a_row_of_a_product_does_not_depend_on_the_rows_beside_it_or_on_threads")
            .env("DIFFMAS_CPU", kind)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && said.contains("2 passed"), "{kind}: {said}");
    }
}
