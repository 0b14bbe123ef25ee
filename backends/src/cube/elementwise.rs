//! Rotary embedding and the gate of the feed-forward layer, a unit an element.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Rows, blocks, empty, rows_arg, unit_number};

#[cube(launch_unchecked)]
fn rotary_kernel(
    x: &Array<f32>,
    cos: &Rows,
    sin: &Rows,
    y: &mut Array<f32>,
    row_stride: usize,
    head_stride: usize,
    n: usize,
    heads: usize,
    half: usize,
    sign: f32,
) {
    let unit = unit_number();
    if unit >= n * heads * half {
        terminate!();
    }
    let (head, i) = (unit / half, unit % half);
    let row = head / heads;
    let from = row * row_stride + head % heads * head_stride + i;
    let (first, second) = (x[from], x[from + half]);
    let (c, s) = (cos.numbers[row * cos.stride + i], sign * sin.numbers[row * sin.stride + i]);
    y[2 * head * half + i] = first * c - second * s;
    y[(2 * head + 1) * half + i] = second * c + first * s;
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

/// See [`crate::ModelBackend::rotary`]; a `sign` of −1 rotates by the negative angle.
pub(super) fn rotary<R: CubeRuntime>(
    x: CubeTensor<R>,
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
    sign: f32,
) -> CubeTensor<R> {
    let [n, heads, d] = x.meta.shape().dims();
    let (row_stride, head_stride) = (x.meta.strides()[0], x.meta.strides()[1]);
    let y = empty(&x, [n, heads, d]);
    let (count, dim) = blocks(n * heads * d / 2);
    // SAFETY: units beyond the last pair do nothing.
    unsafe {
        rotary_kernel::launch_unchecked(
            &y.client,
            count,
            dim,
            x.into_array_arg(),
            rows_arg(cos),
            rows_arg(sin),
            y.clone().into_array_arg(),
            row_stride,
            head_stride,
            n,
            heads,
            d / 2,
            sign,
        );
    }
    y
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
