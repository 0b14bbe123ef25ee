//! Frozen linear layers with factored LoRA, whose product is added where the layer's own lies.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;

use super::dots::{Addends, Operands, dots};
use super::matmul::{Matrix, times, transposed};
use super::narrow::{self, Narrow};
use super::sums::add_product;
use super::{contiguous, laid, tensor, values};
use crate::host::HostWeight;
use crate::{FrozenMatrix, LinearGrads, LoraRef};

/// The same matrix with its columns one after the other in memory, as [`forward`] reads it best.
pub(super) fn in_columns(w: Tensor<Flex, 2>) -> Tensor<Flex, 2> {
    let [out, k] = w.dims();
    let w = contiguous(w);
    tensor(transposed(Matrix::new(values(&w), out, k)), [k, out]).transpose()
}

/// LoRA's `s·x·Aᵀ` and `B`, and the bias, without gaps.
struct Beside {
    bias: Option<FlexTensor>,
    lora: Option<(Vec<f32>, FlexTensor)>,
}

impl Beside {
    fn new(x: Matrix<'_>, bias: Option<&Tensor<Flex, 1>>, lora: Option<LoraRef<'_, Flex>>) -> Self {
        let factors = |l: LoraRef<'_, Flex>| {
            let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
            (scaled_down(x, values(&a), l.scaling), b)
        };
        Self { bias: bias.map(|b| contiguous(b.clone())), lora: lora.map(factors) }
    }

    /// What is added to `[rows, out]`.
    fn addends(&self, rows: usize, out: usize) -> Addends<'_> {
        let also = self.lora.as_ref().map(|(xa, b)| {
            let (x, w) = (Matrix::new(xa, rows, xa.len() / rows.max(1)), values(b));
            Operands { x, w: Matrix::new(w, out, x.cols) }
        });
        Addends { also, bias: self.bias.as_ref().map(values) }
    }
}

/// See [`ModelBackend::frozen_linear`](crate::ModelBackend::frozen_linear).
///
/// A weight of which the columns lie without gaps is summed by [`add_product`], any other by [`dots`]; either sums each row alone.
pub(super) fn forward(
    x: Tensor<Flex, 2>,
    weight: &HostWeight<Flex>,
    bias: Option<&Tensor<Flex, 1>>,
    lora: Option<LoraRef<'_, Flex>>,
) -> Tensor<Flex, 2> {
    let ([rows, k], [out, _]) = (x.dims(), weight.shape());
    let x = contiguous(x);
    let x = Matrix::new(values(&x), rows, k);
    let beside = Beside::new(x, bias, lora);
    let addends = beside.addends(rows, out);
    let y = match weight {
        HostWeight::Narrow(w) => narrow::dots(x, Narrow::new(w), addends),
        HostWeight::Dense(w) => {
            let w = laid(w.clone());
            let w = Matrix::laid(&w);
            if w.col_stride == 1 { dots(Operands { x, w }, addends) } else { in_order(x, w, addends) }
        }
    };
    tensor(y, [rows, out])
}

/// `x·wᵀ` for a weight of which the columns lie without gaps.
fn in_order(x: Matrix<'_>, w: Matrix<'_>, addends: Addends<'_>) -> Vec<f32> {
    let (rows, out) = (x.rows, w.rows);
    let mut y = addends.bias.map_or_else(|| vec![0.0; rows * out], |b| b.repeat(rows));
    add_product(&mut y, x, w.t());
    if let Some(Operands { x, w }) = addends.also {
        add_product(&mut y, x, Matrix::new(&transposed(w), w.cols, out));
    }
    y
}

/// `s·x·Aᵀ`, `[rows, r]`.
fn scaled_down(x: Matrix<'_>, a: &[f32], scaling: f64) -> Vec<f32> {
    let w = Matrix::new(a, a.len() / x.cols, x.cols);
    let mut xa = dots(Operands { x, w }, Addends::default());
    xa.iter_mut().for_each(|v| *v *= scaling as f32);
    xa
}

/// See [`ModelBackend::frozen_transposed`](crate::ModelBackend::frozen_transposed).
pub(super) fn transposed_forward(x: Tensor<Flex, 2>, weight: &HostWeight<Flex>) -> Tensor<Flex, 2> {
    let ([rows, out], [_, k]) = (x.dims(), weight.shape());
    let x = contiguous(x);
    tensor(times_weight(Matrix::new(values(&x), rows, out), weight), [rows, k])
}

/// `x·W`, `[rows, in]`; each row is summed alone.
fn times_weight(x: Matrix<'_>, weight: &HostWeight<Flex>) -> Vec<f32> {
    let y = || vec![0.0; x.rows * weight.shape()[1]];
    match weight {
        HostWeight::Narrow(w) => {
            let mut y = y();
            add_product(&mut y, x, Narrow::new(w));
            y
        }
        HostWeight::Dense(w) => {
            let w = laid(w.clone());
            let w = Matrix::laid(&w);
            if w.col_stride != 1 {
                return dots(Operands { x, w: w.t() }, Addends::default());
            }
            let mut y = y();
            add_product(&mut y, x, w);
            y
        }
    }
}

/// See [`ModelBackend::frozen_linear_backward`](crate::ModelBackend::frozen_linear_backward).
pub(super) fn backward(
    dy: Tensor<Flex, 2>,
    x: Option<Tensor<Flex, 2>>,
    weight: &HostWeight<Flex>,
    lora: Option<LoraRef<'_, Flex>>,
    wants_dx: bool,
) -> LinearGrads<Flex> {
    let ([rows, out], [_, k]) = (dy.dims(), weight.shape());
    let dy = contiguous(dy);
    let dy = Matrix::new(values(&dy), rows, out);
    let mut dx = wants_dx.then(|| times_weight(dy, weight));
    let factors = lora.map(|l| {
        let x = contiguous(x.expect("LoRA's backward pass needs the input"));
        let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
        let (x, a, b) = (Matrix::new(values(&x), rows, k), values(&a), values(&b));
        let r = a.len() / k;
        let mut g = vec![0.0; rows * r];
        add_product(&mut g, dy, Matrix::new(b, out, r));
        g.iter_mut().for_each(|v| *v *= l.scaling as f32);
        let g = Matrix::new(&g, rows, r);
        if let Some(dx) = &mut dx {
            add_product(dx, g, Matrix::new(a, r, k));
        }
        let d_a = times(g.t(), x, 1.0);
        let d_b = times(dy.t(), Matrix::new(&scaled_down(x, a, l.scaling), rows, r), 1.0);
        (tensor(d_a, [r, k]), tensor(d_b, [out, r]))
    });
    (dx.map(|dx| tensor(dx, [rows, k])), factors)
}
