//! Linear layers with a frozen weight and LoRA. Up to [`FEW`] rows are multiplied while each weight is read once, in the type that it is kept in;
//! more of them by the library's product, to which LoRA is added.
//!
//! The order in which a product is summed depends on its length alone.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Rows, blocks, cube_number, cubes, empty, rows_arg, unit_number};
use super::matmul::product;
use super::rows::{cube_sum, units};

/// The most rows that are few.
const FEW: usize = 16;
/// The rows that one cube multiplies.
const ROWS: usize = 8;
/// Units that share a row of the weight, or columns of it beside one another.
const LANES: usize = 32;
/// Rows of the weight in one cube: a cube has four planes of the usual size.
const OUTPUTS: usize = 4;
/// Parts of a column of the weight, each for units of its own.
const PARTS: usize = 8;

/// A matrix in any layout.
#[derive(CubeType, CubeLaunch)]
struct Strided {
    numbers: Array<f32>,
    /// From a row to the next.
    row: usize,
    /// From a column to the next.
    column: usize,
}

fn strided_arg<R: CubeRuntime>(x: CubeTensor<R>) -> StridedLaunch<R> {
    let (row, column) = (x.meta.strides()[0], x.meta.strides()[1]);
    StridedLaunch::new(x.into_array_arg(), row, column)
}

/// `y = scaling · x·Mᵀ` for a narrow `M`: a cube a product.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn narrow_kernel(
    x: &Rows,
    m: &Strided,
    y: &mut Array<f32>,
    rows: usize,
    width: usize,
    len: usize,
    scaling: f32,
    #[comptime] units: usize,
) {
    let cube = cube_number();
    if cube >= rows * width {
        terminate!();
    }
    let mut scratch = SharedMemory::<f32>::new(units);
    let (row, column) = (cube / width, cube % width);
    let (from, start) = (row * x.stride, column * m.row);
    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < len {
        sum += x.numbers[from + i] * m.numbers[start + i * m.column];
        i += units;
    }
    let sum = cube_sum(sum, &mut scratch);
    if UNIT_POS == 0 {
        y[cube] = scaling * sum;
    }
}

/// What LoRA adds to a product: `narrow [N, r] · wide [.., r]ᵀ`.
#[derive(CubeType, CubeLaunch)]
struct LowRank {
    narrow: Array<f32>,
    wide: Strided,
    rank: usize,
}

/// `sum`, the element of a product in `row` and `column`, with bias and LoRA.
#[cube]
fn with_bias_and_lora(
    sum: f32,
    bias: &ComptimeOption<Array<f32>>,
    lora: &ComptimeOption<LowRank>,
    row: usize,
    column: usize,
) -> f32 {
    let mut sum = sum;
    #[comptime]
    match bias {
        ComptimeOption::Some(bias) => {
            sum += bias[column];
        }
        ComptimeOption::None => {}
    }
    #[comptime]
    match lora {
        ComptimeOption::Some(lora) => {
            let (from, start) = (row * lora.rank, column * lora.wide.row);
            let mut added = 0.0f32;
            for r in 0..lora.rank {
                added += lora.narrow[from + r] * lora.wide.numbers[start + r * lora.wide.column];
            }
            sum += added;
        }
        ComptimeOption::None => {}
    }
    sum
}

/// `y[n, o] = Σ_k x[n, k] · weight[o, k]`, with bias and LoRA: [`LANES`] units along each row of the weight.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn few_rows_kernel<W: Float>(
    x: &Rows,
    weight: &Array<W>,
    weight_stride: usize,
    bias: &ComptimeOption<Array<f32>>,
    lora: &ComptimeOption<LowRank>,
    y: &mut Array<f32>,
    all: usize,
    len: usize,
    outputs: usize,
    #[comptime] rows: usize,
    #[define(W)] _dtype: StorageType,
) {
    let (lane, place) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let output = cube_number() * OUTPUTS + place;
    let first = CUBE_POS_Z as usize * rows;
    let mut sums = Array::<f32>::new(rows);
    #[unroll]
    for row in 0..rows {
        sums[row] = 0.0;
    }
    if output < outputs {
        let from = output * weight_stride;
        let mut k = lane;
        while k < len {
            let w = f32::cast_from(weight[from + k]);
            #[unroll]
            for row in 0..rows {
                // Rows beyond the last are the last once more.
                sums[row] += w * x.numbers[min(first + row, all - 1) * x.stride + k];
            }
            k += LANES;
        }
    }
    // A lane more, so that units which read beside one another do so in different banks.
    let mut scratch = SharedMemory::<f32>::new(comptime!(OUTPUTS * rows * (LANES + 1)));
    #[unroll]
    for row in 0..rows {
        scratch[(place * rows + row) * (LANES + 1) + lane] = sums[row];
    }
    sync_cube();
    let row = first + lane;
    if lane < rows && row < all && output < outputs {
        let from = (place * rows + lane) * (LANES + 1);
        let mut sum = 0.0f32;
        for i in 0..LANES {
            sum += scratch[from + i];
        }
        y[row * outputs + output] = with_bias_and_lora(sum, bias, lora, row, output);
    }
}

/// `y[n, k] = Σ_o x[n, o] · weight[o, k]`, with LoRA: [`LANES`] columns a cube, of which each has [`PARTS`] units.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn few_rows_transposed_kernel<W: Float>(
    x: &Rows,
    weight: &Array<W>,
    weight_stride: usize,
    lora: &ComptimeOption<LowRank>,
    y: &mut Array<f32>,
    all: usize,
    len: usize,
    outputs: usize,
    #[comptime] rows: usize,
    #[define(W)] _dtype: StorageType,
) {
    let (lane, part) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let column = cube_number() * LANES + lane;
    let first = CUBE_POS_Z as usize * rows;
    let mut sums = Array::<f32>::new(rows);
    #[unroll]
    for row in 0..rows {
        sums[row] = 0.0;
    }
    if column < len {
        let mut o = part;
        while o < outputs {
            let w = f32::cast_from(weight[o * weight_stride + column]);
            #[unroll]
            for row in 0..rows {
                sums[row] += w * x.numbers[min(first + row, all - 1) * x.stride + o];
            }
            o += PARTS;
        }
    }
    let mut scratch = SharedMemory::<f32>::new(comptime!(PARTS * rows * LANES));
    #[unroll]
    for row in 0..rows {
        scratch[(part * rows + row) * LANES + lane] = sums[row];
    }
    sync_cube();
    // Units of part p add up the rows p, p + PARTS, …
    let mut own = part;
    while own < rows {
        let row = first + own;
        if row < all && column < len {
            let mut sum = 0.0f32;
            for i in 0..PARTS {
                sum += scratch[(i * rows + own) * LANES + lane];
            }
            y[row * len + column] = with_bias_and_lora(sum, &ComptimeOption::new_None(), lora, row, column);
        }
        own += PARTS;
    }
}

/// Adds bias and LoRA to a product that lies without gaps.
#[cube(launch_unchecked)]
fn add_kernel(
    bias: &ComptimeOption<Array<f32>>,
    lora: &ComptimeOption<LowRank>,
    y: &mut Array<f32>,
    rows: usize,
    len: usize,
) {
    let unit = unit_number();
    if unit >= rows * len {
        terminate!();
    }
    let (row, column) = (unit / len, unit % len);
    y[unit] = with_bias_and_lora(y[unit], bias, lora, row, column);
}

/// `dA = gᵀ·x` and `dB = dyᵀ·h`, a unit an element: first those of `dA`, then those of `dB`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn factors_kernel(
    x: &Rows,
    g: &Array<f32>,
    dy: &Rows,
    h: &Array<f32>,
    da: &mut Array<f32>,
    db: &mut Array<f32>,
    rows: usize,
    rank: usize,
    len: usize,
    outputs: usize,
) {
    let unit = unit_number();
    let mut sum = 0.0f32;
    if unit < rank * len {
        let (r, i) = (unit / len, unit % len);
        for row in 0..rows {
            sum += g[row * rank + r] * x.numbers[row * x.stride + i];
        }
        da[unit] = sum;
    } else if unit < rank * (len + outputs) {
        let unit = unit - rank * len;
        let (o, r) = (unit / rank, unit % rank);
        for row in 0..rows {
            sum += dy.numbers[row * dy.stride + o] * h[row * rank + r];
        }
        db[unit] = sum;
    }
}

/// `scaling · x·Mᵀ` for a narrow `M` in any layout.
///
/// # Shapes
/// `x [N, k]`, `m [r, k]` → `[N, r]`
fn narrow<R: CubeRuntime>(x: &CubeTensor<R>, m: CubeTensor<R>, scaling: f64) -> CubeTensor<R> {
    let [rows, width, len] = [x.meta.shape()[0], m.meta.shape()[0], m.meta.shape()[1]];
    let y = empty(x, [rows, width]);
    let units = units(len);
    // SAFETY: cubes beyond the last product do nothing, and no unit leaves its rows.
    unsafe {
        narrow_kernel::launch_unchecked(
            &y.client,
            cubes(rows * width, 1),
            CubeDim::new_1d(units),
            rows_arg(x.clone()),
            strided_arg(m),
            y.clone().into_array_arg(),
            rows,
            width,
            len,
            scaling as f32,
            units as usize,
        );
    }
    y
}

/// What LoRA adds to a product, where there is any.
type Added<R> = Option<(CubeTensor<R>, CubeTensor<R>)>;

fn lora_arg<R: CubeRuntime>(added: Added<R>) -> ComptimeOptionArgs<LowRank, R> {
    let arg = |(narrow, wide): (CubeTensor<R>, CubeTensor<R>)| {
        let rank = wide.meta.shape()[1];
        LowRankLaunch::new(narrow.into_array_arg(), strided_arg(wide), rank)
    };
    added.map(arg).into()
}

fn bias_arg<R: CubeRuntime>(bias: Option<CubeTensor<R>>) -> ComptimeOptionArgs<Array<f32>, R> {
    bias.map(CubeTensor::into_array_arg).into()
}

/// Rows that a cube multiplies where there are `n`: a kernel is compiled for each of few numbers.
fn chunk(n: usize) -> usize {
    n.next_power_of_two().min(ROWS)
}

/// `x·Wᵀ` of few rows, with bias and LoRA.
fn few_rows<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    added: Added<R>,
) -> CubeTensor<R> {
    let ([rows, len], [outputs, _]) = (x.meta.shape().dims(), weight.meta.shape().dims());
    let (y, dtype) = (empty(&x, [rows, outputs]), weight.dtype);
    let stride = weight.meta.strides()[0];
    // SAFETY: nothing is read or written beyond the last row, output and column.
    unsafe {
        few_rows_kernel::launch_unchecked(
            &y.client,
            cubes(outputs.div_ceil(OUTPUTS), rows.div_ceil(chunk(rows))),
            CubeDim::new_2d(LANES as u32, OUTPUTS as u32),
            rows_arg(x),
            weight.into_array_arg(),
            stride,
            bias_arg(bias),
            lora_arg(added),
            y.clone().into_array_arg(),
            rows,
            len,
            outputs,
            chunk(rows),
            dtype.into(),
        );
    }
    y
}

/// `x·W` of few rows, with LoRA.
fn few_rows_transposed<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    added: Added<R>,
) -> CubeTensor<R> {
    let ([rows, outputs], [_, len]) = (x.meta.shape().dims(), weight.meta.shape().dims());
    let (y, dtype) = (empty(&x, [rows, len]), weight.dtype);
    let stride = weight.meta.strides()[0];
    // SAFETY: nothing is read or written beyond the last row, output and column.
    unsafe {
        few_rows_transposed_kernel::launch_unchecked(
            &y.client,
            cubes(len.div_ceil(LANES), rows.div_ceil(chunk(rows))),
            CubeDim::new_2d(LANES as u32, PARTS as u32),
            rows_arg(x),
            weight.into_array_arg(),
            stride,
            lora_arg(added),
            y.clone().into_array_arg(),
            rows,
            len,
            outputs,
            chunk(rows),
            dtype.into(),
        );
    }
    y
}

/// Adds bias and LoRA to `y`, which nobody else holds.
fn add<R: CubeRuntime>(y: &CubeTensor<R>, bias: Option<CubeTensor<R>>, added: Added<R>) {
    if bias.is_none() && added.is_none() {
        return;
    }
    let [rows, len] = y.meta.shape().dims();
    let (count, dim) = blocks(rows * len);
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        add_kernel::launch_unchecked(
            &y.client,
            count,
            dim,
            bias_arg(bias),
            lora_arg(added),
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

/// Factors of LoRA.
pub(super) struct Factors<R: CubeRuntime> {
    /// `[r, in]`
    pub a: CubeTensor<R>,
    /// `[out, r]`
    pub b: CubeTensor<R>,
    pub scaling: f64,
}

/// See [`crate::ModelBackend::frozen_linear`].
pub(super) fn frozen_linear<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    lora: Option<Factors<R>>,
) -> CubeTensor<R> {
    let added = lora.map(|l| (narrow(&x, l.a, l.scaling), l.b));
    if x.meta.shape()[0] <= FEW {
        return few_rows(x, weight, bias, added);
    }
    let y = product(x, turned(weight));
    add(&y, bias, added);
    y
}

/// The gradients of the input, and of the factors.
type Grads<R> = (Option<CubeTensor<R>>, Option<(CubeTensor<R>, CubeTensor<R>)>);

/// See [`crate::ModelBackend::frozen_linear_backward`].
pub(super) fn frozen_linear_backward<R: CubeRuntime>(
    dy: CubeTensor<R>,
    x: Option<CubeTensor<R>>,
    weight: CubeTensor<R>,
    lora: Option<Factors<R>>,
    wants_dx: bool,
) -> Grads<R> {
    // g = s·dy·B
    let lora = lora.map(|l| {
        let g = narrow(&dy, turned(l.b.clone()), l.scaling);
        (l, g)
    });
    let dx = wants_dx.then(|| {
        let added = lora.as_ref().map(|(l, g)| (g.clone(), turned(l.a.clone())));
        transposed(dy.clone(), weight, added)
    });
    let factors = lora.map(|(l, g)| {
        let x = x.expect("LoRA's backward pass needs the input");
        let h = narrow(&x, l.a, l.scaling);
        factors(x, g, dy, h)
    });
    (dx, factors)
}

/// See [`crate::ModelBackend::frozen_transposed`].
pub(super) fn frozen_transposed<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>) -> CubeTensor<R> {
    transposed(x, weight, None)
}

/// `x·W`, with LoRA.
fn transposed<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>, added: Added<R>) -> CubeTensor<R> {
    if x.meta.shape()[0] <= FEW {
        return few_rows_transposed(x, weight, added);
    }
    let y = product(x, weight);
    add(&y, None, added);
    y
}

/// `dA = gᵀ·x [r, in]` and `dB = dyᵀ·h [out, r]`.
fn factors<R: CubeRuntime>(
    x: CubeTensor<R>,
    g: CubeTensor<R>,
    dy: CubeTensor<R>,
    h: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let ([rows, len], outputs) = (x.meta.shape().dims(), dy.meta.shape()[1]);
    let rank = g.meta.shape()[1];
    let (da, db) = (empty(&x, [rank, len]), empty(&x, [outputs, rank]));
    let (count, dim) = blocks(rank * (len + outputs));
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        factors_kernel::launch_unchecked(
            &da.client.clone(),
            count,
            dim,
            rows_arg(x),
            g.into_array_arg(),
            rows_arg(dy),
            h.into_array_arg(),
            da.clone().into_array_arg(),
            db.clone().into_array_arg(),
            rows,
            rank,
            len,
            outputs,
        );
    }
    (da, db)
}
