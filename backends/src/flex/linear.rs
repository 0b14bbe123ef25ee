//! Frozen linear layers with factored LoRA, whose product is added where the layer's own lies.

use burn::backend::Flex;
use burn::prelude::*;

use super::dots::{Operands, dots};
use super::matmul::{Matrix, product, times, transposed, worth_threads};
use super::sums::add_product;
use super::{contiguous, laid, tensor, values};
use crate::{LinearGrads, LoraRef};

/// Up to this many rows a product with a transposed matrix is faster on that matrix as it lies than packed by `gemm`.
const DOTS_ROWS: usize = 16;

/// The same matrix with its columns one after the other in memory, as [`forward`] reads it best.
pub(super) fn in_columns(w: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let [out, k] = w.dims();
    let w = contiguous(w);
    tensor(transposed(Matrix::new(values(&w), out, k)), [k, out]).transpose()
}

/// See [`ModelBackend::frozen_linear`](crate::ModelBackend::frozen_linear).
///
/// A weight of which the columns lie without gaps is summed by [`add_product`], any other by [`dots`]; either sums each row alone.
pub(super) fn forward(
    x: Tensor<Flex, 2>,
    weight: &Tensor<Flex, 2>,
    bias: Option<&Tensor<Flex, 1>>,
    lora: Option<LoraRef<'_, Flex>>,
) -> Tensor<Flex, 2> {
    let [rows, k] = x.dims();
    let (x, w) = (contiguous(x), laid(weight.clone()));
    let (x, w) = (Matrix::new(values(&x), rows, k), Matrix::laid(&w));
    let out = w.rows;
    let bias = bias.map(|b| contiguous(b.clone()));
    let bias = bias.as_ref().map(values);
    let lora = lora.map(|l| {
        let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
        (scaled_down(x, values(&a), l.scaling), b, l.a.dims()[0])
    });
    let lora = lora
        .as_ref()
        .map(|(xa, b, r)| Operands { x: Matrix::new(xa, rows, *r), w: Matrix::new(values(b), out, *r) });
    if w.col_stride == 1 {
        let terms: Vec<_> = std::iter::once(Operands { x, w }).chain(lora).collect();
        return tensor(dots(&terms, bias), [rows, out]);
    }
    let mut y = bias.map_or_else(|| vec![0.0; rows * out], |b| b.repeat(rows));
    add_product(&mut y, x, w.t());
    if let Some(Operands { x, w }) = lora {
        add_product(&mut y, x, Matrix::new(&transposed(w), w.cols, out));
    }
    tensor(y, [rows, out])
}

/// `s·x·Aᵀ`, `[rows, r]`.
fn scaled_down(x: Matrix<'_>, a: &[f32], scaling: f64) -> Vec<f32> {
    let w = Matrix::new(a, a.len() / x.cols, x.cols);
    let mut xa = dots(&[Operands { x, w }], None);
    xa.iter_mut().for_each(|v| *v *= scaling as f32);
    xa
}

/// `dy·W`, `[rows, in]`.
fn input_gradient(dy: Matrix<'_>, w: Matrix<'_>) -> Vec<f32> {
    if w.col_stride == 1 {
        let mut dx = vec![0.0; dy.rows * w.cols];
        add_product(&mut dx, dy, w);
        dx
    } else if dy.rows <= DOTS_ROWS {
        dots(&[Operands { x: dy, w: w.t() }], None)
    } else {
        times(dy, w, 1.0)
    }
}

/// See [`ModelBackend::frozen_linear_backward`](crate::ModelBackend::frozen_linear_backward).
pub(super) fn backward(
    dy: Tensor<Flex, 2>,
    x: Option<Tensor<Flex, 2>>,
    weight: &Tensor<Flex, 2>,
    lora: Option<LoraRef<'_, Flex>>,
    wants_dx: bool,
) -> LinearGrads<Flex> {
    let [rows, out] = dy.dims();
    let k = weight.dims()[1];
    let (dy, w) = (contiguous(dy), laid(weight.clone()));
    let (dy, w) = (Matrix::new(values(&dy), rows, out), Matrix::laid(&w));
    let mut dx = wants_dx.then(|| input_gradient(dy, w));
    let factors = lora.map(|l| {
        let x = contiguous(x.expect("LoRA's backward pass needs the input"));
        let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
        let (x, a, b) = (Matrix::new(values(&x), rows, k), values(&a), values(&b));
        let r = a.len() / k;
        let g = times(dy, Matrix::new(b, out, r), l.scaling as f32);
        let (g, a_m) = (Matrix::new(&g, rows, r), Matrix::new(a, r, k));
        if let Some(dx) = &mut dx {
            product(dx, k, true, g, a_m, 1.0, worth_threads(g, a_m));
        }
        let d_a = times(g.t(), x, 1.0);
        let d_b = times(dy.t(), Matrix::new(&scaled_down(x, a, l.scaling), rows, r), 1.0);
        (tensor(d_a, [r, k]), tensor(d_b, [out, r]))
    });
    (dx.map(|dx| tensor(dx, [rows, k])), factors)
}
