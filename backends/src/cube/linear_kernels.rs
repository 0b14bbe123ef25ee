//! The kernels of linear layers.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use super::launch::{Rows, cube_number, unit_number, zeros};
use super::rows::cube_sum;

/// The rows that one cube multiplies.
pub(super) const ROWS: usize = 8;
/// Units that share a row of a weight, or columns of it beside one another.
pub(super) const LANES: usize = 32;
/// Rows of a weight in one cube: a cube has four planes of the usual size.
pub(super) const OUTPUTS: usize = 4;
/// Shares of a column of a weight, each for units of its own.
pub(super) const SHARES: usize = 8;

/// A matrix in any layout.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Strided {
    pub numbers: Array<f32>,
    /// From a row to the next.
    pub row: usize,
    /// From a column to the next.
    pub column: usize,
}

/// `scaling · x·Mᵀ` for a narrow `M`, one of several products of a launch.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Narrow {
    pub x: Rows,
    pub m: Strided,
    /// Rows of `M`.
    pub width: usize,
    /// Columns of `M`.
    pub len: usize,
    pub scaling: f32,
    /// Where the product begins in the result.
    pub start: usize,
}

/// Products with narrow matrices, a cube an element.
#[cube(launch_unchecked)]
pub(super) fn narrow_kernel(
    all: &Sequence<Narrow>,
    y: &mut Array<f32>,
    rows: usize,
    #[comptime] units: usize,
) {
    let mut scratch = SharedMemory::<f32>::new(units);
    let cube = cube_number();
    let mut before = 0usize;
    #[unroll]
    for number in 0..all.len() {
        let product = all.index(number);
        let own = rows * product.width;
        if cube >= before && cube < before + own {
            let cube = cube - before;
            let (row, column) = (cube / product.width, cube % product.width);
            let (from, start) = (row * product.x.stride, column * product.m.row);
            let mut sum = 0.0f32;
            let mut i = UNIT_POS as usize;
            while i < product.len {
                sum += product.x.numbers[from + i] * product.m.numbers[start + i * product.m.column];
                i += units;
            }
            let sum = cube_sum(sum, &mut scratch);
            if UNIT_POS == 0 {
                y[product.start + cube] = product.scaling * sum;
            }
        }
        before += own;
    }
}

/// What LoRA adds to a product: `narrow [N, r] · wide [.., r]ᵀ`.
#[derive(CubeType, CubeLaunch)]
pub(super) struct LowRank {
    pub narrow: Array<f32>,
    pub wide: Strided,
    pub rank: usize,
}

/// What is added to a product.
///
/// CubeCL 0.10 leaves out of the hash of an option whether it is there, and finds kernels that it kept on disk by their hashes alone: so it is said
/// once more.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Addend {
    #[cube(comptime)]
    #[allow(dead_code)]
    pub present: [bool; 3],
    /// A number a column.
    pub bias: ComptimeOption<Array<f32>>,
    pub lora: ComptimeOption<LowRank>,
    pub residual: ComptimeOption<Rows>,
}

/// `sum`, the element of a product in `row` and `column`, with what is added to it.
#[cube]
pub(super) fn completed(sum: f32, addend: &Addend, row: usize, column: usize) -> f32 {
    let mut sum = sum;
    #[comptime]
    match &addend.bias {
        ComptimeOption::Some(bias) => {
            sum += bias[column];
        }
        ComptimeOption::None => {}
    }
    #[comptime]
    match &addend.lora {
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
    #[comptime]
    match &addend.residual {
        ComptimeOption::Some(residual) => {
            sum += residual.numbers[row * residual.stride + column];
        }
        ComptimeOption::None => {}
    }
    sum
}

/// One of several layers of a launch.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Layer {
    /// From a row of its weight to the next.
    pub stride: usize,
    /// Rows of its weight.
    pub outputs: usize,
    pub addend: Addend,
    /// Where its output begins in the result.
    pub start: usize,
}

/// `y[n, o] = Σ_k x[n, k] · weight[o, k]` of each layer, completed: [`LANES`] units along each row of a weight.
#[cube(launch_unchecked)]
pub(super) fn few_rows_kernel<W: Float>(
    x: &Rows,
    weights: &Sequence<Array<W>>,
    layers: &Sequence<Layer>,
    y: &mut Array<f32>,
    all: usize,
    len: usize,
    #[comptime] rows: usize,
    #[define(W)] _dtype: StorageType,
) {
    let (lane, place) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let cube = cube_number();
    let first = CUBE_POS_Z as usize * rows;
    // A lane more, so that units which read beside one another do so in different banks.
    let mut scratch = SharedMemory::<f32>::new(comptime!(OUTPUTS * rows * (LANES + 1)));
    let mut before = 0usize;
    #[unroll]
    for number in 0..layers.len() {
        let (layer, weight) = (layers.index(number), weights.index(number));
        let own = layer.outputs.div_ceil(OUTPUTS);
        if cube >= before && cube < before + own {
            let output = (cube - before) * OUTPUTS + place;
            let mut sums = zeros(rows);
            if output < layer.outputs {
                let from = output * layer.stride;
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
            #[unroll]
            for row in 0..rows {
                scratch[(place * rows + row) * (LANES + 1) + lane] = sums[row];
            }
            sync_cube();
            let row = first + lane;
            if lane < rows && row < all && output < layer.outputs {
                let from = (place * rows + lane) * (LANES + 1);
                let mut sum = 0.0f32;
                for i in 0..LANES {
                    sum += scratch[from + i];
                }
                y[layer.start + row * layer.outputs + output] = completed(sum, &layer.addend, row, output);
            }
        }
        before += own;
    }
}

/// `y[n, k] = Σ_o x[n, o] · weight[o, k]`, completed and summed over the layers: [`LANES`] columns a cube, of which each has [`SHARES`] units.
#[cube(launch_unchecked)]
pub(super) fn few_rows_transposed_kernel<W: Float>(
    inputs: &Sequence<Rows>,
    weights: &Sequence<Array<W>>,
    layers: &Sequence<Layer>,
    y: &mut Array<f32>,
    all: usize,
    len: usize,
    #[comptime] rows: usize,
    #[define(W)] _dtype: StorageType,
) {
    let (lane, share) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let column = cube_number() * LANES + lane;
    let first = CUBE_POS_Z as usize * rows;
    let mut sums = zeros(rows);
    if column < len {
        #[unroll]
        for number in 0..layers.len() {
            let (layer, weight, x) = (layers.index(number), weights.index(number), inputs.index(number));
            let mut o = share;
            while o < layer.outputs {
                let w = f32::cast_from(weight[o * layer.stride + column]);
                #[unroll]
                for row in 0..rows {
                    sums[row] += w * x.numbers[min(first + row, all - 1) * x.stride + o];
                }
                o += SHARES;
            }
        }
    }
    let mut scratch = SharedMemory::<f32>::new(comptime!(SHARES * rows * LANES));
    #[unroll]
    for row in 0..rows {
        scratch[(share * rows + row) * LANES + lane] = sums[row];
    }
    sync_cube();
    // Units of share s add up the rows s, s + SHARES, …
    let mut own = share;
    while own < rows {
        let row = first + own;
        if row < all && column < len {
            let mut sum = 0.0f32;
            for i in 0..SHARES {
                sum += scratch[(i * rows + own) * LANES + lane];
            }
            #[unroll]
            for number in 0..layers.len() {
                sum = completed(sum, &layers.index(number).addend, row, column);
            }
            y[row * len + column] = sum;
        }
        own += SHARES;
    }
}

/// Completes a product that lies without gaps.
#[cube(launch_unchecked)]
pub(super) fn complete_kernel(addend: &Addend, y: &mut Array<f32>, rows: usize, len: usize) {
    let unit = unit_number();
    if unit >= rows * len {
        terminate!();
    }
    y[unit] = completed(y[unit], addend, unit / len, unit % len);
}

/// Gradients to which others are added.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sums {
    pub a: Rows,
    pub b: Rows,
}

/// `dA = gᵀ·x` and `dB = dyᵀ·h` of one of several layers of a launch.
#[derive(CubeType, CubeLaunch)]
pub(super) struct FactorGrads {
    pub g: Array<f32>,
    pub dy: Rows,
    pub h: Array<f32>,
    pub rank: usize,
    /// Columns of `dy`.
    pub outputs: usize,
    /// Whether there are sums; see [`Addend`].
    #[cube(comptime)]
    #[allow(dead_code)]
    pub present: bool,
    pub sums: ComptimeOption<Sums>,
    /// Where `dA` and `dB` begin in the result.
    pub start_a: usize,
    pub start_b: usize,
}

/// The gradients of factors, a unit an element: of each layer first those of `dA`, then those of `dB`.
#[cube(launch_unchecked)]
pub(super) fn factors_kernel(
    x: &Rows,
    all: &Sequence<FactorGrads>,
    grads: &mut Array<f32>,
    rows: usize,
    len: usize,
) {
    let unit = unit_number();
    let mut before = 0usize;
    #[unroll]
    for number in 0..all.len() {
        let layer = all.index(number);
        let (of_a, own) = (layer.rank * len, layer.rank * (len + layer.outputs));
        if unit >= before && unit < before + own {
            let unit = unit - before;
            let mut sum = 0.0f32;
            if unit < of_a {
                let (r, i) = (unit / len, unit % len);
                for row in 0..rows {
                    sum += layer.g[row * layer.rank + r] * x.numbers[row * x.stride + i];
                }
                #[comptime]
                match &layer.sums {
                    ComptimeOption::Some(sums) => {
                        sum += sums.a.numbers[r * sums.a.stride + i];
                    }
                    ComptimeOption::None => {}
                }
                grads[layer.start_a + unit] = sum;
            } else {
                let unit = unit - of_a;
                let (o, r) = (unit / layer.rank, unit % layer.rank);
                for row in 0..rows {
                    sum += layer.dy.numbers[row * layer.dy.stride + o] * layer.h[row * layer.rank + r];
                }
                #[comptime]
                match &layer.sums {
                    ComptimeOption::Some(sums) => {
                        sum += sums.b.numbers[o * sums.b.stride + r];
                    }
                    ComptimeOption::None => {}
                }
                grads[layer.start_b + unit] = sum;
            }
        }
        before += own;
    }
}
