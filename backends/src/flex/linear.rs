//! Frozen linear layers with factored LoRA, whose product is added where the layer's own lies.

use burn::backend::Flex;
use burn::prelude::*;

use super::dots::{Operand, dots};
use super::matmul::{Matrix, product, times, worth_threads};
use super::sums::sums;
use super::{contiguous, tensor, values};
use crate::LoraRef;

/// Up to this many rows a product with a transposed weight is faster on the weight as it lies than packed by `gemm`.
const DOTS_ROWS: usize = 128;

/// The same for a product with the weight itself.
const SUMS_ROWS: usize = 16;

/// See [`ModelBackend::frozen_linear`](crate::ModelBackend::frozen_linear).
pub(super) fn forward(
    x: Tensor<Flex, 2>,
    weight: &Tensor<Flex, 2>,
    bias: Option<&Tensor<Flex, 1>>,
    lora: Option<LoraRef<'_, Flex>>,
) -> Tensor<Flex, 2> {
    let [rows, k] = x.dims();
    let out = weight.dims()[0];
    let (x, w) = (contiguous(x), contiguous(weight.clone()));
    let (x, w) = (values(&x), values(&w));
    let bias = bias.map(|b| contiguous(b.clone()));
    let bias = bias.as_ref().map(values);
    let lora = lora.map(|l| {
        let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
        (scaled_down(x, values(&a), rows, k, l.scaling), b)
    });
    let lora = lora.as_ref().map(|(xa, b)| Operand { x: xa, w: values(b), k: xa.len() / rows });
    let operands = std::iter::once(Operand { x, w, k }).chain(lora);
    let y = if rows <= DOTS_ROWS {
        dots(&operands.collect::<Vec<_>>(), bias, rows, out)
    } else {
        let mut y = bias.map_or_else(|| vec![0.0; rows * out], |b| b.repeat(rows));
        for (i, Operand { x, w, k }) in operands.enumerate() {
            let (x, w) = (Matrix::new(x, rows, k), Matrix::new(w, out, k).t());
            product(&mut y, out, i > 0 || bias.is_some(), x, w, 1.0, worth_threads(x, w));
        }
        y
    };
    tensor(y, [rows, out])
}

/// `s·x·Aᵀ`, `[rows, r]`.
fn scaled_down(x: &[f32], a: &[f32], rows: usize, k: usize, scaling: f64) -> Vec<f32> {
    let mut xa = dots(&[Operand { x, w: a, k }], None, rows, a.len() / k);
    xa.iter_mut().for_each(|v| *v *= scaling as f32);
    xa
}

/// See [`ModelBackend::frozen_linear_backward`](crate::ModelBackend::frozen_linear_backward).
#[allow(clippy::type_complexity)]
pub(super) fn backward(
    dy: Tensor<Flex, 2>,
    x: Option<Tensor<Flex, 2>>,
    weight: &Tensor<Flex, 2>,
    lora: Option<LoraRef<'_, Flex>>,
    wants_dx: bool,
) -> (Option<Tensor<Flex, 2>>, Option<(Tensor<Flex, 2>, Tensor<Flex, 2>)>) {
    let [rows, out] = dy.dims();
    let k = weight.dims()[1];
    let (dy, w) = (contiguous(dy), contiguous(weight.clone()));
    let (dy, w) = (values(&dy), values(&w));
    let dy_m = Matrix::new(dy, rows, out);
    let mut dx = wants_dx.then(|| {
        if rows <= SUMS_ROWS { sums(dy, w, rows) } else { times(dy_m, Matrix::new(w, out, k), 1.0) }
    });
    let factors = lora.map(|l| {
        let x = contiguous(x.expect("LoRA's backward pass needs the input"));
        let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
        let (x, a, b) = (values(&x), values(&a), values(&b));
        let r = a.len() / k;
        let g = times(dy_m, Matrix::new(b, out, r), l.scaling as f32);
        let (g, a_m) = (Matrix::new(&g, rows, r), Matrix::new(a, r, k));
        if let Some(dx) = &mut dx {
            product(dx, k, true, g, a_m, 1.0, worth_threads(g, a_m));
        }
        let d_a = times(g.t(), Matrix::new(x, rows, k), 1.0);
        let xa = scaled_down(x, a, rows, k, l.scaling);
        let d_b = times(dy_m.t(), Matrix::new(&xa, rows, r), 1.0);
        (tensor(d_a, [r, k]), tensor(d_b, [out, r]))
    });
    (dx.map(|dx| tensor(dx, [rows, k])), factors)
}
