//! Rotary embedding and the gate of the feed-forward layer, a unit an element.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Rows, blocks, empty, parts, rows_arg, unit_number, unplaced};

/// Heads to rotate, one of several tensors of a launch.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Heads {
    pub numbers: Array<f32>,
    /// From a position to the next, and from a head to the next.
    pub position: usize,
    pub head: usize,
    /// Heads of a position.
    pub heads: usize,
    /// Where its result begins.
    pub start: usize,
}

/// `[N, heads, d]` as kernels take it, the result of which begins at `start`.
pub(super) fn heads_arg<R: CubeRuntime>(x: CubeTensor<R>, start: usize) -> HeadsLaunch<R> {
    let (position, head, heads) = (x.meta.strides()[0], x.meta.strides()[1], x.meta.shape()[1]);
    HeadsLaunch::new(x.into_array_arg(), position, head, heads, start)
}

#[cube(launch_unchecked)]
fn rotary_kernel(
    all: &Sequence<Heads>,
    cos: &Rows,
    sin: &Rows,
    y: &mut Array<f32>,
    positions: usize,
    half: usize,
    sign: f32,
) {
    let unit = unit_number();
    let mut before = 0usize;
    #[unroll]
    for number in 0..all.len() {
        let x = all.index(number);
        let own = positions * x.heads * half;
        if unit >= before && unit < before + own {
            let (head, i) = ((unit - before) / half, (unit - before) % half);
            let row = head / x.heads;
            let from = row * x.position + head % x.heads * x.head + i;
            let (first, second) = (x.numbers[from], x.numbers[from + half]);
            let (c, s) = (cos.numbers[row * cos.stride + i], sign * sin.numbers[row * sin.stride + i]);
            let to = x.start + 2 * head * half + i;
            y[to] = first * c - second * s;
            y[to + half] = second * c + first * s;
        }
        before += own;
    }
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + f32::exp(-x))
}

#[cube(launch_unchecked)]
fn swiglu_kernel(gate: &Rows, up: &Rows, y: &mut Array<f32>, rows: usize, len: usize) {
    let unit = unit_number();
    if unit >= rows * len {
        terminate!();
    }
    let (row, i) = (unit / len, unit % len);
    let g = gate.numbers[row * gate.stride + i];
    y[unit] = g * sigmoid(g) * up.numbers[row * up.stride + i];
}

#[cube(launch_unchecked)]
fn swiglu_backward_kernel(
    dy: &Rows,
    gate: &Rows,
    up: &Rows,
    d_gate: &mut Array<f32>,
    d_up: &mut Array<f32>,
    rows: usize,
    len: usize,
) {
    let unit = unit_number();
    if unit >= rows * len {
        terminate!();
    }
    let (row, i) = (unit / len, unit % len);
    let g = gate.numbers[row * gate.stride + i];
    let d = dy.numbers[row * dy.stride + i];
    let s = sigmoid(g);
    // d silu / d gate = s·(1 + gate·(1 − s))
    d_gate[unit] = d * up.numbers[row * up.stride + i] * (s * (1.0 + g * (1.0 - s)));
    d_up[unit] = d * (g * s);
}

/// Tensors `[N, heads, d]` of the same positions; see [`crate::ModelBackend::rotary`]. A `sign` of −1 rotates by the negative angle.
pub(super) fn rotary<R: CubeRuntime, const N: usize>(
    xs: [CubeTensor<R>; N],
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
    sign: f32,
) -> [CubeTensor<R>; N] {
    let shapes: [[usize; 3]; N] = xs.each_ref().map(|x| x.meta.shape().dims());
    let [positions, _, d] = shapes[0];
    let (y, results) = parts(&xs[0], &shapes);
    let client = xs[0].client.clone();
    let args = xs.into_iter().zip(&results).map(|(x, (_, start))| heads_arg(x, *start)).collect();
    let (count, dim) = blocks(shapes.iter().map(|shape| shape.iter().product::<usize>() / 2).sum());
    // SAFETY: units beyond the last pair do nothing.
    unsafe {
        rotary_kernel::launch_unchecked(
            &client,
            count,
            dim,
            args,
            rows_arg(cos),
            rows_arg(sin),
            y.into_array_arg(),
            positions,
            d / 2,
            sign,
        );
    }
    unplaced(results)
}

/// See [`crate::ModelBackend::swiglu`].
pub(super) fn swiglu<R: CubeRuntime>(gate: CubeTensor<R>, up: CubeTensor<R>) -> CubeTensor<R> {
    let [rows, len] = gate.meta.shape().dims();
    let y = empty(&gate, [rows, len]);
    let (count, dim) = blocks(rows * len);
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        swiglu_kernel::launch_unchecked(
            &y.client,
            count,
            dim,
            rows_arg(gate),
            rows_arg(up),
            y.clone().into_array_arg(),
            rows,
            len,
        );
    }
    y
}

/// See [`crate::ModelBackend::swiglu_backward`].
pub(super) fn swiglu_backward<R: CubeRuntime>(
    dy: CubeTensor<R>,
    gate: CubeTensor<R>,
    up: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let [rows, len] = gate.meta.shape().dims();
    let (d_gate, d_up) = (empty(&gate, [rows, len]), empty(&gate, [rows, len]));
    let (count, dim) = blocks(rows * len);
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        swiglu_backward_kernel::launch_unchecked(
            &dy.client.clone(),
            count,
            dim,
            rows_arg(dy),
            rows_arg(gate),
            rows_arg(up),
            d_gate.clone().into_array_arg(),
            d_up.clone().into_array_arg(),
            rows,
            len,
        );
    }
    (d_gate, d_up)
}
