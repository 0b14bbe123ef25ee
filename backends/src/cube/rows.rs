//! Operations on whole rows, a cube each: norms and the loss of a token, forward and backward.
//!
//! How a row is summed depends on its length alone.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Rows, cube_number, cubes, empty, indices, rows_arg};

/// Units that share a row of `len` elements.
pub(super) fn units(len: usize) -> u32 {
    match len {
        ..=64 => 32,
        65..=4096 => 128,
        _ => 256,
    }
}

/// The sum of what each unit of the cube brings, or with `largest` the largest of it, for all of them; `scratch` has a place for each.
#[cube]
fn folded(value: f32, scratch: &mut SharedMemory<f32>, #[comptime] largest: bool) -> f32 {
    let unit = UNIT_POS as usize;
    // Somebody may still read what it held before.
    sync_cube();
    scratch[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let (own, other) = (scratch[unit], scratch[unit + half]);
            if comptime!(largest) {
                scratch[unit] = max(own, other);
            } else {
                scratch[unit] = own + other;
            }
        }
        sync_cube();
        half /= 2;
    }
    scratch[0]
}

/// The sum of what each unit of the cube brings, for all of them; `scratch` has a place for each.
#[cube]
pub(super) fn cube_sum(value: f32, scratch: &mut SharedMemory<f32>) -> f32 {
    folded(value, scratch, false)
}

/// The largest of what each unit of the cube brings, for all of them; `scratch` has a place for each.
#[cube]
pub(super) fn cube_largest(value: f32, scratch: &mut SharedMemory<f32>) -> f32 {
    folded(value, scratch, true)
}

/// `1 / sqrt(mean(x²) + eps)` of a row.
#[cube]
pub(super) fn reciprocal_rms(
    x: &Array<f32>,
    from: usize,
    len: usize,
    eps: f32,
    scratch: &mut SharedMemory<f32>,
) -> f32 {
    let mut squares = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < len {
        let value = x[from + i];
        squares += value * value;
        i += CUBE_DIM as usize;
    }
    1.0 / f32::sqrt(cube_sum(squares, scratch) / f32::cast_from(len) + eps)
}

#[cube(launch_unchecked)]
fn norm_kernel(
    x: &Rows,
    weight: &Array<f32>,
    y: &mut Array<f32>,
    rows: usize,
    len: usize,
    eps: f32,
    #[comptime] units: usize,
) {
    let row = cube_number();
    if row >= rows {
        terminate!();
    }
    let mut scratch = SharedMemory::<f32>::new(units);
    let from = row * x.stride;
    let factor = reciprocal_rms(&x.numbers, from, len, eps, &mut scratch);
    let mut i = UNIT_POS as usize;
    while i < len {
        y[row * len + i] = x.numbers[from + i] * factor * weight[i];
        i += units;
    }
}

/// `onto` tells kernels with a sum from those without: CubeCL 0.10 finds kernels that it kept on disk by a hash which leaves that out.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn norm_backward_kernel(
    dy: &Rows,
    x: &Rows,
    weight: &Array<f32>,
    sum: &ComptimeOption<Rows>,
    dx: &mut Array<f32>,
    rows: usize,
    len: usize,
    eps: f32,
    #[comptime] units: usize,
    #[comptime] _onto: bool,
) {
    let row = cube_number();
    if row >= rows {
        terminate!();
    }
    let mut scratch = SharedMemory::<f32>::new(units);
    let (from, slope) = (row * x.stride, row * dy.stride);
    let factor = reciprocal_rms(&x.numbers, from, len, eps, &mut scratch);
    let mut along = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < len {
        along += dy.numbers[slope + i] * weight[i] * (x.numbers[from + i] * factor);
        i += units;
    }
    let along = cube_sum(along, &mut scratch) / f32::cast_from(len);
    let mut i = UNIT_POS as usize;
    while i < len {
        let mut slope_x = (dy.numbers[slope + i] * weight[i] - x.numbers[from + i] * factor * along) * factor;
        #[comptime]
        match sum {
            ComptimeOption::Some(sum) => {
                slope_x += sum.numbers[row * sum.stride + i];
            }
            ComptimeOption::None => {}
        }
        dx[row * len + i] = slope_x;
        i += units;
    }
}

/// `Σ exp(x − max)` of a row, and its maximum.
#[cube]
fn exponentials(x: &Array<f32>, from: usize, len: usize, scratch: &mut SharedMemory<f32>) -> (f32, f32) {
    let mut largest = x[from];
    let mut i = UNIT_POS as usize;
    while i < len {
        largest = max(largest, x[from + i]);
        i += CUBE_DIM as usize;
    }
    let largest = cube_largest(largest, scratch);
    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < len {
        sum += f32::exp(x[from + i] - largest);
        i += CUBE_DIM as usize;
    }
    (cube_sum(sum, scratch), largest)
}

#[cube(launch_unchecked)]
fn nll_kernel(
    logits: &Rows,
    targets: &Array<u32>,
    nll: &mut Array<f32>,
    rows: usize,
    len: usize,
    #[comptime] units: usize,
) {
    let row = cube_number();
    if row >= rows {
        terminate!();
    }
    let mut scratch = SharedMemory::<f32>::new(units);
    let from = row * logits.stride;
    let (sum, largest) = exponentials(&logits.numbers, from, len, &mut scratch);
    if UNIT_POS == 0 {
        nll[row] = f32::ln(sum) + largest - logits.numbers[from + targets[row] as usize];
    }
}

#[cube(launch_unchecked)]
fn nll_backward_kernel(
    d_nll: &Rows,
    logits: &Rows,
    targets: &Array<u32>,
    d_logits: &mut Array<f32>,
    rows: usize,
    len: usize,
    #[comptime] units: usize,
) {
    let row = cube_number();
    if row >= rows {
        terminate!();
    }
    let mut scratch = SharedMemory::<f32>::new(units);
    let from = row * logits.stride;
    let (sum, largest) = exponentials(&logits.numbers, from, len, &mut scratch);
    let (slope, target) = (d_nll.numbers[row * d_nll.stride], targets[row] as usize);
    let mut i = UNIT_POS as usize;
    while i < len {
        let mut p = f32::exp(logits.numbers[from + i] - largest) / sum;
        if i == target {
            p -= 1.0;
        }
        d_logits[row * len + i] = p * slope;
        i += units;
    }
}

/// Numbers that [`best_kernel`] leaves of a row.
pub(super) const BEST: usize = 4;

/// The first index of the largest number of a row, that number, the least one, and `Σ exp(x − max)`.
#[cube(launch_unchecked)]
fn best_kernel(logits: &Rows, best: &mut Array<f32>, rows: usize, len: usize, #[comptime] units: usize) {
    let row = cube_number();
    if row >= rows {
        terminate!();
    }
    let mut scratch = SharedMemory::<f32>::new(units);
    let from = row * logits.stride;
    let (sum, largest) = exponentials(&logits.numbers, from, len, &mut scratch);
    // Indices are whole numbers of f32, and the first is the largest of the negative ones.
    let (mut first, mut least) = (f32::cast_from(len), largest);
    let mut i = UNIT_POS as usize;
    while i < len {
        let value = logits.numbers[from + i];
        least = min(least, value);
        if value == largest {
            first = min(first, f32::cast_from(i));
        }
        i += units;
    }
    let first = -cube_largest(-first, &mut scratch);
    let least = -cube_largest(-least, &mut scratch);
    if UNIT_POS == 0 {
        best[row * BEST] = first;
        best[row * BEST + 1] = largest;
        best[row * BEST + 2] = least;
        best[row * BEST + 3] = sum;
    }
}

/// See [`crate::ModelBackend::rms_norm`].
pub(super) fn rms_norm<R: CubeRuntime>(x: CubeTensor<R>, weight: CubeTensor<R>, eps: f64) -> CubeTensor<R> {
    let [rows, len] = x.meta.shape().dims();
    let y = empty(&x, [rows, len]);
    let units = units(len);
    // SAFETY: cubes beyond the last row do nothing, and no unit leaves its row.
    unsafe {
        norm_kernel::launch_unchecked(
            &y.client,
            cubes(rows, 1),
            CubeDim::new_1d(units),
            rows_arg(x),
            weight.into_array_arg(),
            y.clone().into_array_arg(),
            rows,
            len,
            eps as f32,
            units as usize,
        );
    }
    y
}

/// See [`crate::ModelBackend::rms_norm_backward`]; a sum is added to it.
pub(super) fn rms_norm_backward<R: CubeRuntime>(
    sum: Option<CubeTensor<R>>,
    dy: CubeTensor<R>,
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    eps: f64,
) -> CubeTensor<R> {
    let [rows, len] = x.meta.shape().dims();
    let dx = empty(&x, [rows, len]);
    let units = units(len);
    let onto = sum.is_some();
    // SAFETY: cubes beyond the last row do nothing, and no unit leaves its row.
    unsafe {
        norm_backward_kernel::launch_unchecked(
            &dx.client,
            cubes(rows, 1),
            CubeDim::new_1d(units),
            rows_arg(dy),
            rows_arg(x),
            weight.into_array_arg(),
            sum.map(rows_arg).into(),
            dx.clone().into_array_arg(),
            rows,
            len,
            eps as f32,
            units as usize,
            onto,
        );
    }
    dx
}

/// See [`crate::ModelBackend::token_nll`].
pub(super) fn token_nll<R: CubeRuntime>(logits: CubeTensor<R>, targets: &[u32]) -> CubeTensor<R> {
    let [rows, len] = logits.meta.shape().dims();
    let (targets, nll) = (indices(&logits, targets, len), empty(&logits, [rows]));
    let units = units(len);
    // SAFETY: cubes beyond the last row do nothing, no unit leaves its row, and targets lie in it.
    unsafe {
        nll_kernel::launch_unchecked(
            &nll.client,
            cubes(rows, 1),
            CubeDim::new_1d(units),
            rows_arg(logits),
            targets.into_array_arg(),
            nll.clone().into_array_arg(),
            rows,
            len,
            units as usize,
        );
    }
    nll
}

/// See [`crate::ModelBackend::token_nll_backward`].
pub(super) fn token_nll_backward<R: CubeRuntime>(
    d_nll: CubeTensor<R>,
    logits: CubeTensor<R>,
    targets: &[u32],
) -> CubeTensor<R> {
    let [rows, len] = logits.meta.shape().dims();
    let (targets, d_logits) = (indices(&logits, targets, len), empty(&logits, [rows, len]));
    let units = units(len);
    // SAFETY: cubes beyond the last row do nothing, no unit leaves its row, and targets lie in it.
    unsafe {
        nll_backward_kernel::launch_unchecked(
            &d_logits.client,
            cubes(rows, 1),
            CubeDim::new_1d(units),
            rows_arg(d_nll),
            rows_arg(logits),
            targets.into_array_arg(),
            d_logits.clone().into_array_arg(),
            rows,
            len,
            units as usize,
        );
    }
    d_logits
}

/// The most numbers of a row whose indices are whole numbers of f32.
pub(super) const INDEXED: usize = 1 << 24;

/// What [`best_kernel`] leaves of each row, `[N, BEST]`.
///
/// # Panics
/// If rows are longer than [`INDEXED`].
pub(super) fn best<R: CubeRuntime>(logits: CubeTensor<R>) -> CubeTensor<R> {
    let [rows, len] = logits.meta.shape().dims();
    assert!(len <= INDEXED, "rows of at most {INDEXED} numbers");
    let best = empty(&logits, [rows, BEST]);
    let units = units(len);
    // SAFETY: cubes beyond the last row do nothing, and no unit leaves its row.
    unsafe {
        best_kernel::launch_unchecked(
            &best.client,
            cubes(rows, 1),
            CubeDim::new_1d(units),
            rows_arg(logits),
            best.clone().into_array_arg(),
            rows,
            len,
            units as usize,
        );
    }
    best
}
