//! Rotary embedding and the gate of the feed-forward layer, a unit an element.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{blocks, empty, unit_number};

#[cube(launch_unchecked)]
fn rotary_kernel(x: &Tensor<f32>, cos: &Tensor<f32>, sin: &Tensor<f32>, y: &mut Tensor<f32>) {
    let (heads, d) = (x.shape(1), x.shape(2));
    let half = d / 2;
    let unit = unit_number();
    if unit >= x.shape(0) * heads * half {
        terminate!();
    }
    let (head, i) = (unit / half, unit % half);
    let row = head / heads;
    let from = row * x.stride(0) + head % heads * x.stride(1) + i;
    let (first, second) = (x[from], x[from + half]);
    let (c, s) = (cos[row * cos.stride(0) + i], sin[row * sin.stride(0) + i]);
    y[head * d + i] = first * c - second * s;
    y[head * d + half + i] = second * c + first * s;
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + f32::exp(-x))
}

#[cube(launch_unchecked)]
fn swiglu_kernel(gate: &Tensor<f32>, up: &Tensor<f32>, y: &mut Tensor<f32>) {
    let len = gate.shape(1);
    let unit = unit_number();
    if unit >= gate.shape(0) * len {
        terminate!();
    }
    let (row, i) = (unit / len, unit % len);
    let g = gate[row * gate.stride(0) + i];
    y[unit] = g * sigmoid(g) * up[row * up.stride(0) + i];
}

#[cube(launch_unchecked)]
fn swiglu_backward_kernel(
    dy: &Tensor<f32>,
    gate: &Tensor<f32>,
    up: &Tensor<f32>,
    d_gate: &mut Tensor<f32>,
    d_up: &mut Tensor<f32>,
) {
    let len = gate.shape(1);
    let unit = unit_number();
    if unit >= gate.shape(0) * len {
        terminate!();
    }
    let (row, i) = (unit / len, unit % len);
    let g = gate[row * gate.stride(0) + i];
    let d = dy[row * dy.stride(0) + i];
    let s = sigmoid(g);
    // d silu / d gate = s·(1 + gate·(1 − s))
    d_gate[unit] = d * up[row * up.stride(0) + i] * (s * (1.0 + g * (1.0 - s)));
    d_up[unit] = d * (g * s);
}

/// See [`crate::ModelBackend::rotary`].
pub(super) fn rotary<R: CubeRuntime>(
    x: CubeTensor<R>,
    cos: CubeTensor<R>,
    sin: CubeTensor<R>,
) -> CubeTensor<R> {
    let shape: [usize; 3] = x.meta.shape().dims();
    let y = empty(&x, shape);
    let (count, dim) = blocks(shape.iter().product::<usize>() / 2);
    // SAFETY: units beyond the last pair do nothing.
    unsafe {
        rotary_kernel::launch_unchecked(
            &y.client,
            count,
            dim,
            x.into_tensor_arg(),
            cos.into_tensor_arg(),
            sin.into_tensor_arg(),
            y.clone().into_tensor_arg(),
        );
    }
    y
}

/// See [`crate::ModelBackend::swiglu`].
pub(super) fn swiglu<R: CubeRuntime>(gate: CubeTensor<R>, up: CubeTensor<R>) -> CubeTensor<R> {
    let shape: [usize; 2] = gate.meta.shape().dims();
    let y = empty(&gate, shape);
    let (count, dim) = blocks(shape.iter().product());
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        swiglu_kernel::launch_unchecked(
            &y.client,
            count,
            dim,
            gate.into_tensor_arg(),
            up.into_tensor_arg(),
            y.clone().into_tensor_arg(),
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
    let shape: [usize; 2] = gate.meta.shape().dims();
    let (d_gate, d_up) = (empty(&gate, shape), empty(&gate, shape));
    let (count, dim) = blocks(shape.iter().product());
    // SAFETY: units beyond the last element do nothing.
    unsafe {
        swiglu_backward_kernel::launch_unchecked(
            &dy.client.clone(),
            count,
            dim,
            dy.into_tensor_arg(),
            gate.into_tensor_arg(),
            up.into_tensor_arg(),
            d_gate.clone().into_tensor_arg(),
            d_up.clone().into_tensor_arg(),
        );
    }
    (d_gate, d_up)
}
