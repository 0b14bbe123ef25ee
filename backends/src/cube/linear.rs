//! Linear layers of one input, with frozen weights and LoRA. Up to [`FEW`] rows are multiplied while each weight is read once, in the type that it
//! is kept in, by one kernel for all layers; more of them by the library's product, to which LoRA is added.
//!
//! The order in which a product is summed depends on its length alone.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{blocks, cubes, empty, parts, rows_arg};
use super::linear_kernels::{
    AddendLaunch, FactorGradsLaunch, LANES, LayerLaunch, LowRankLaunch, NarrowLaunch, OUTPUTS, ROWS, SHARES,
    StridedLaunch, SumsLaunch, complete_kernel, factors_kernel, few_rows_kernel, few_rows_transposed_kernel,
    narrow_kernel,
};
use super::matmul::product;
use super::rows::units;
use crate::ProductDtype;

/// The most rows that are few.
const FEW: usize = 16;

fn strided_arg<R: CubeRuntime>(x: CubeTensor<R>) -> StridedLaunch<R> {
    let (row, column) = (x.meta.strides()[0], x.meta.strides()[1]);
    StridedLaunch::new(x.into_array_arg(), row, column)
}

/// A frozen matrix.
#[derive(Clone)]
pub(super) struct Matrix<R: CubeRuntime> {
    /// `[out, in]`
    pub numbers: CubeTensor<R>,
    /// What products of many rows with it are computed in.
    pub products: ProductDtype,
}

/// Factors of LoRA.
pub(super) struct Factors<R: CubeRuntime> {
    /// `[r, in]`
    pub a: CubeTensor<R>,
    /// `[out, r]`
    pub b: CubeTensor<R>,
    pub scaling: f64,
}

/// A layer.
pub(super) struct Linear<R: CubeRuntime> {
    pub matrix: Matrix<R>,
    /// `[out]`
    pub bias: Option<CubeTensor<R>>,
    pub lora: Option<Factors<R>>,
    /// `[N, out]`, which is added to its output.
    pub residual: Option<CubeTensor<R>>,
}

/// What is added to a product, on the host.
struct Added<R: CubeRuntime> {
    bias: Option<CubeTensor<R>>,
    /// `narrow [N, r]` and `wide [.., r]`
    lora: Option<(CubeTensor<R>, CubeTensor<R>)>,
    residual: Option<CubeTensor<R>>,
}

impl<R: CubeRuntime> Added<R> {
    fn is_nothing(&self) -> bool {
        self.bias.is_none() && self.lora.is_none() && self.residual.is_none()
    }

    fn arg(self) -> AddendLaunch<R> {
        let lora = self.lora.map(|(narrow, wide)| {
            let rank = wide.meta.shape()[1];
            LowRankLaunch::new(narrow.into_array_arg(), strided_arg(wide), rank)
        });
        let bias = self.bias.map(CubeTensor::into_array_arg);
        let present = [bias.is_some(), lora.is_some(), self.residual.is_some()];
        AddendLaunch::new(present, bias.into(), lora.into(), self.residual.map(rows_arg).into())
    }
}

/// A product with a narrow matrix in any layout, on the host: `x [N, k]`, `m [r, k]`, and the factor.
type Product<R> = (CubeTensor<R>, CubeTensor<R>, f64);

/// `scaling · x·Mᵀ` `[N, r]` of each product, all of the same rows.
fn narrow<R: CubeRuntime>(products: Vec<Product<R>>) -> Vec<CubeTensor<R>> {
    let Some((x, ..)) = products.first() else { return Vec::new() };
    let (rows, client) = (x.meta.shape()[0], x.client.clone());
    let shapes: Vec<_> = products.iter().map(|(_, m, _)| [rows, m.meta.shape()[0]]).collect();
    let (y, results) = parts(x, &shapes);
    let units = units(products.iter().map(|(_, m, _)| m.meta.shape()[1]).max().unwrap_or(1));
    let args = products.into_iter().zip(&results).map(|((x, m, scaling), (_, start))| {
        let [width, len] = m.meta.shape().dims();
        NarrowLaunch::new(rows_arg(x), strided_arg(m), width, len, scaling as f32, *start)
    });
    // SAFETY: cubes beyond the last product do nothing, and no unit leaves its rows.
    unsafe {
        narrow_kernel::launch_unchecked(
            &client,
            cubes(shapes.iter().map(|[rows, width]| rows * width).sum(), 1),
            CubeDim::new_1d(units),
            args.collect(),
            y.into_array_arg(),
            rows,
            units as usize,
        );
    }
    results.into_iter().map(|(result, _)| result).collect()
}

/// What `work` makes of the items that are there, in their places.
fn of_present<T, U>(items: Vec<Option<T>>, work: impl FnOnce(Vec<T>) -> Vec<U>) -> Vec<Option<U>> {
    let present: Vec<bool> = items.iter().map(Option::is_some).collect();
    let mut results = work(items.into_iter().flatten().collect()).into_iter();
    present.into_iter().map(|present| if present { results.next() } else { None }).collect()
}

/// Rows that a cube multiplies where there are `n`: a kernel is compiled for each of few numbers.
fn chunk(n: usize) -> usize {
    n.next_power_of_two().min(ROWS)
}

/// `x·Wᵀ` of few rows, completed.
fn few_rows<R: CubeRuntime>(x: CubeTensor<R>, layers: Vec<(Matrix<R>, Added<R>)>) -> Vec<CubeTensor<R>> {
    let [rows, len] = x.meta.shape().dims();
    let shapes: Vec<_> = layers.iter().map(|(matrix, _)| [rows, matrix.numbers.meta.shape()[0]]).collect();
    let ((y, results), dtype) = (parts(&x, &shapes), layers[0].0.numbers.dtype);
    let mut weights = SequenceArg::new();
    let mut args = SequenceArg::new();
    for ((Matrix { numbers: weight, .. }, added), (_, start)) in layers.into_iter().zip(&results) {
        let (outputs, stride) = (weight.meta.shape()[0], weight.meta.strides()[0]);
        weights.push(weight.into_array_arg());
        args.push(LayerLaunch::new(stride, outputs, added.arg(), *start));
    }
    // SAFETY: nothing is read or written beyond the last row, output and column.
    unsafe {
        few_rows_kernel::launch_unchecked(
            &x.client.clone(),
            cubes(
                shapes.iter().map(|[_, outputs]| outputs.div_ceil(OUTPUTS)).sum(),
                rows.div_ceil(chunk(rows)),
            ),
            CubeDim::new_2d(LANES as u32, OUTPUTS as u32),
            rows_arg(x),
            weights,
            args,
            y.into_array_arg(),
            rows,
            len,
            chunk(rows),
            dtype.into(),
        );
    }
    results.into_iter().map(|(result, _)| result).collect()
}

/// `Σ x·W` of few rows over the layers, completed.
fn few_rows_transposed<R: CubeRuntime>(layers: Vec<(CubeTensor<R>, Matrix<R>, Added<R>)>) -> CubeTensor<R> {
    let (x, Matrix { numbers, .. }, _) = &layers[0];
    let (rows, len, dtype) = (x.meta.shape()[0], numbers.meta.shape()[1], numbers.dtype);
    let y = empty(x, [rows, len]);
    let mut inputs = SequenceArg::new();
    let mut weights = SequenceArg::new();
    let mut args = SequenceArg::new();
    for (x, Matrix { numbers: weight, .. }, added) in layers {
        let (outputs, stride) = (weight.meta.shape()[0], weight.meta.strides()[0]);
        inputs.push(rows_arg(x));
        weights.push(weight.into_array_arg());
        args.push(LayerLaunch::new(stride, outputs, added.arg(), 0));
    }
    // SAFETY: nothing is read or written beyond the last row, output and column.
    unsafe {
        few_rows_transposed_kernel::launch_unchecked(
            &y.client,
            cubes(len.div_ceil(LANES), rows.div_ceil(chunk(rows))),
            CubeDim::new_2d(LANES as u32, SHARES as u32),
            inputs,
            weights,
            args,
            y.clone().into_array_arg(),
            rows,
            len,
            chunk(rows),
            dtype.into(),
        );
    }
    y
}

/// Completes `y`, which nobody else holds.
fn complete<R: CubeRuntime>(y: &CubeTensor<R>, added: Added<R>) {
    if added.is_nothing() {
        return;
    }
    let [rows, len] = y.meta.shape().dims();
    let (count, dim) = blocks(rows * len);
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        complete_kernel::launch_unchecked(
            &y.client,
            count,
            dim,
            added.arg(),
            y.clone().into_array_arg(),
            rows,
            len,
        );
    }
}

/// The rows of a matrix as its columns, where it lies.
fn turned<R: CubeRuntime>(mut x: CubeTensor<R>) -> CubeTensor<R> {
    x.meta.swap(0, 1);
    x
}

/// The outputs of all layers, and `s·x·Aᵀ` of those with LoRA; see [`crate::ModelBackend::frozen_linears`].
pub(super) fn frozen_linears<R: CubeRuntime>(
    x: CubeTensor<R>,
    layers: Vec<Linear<R>>,
) -> Vec<(CubeTensor<R>, Option<CubeTensor<R>>)> {
    let kept = layers.iter().map(|layer| layer.lora.as_ref().map(|l| (x.clone(), l.a.clone(), l.scaling)));
    let kept = of_present(kept.collect(), narrow);
    let few = x.meta.shape()[0] <= FEW;
    let layers: Vec<_> = layers
        .into_iter()
        .zip(&kept)
        .map(|(Linear { matrix, bias, lora, residual }, narrow)| {
            let lora = narrow.clone().zip(lora).map(|(narrow, l)| (narrow, l.b));
            (matrix, Added { bias, lora, residual })
        })
        .collect();
    let outputs: Vec<_> = if few && of_one_type(layers.iter().map(|(matrix, _)| matrix)) {
        few_rows(x, layers)
    } else if few {
        layers.into_iter().flat_map(|layer| few_rows(x.clone(), vec![layer])).collect()
    } else {
        let output = |(Matrix { numbers, products }, added)| {
            let y = product(x.clone(), turned(numbers), products);
            complete(&y, added);
            y
        };
        layers.into_iter().map(output).collect()
    };
    outputs.into_iter().zip(kept).collect()
}

/// Whether one launch can read all these weights.
fn of_one_type<'a, R: CubeRuntime>(matrices: impl Iterator<Item = &'a Matrix<R>>) -> bool {
    let mut types = matrices.map(|matrix| matrix.numbers.dtype);
    let first = types.next();
    types.all(|dtype| Some(dtype) == first)
}

/// What reaches the output of a layer.
pub(super) struct Slope<R: CubeRuntime> {
    /// `[N, out]`
    pub dy: CubeTensor<R>,
    pub matrix: Matrix<R>,
    pub lora: Option<Factors<R>>,
    /// `s·x·Aᵀ`, where the forward pass kept it.
    pub kept: Option<CubeTensor<R>>,
    /// The gradients of the factors so far.
    pub sums: Option<FactorPair<R>>,
}

/// `[r, in]` and `[out, r]`
pub(super) type FactorPair<R> = (CubeTensor<R>, CubeTensor<R>);

/// The gradients of the input, if wanted, and of the factors of each layer; see [`crate::ModelBackend::frozen_linears_backward`].
pub(super) fn frozen_linears_backward<R: CubeRuntime>(
    x: Option<CubeTensor<R>>,
    slopes: Vec<Slope<R>>,
    wants_dx: bool,
) -> (Option<CubeTensor<R>>, Vec<Option<FactorPair<R>>>) {
    // g = s·dy·B
    let g = slopes
        .iter()
        .map(|slope| slope.lora.as_ref().map(|l| (slope.dy.clone(), turned(l.b.clone()), l.scaling)));
    let g = of_present(g.collect(), narrow);
    let dx = wants_dx.then(|| {
        let lora = |(slope, g): (&Slope<R>, &Option<CubeTensor<R>>)| {
            let lora = slope.lora.as_ref().zip(g.clone()).map(|(l, g)| (g, turned(l.a.clone())));
            (slope.dy.clone(), slope.matrix.clone(), Added { bias: None, lora, residual: None })
        };
        transposed(slopes.iter().zip(&g).map(lora).collect())
    });
    let missing = slopes.iter().map(|slope| {
        let lora = slope.lora.as_ref().filter(|_| slope.kept.is_none())?;
        Some((x.clone().expect(INPUT), lora.a.clone(), lora.scaling))
    });
    let missing = of_present(missing.collect(), narrow);
    let of_lora = slopes.into_iter().zip(g).zip(missing).map(|((slope, g), missing)| {
        let h = slope.kept.or(missing);
        g.zip(h).map(|(g, h)| Outer { g, dy: slope.dy, h, sums: slope.sums })
    });
    let grads = of_present(of_lora.collect(), |layers| match layers.is_empty() {
        true => Vec::new(),
        false => factors(x.expect(INPUT), layers),
    });
    (dx, grads)
}

const INPUT: &str = "LoRA's backward pass needs the input";

/// `Σ x·W` over the layers, completed.
fn transposed<R: CubeRuntime>(layers: Vec<(CubeTensor<R>, Matrix<R>, Added<R>)>) -> CubeTensor<R> {
    let few = layers[0].0.meta.shape()[0] <= FEW;
    if few && of_one_type(layers.iter().map(|(_, matrix, _)| matrix)) {
        return few_rows_transposed(layers);
    }
    let mut sum = None;
    for (x, matrix, added) in layers {
        let added = Added { residual: sum.take(), ..added };
        sum = Some(if few {
            few_rows_transposed(vec![(x, matrix, added)])
        } else {
            let y = product(x, matrix.numbers, matrix.products);
            complete(&y, added);
            y
        });
    }
    sum.expect("at least one layer")
}

/// See [`crate::ModelBackend::frozen_transposed`].
pub(super) fn frozen_transposed<R: CubeRuntime>(x: CubeTensor<R>, matrix: Matrix<R>) -> CubeTensor<R> {
    transposed(vec![(x, matrix, Added { bias: None, lora: None, residual: None })])
}

/// What the gradients of a layer's factors are made of.
struct Outer<R: CubeRuntime> {
    /// `[N, r]`
    g: CubeTensor<R>,
    /// `[N, out]`
    dy: CubeTensor<R>,
    /// `[N, r]`
    h: CubeTensor<R>,
    sums: Option<FactorPair<R>>,
}

/// `dA = gᵀ·x [r, in]` and `dB = dyᵀ·h [out, r]` of each layer.
fn factors<R: CubeRuntime>(x: CubeTensor<R>, layers: Vec<Outer<R>>) -> Vec<FactorPair<R>> {
    let [rows, len] = x.meta.shape().dims();
    let size = |layer: &Outer<R>| (layer.g.meta.shape()[1], layer.dy.meta.shape()[1]);
    let sizes: Vec<_> = layers.iter().map(size).collect();
    let shapes: Vec<_> = sizes.iter().flat_map(|&(rank, outputs)| [[rank, len], [outputs, rank]]).collect();
    let (grads, results) = parts(&x, &shapes);
    let args =
        layers.into_iter().zip(&sizes).zip(results.chunks(2)).map(|((layer, &(rank, outputs)), at)| {
            let sums = layer.sums.map(|(a, b)| SumsLaunch::new(rows_arg(a), rows_arg(b)));
            FactorGradsLaunch::new(
                layer.g.into_array_arg(),
                rows_arg(layer.dy),
                layer.h.into_array_arg(),
                rank,
                outputs,
                sums.is_some(),
                sums.into(),
                at[0].1,
                at[1].1,
            )
        });
    let args = args.collect();
    let (count, dim) = blocks(sizes.iter().map(|(rank, outputs)| rank * (len + outputs)).sum());
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        factors_kernel::launch_unchecked(
            &x.client.clone(),
            count,
            dim,
            rows_arg(x),
            args,
            grads.into_array_arg(),
            rows,
            len,
        );
    }
    let pair = |at: &[(CubeTensor<R>, usize)]| (at[0].0.clone(), at[1].0.clone());
    results.chunks(2).map(pair).collect()
}
