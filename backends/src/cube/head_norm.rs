//! A norm over each head and the rotary embedding behind it, a cube a head.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::elementwise::{Heads, heads_arg};
use super::launch::{Rows, cube_number, cubes, empty, parts, rows_arg, unplaced};
use super::rows::{cube_sum, reciprocal_rms, units};

/// Heads to norm and rotate, one of several tensors of a launch.
#[derive(CubeType, CubeLaunch)]
struct NormedHeads {
    heads: Heads,
    /// `[d]`
    weight: Array<f32>,
    eps: f32,
}

/// Where head `head`, counted over all positions, begins.
#[cube]
fn start_of(x: &Heads, head: usize) -> usize {
    head / x.heads * x.position + head % x.heads * x.head
}

#[cube(launch_unchecked)]
fn normed_rotary_kernel(
    all: &Sequence<NormedHeads>,
    cos: &Rows,
    sin: &Rows,
    y: &mut Array<f32>,
    positions: usize,
    half: usize,
    #[comptime] units: usize,
) {
    let mut scratch = SharedMemory::<f32>::new(units);
    let cube = cube_number();
    let mut before = 0usize;
    #[unroll]
    for number in 0..all.len() {
        let x = all.index(number);
        let own = positions * x.heads.heads;
        if cube >= before && cube < before + own {
            let head = cube - before;
            let (row, from) = (head / x.heads.heads, start_of(&x.heads, head));
            let factor = reciprocal_rms(&x.heads.numbers, from, 2 * half, x.eps, &mut scratch);
            let to = x.heads.start + 2 * head * half;
            let mut i = UNIT_POS as usize;
            while i < half {
                let first = x.heads.numbers[from + i] * factor * x.weight[i];
                let second = x.heads.numbers[from + half + i] * factor * x.weight[half + i];
                let (c, s) = (cos.numbers[row * cos.stride + i], sin.numbers[row * sin.stride + i]);
                y[to + i] = first * c - second * s;
                y[to + half + i] = second * c + first * s;
                i += units;
            }
        }
        before += own;
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn normed_rotary_backward_kernel(
    dy: &Heads,
    x: &NormedHeads,
    cos: &Rows,
    sin: &Rows,
    dx: &mut Array<f32>,
    positions: usize,
    half: usize,
    #[comptime] units: usize,
) {
    let head = cube_number();
    if head >= positions * x.heads.heads {
        terminate!();
    }
    let mut scratch = SharedMemory::<f32>::new(units);
    let (row, from, slope) = (head / x.heads.heads, start_of(&x.heads, head), start_of(dy, head));
    let len = 2 * half;
    let factor = reciprocal_rms(&x.heads.numbers, from, len, x.eps, &mut scratch);
    // What reaches the normed head is turned back, weighted, and kept where the result goes: each unit reads there only what it wrote.
    let mut along = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < half {
        let (a, b) = (dy.numbers[slope + i], dy.numbers[slope + half + i]);
        let (c, s) = (cos.numbers[row * cos.stride + i], sin.numbers[row * sin.stride + i]);
        let first = (a * c + b * s) * x.weight[i];
        let second = (b * c - a * s) * x.weight[half + i];
        along += (first * x.heads.numbers[from + i] + second * x.heads.numbers[from + half + i]) * factor;
        dx[head * len + i] = first;
        dx[head * len + half + i] = second;
        i += units;
    }
    let along = cube_sum(along, &mut scratch) / f32::cast_from(len);
    let mut i = UNIT_POS as usize;
    while i < half {
        let (first, second) = (head * len + i, head * len + half + i);
        dx[first] = (dx[first] - x.heads.numbers[from + i] * factor * along) * factor;
        dx[second] = (dx[second] - x.heads.numbers[from + half + i] * factor * along) * factor;
        i += units;
    }
}

/// The norm of a tensor's heads: its weight `[d]`, and what is added to the mean square.
pub(super) type Norm<R> = (CubeTensor<R>, f64);

fn normed_arg<R: CubeRuntime>(x: CubeTensor<R>, norm: Norm<R>, start: usize) -> NormedHeadsLaunch<R> {
    let (weight, eps) = norm;
    NormedHeadsLaunch::new(heads_arg(x, start), weight.into_array_arg(), eps as f32)
}

/// See [`crate::ModelBackend::normed_rotary_all`].
pub(super) fn normed_rotary<R: CubeRuntime, const N: usize>(
    xs: [CubeTensor<R>; N],
    norms: [Norm<R>; N],
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
) -> [CubeTensor<R>; N] {
    let shapes: [[usize; 3]; N] = xs.each_ref().map(|x| x.meta.shape().dims());
    let [positions, _, d] = shapes[0];
    let (y, results) = parts(&xs[0], &shapes);
    let client = xs[0].client.clone();
    let args = xs.into_iter().zip(norms).zip(&results);
    let args = args.map(|((x, norm), (_, start))| normed_arg(x, norm, *start)).collect();
    let units = units(d);
    // SAFETY: cubes beyond the last head do nothing, and no unit leaves its head.
    unsafe {
        normed_rotary_kernel::launch_unchecked(
            &client,
            cubes(shapes.iter().map(|[positions, heads, _]| positions * heads).sum(), 1),
            CubeDim::new_1d(units),
            args,
            rows_arg(cos),
            rows_arg(sin),
            y.into_array_arg(),
            positions,
            d / 2,
            units as usize,
        );
    }
    unplaced(results)
}

/// See [`crate::ModelBackend::normed_rotary_backward`].
pub(super) fn normed_rotary_backward<R: CubeRuntime>(
    dy: CubeTensor<R>,
    x: CubeTensor<R>,
    norm: Norm<R>,
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
) -> CubeTensor<R> {
    let [positions, heads, d] = x.meta.shape().dims();
    let dx = empty(&x, [positions, heads, d]);
    let units = units(d);
    // SAFETY: cubes beyond the last head do nothing, and no unit leaves its head.
    unsafe {
        normed_rotary_backward_kernel::launch_unchecked(
            &dx.client,
            cubes(positions * heads, 1),
            CubeDim::new_1d(units),
            heads_arg(dy, 0),
            normed_arg(x, norm, 0),
            rows_arg(cos),
            rows_arg(sin),
            dx.clone().into_array_arg(),
            positions,
            d / 2,
            units as usize,
        );
    }
    dx
}
