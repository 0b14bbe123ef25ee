//! Frozen linear layers with factored LoRA: few rows through [`matvec`](super::matvec), many through `gemm`, the LoRA product
//! added in place.

use burn::backend::Flex;
use burn::prelude::*;
use gemm::{Parallelism, gemm};

use super::matvec::{self, FEW_ROWS};
use super::{contiguous, tensor, values};
use crate::LoraRef;

/// A row-major or transposed matrix in a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `data` as `[rows, cols]`, row-major.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// `data` as `[rows, cols]`, rows `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Whether the last element lies inside the slice.
    fn fits(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// `dst = keep·dst + scale·a·b`, `dst` row-major with rows `dst_stride` apart.
pub(super) fn product(
    dst: &mut [f32],
    dst_stride: usize,
    keep: bool,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    parallel: bool,
) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert!(a.fits() && b.fits(), "a matrix reaches beyond its slice");
    assert!(
        a.rows == 0 || b.cols <= dst_stride && (a.rows - 1) * dst_stride + b.cols <= dst.len(),
        "the product reaches beyond its slice"
    );
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: the assertions above keep every element that is read or written inside its slice, and `dst` is borrowed mutably.
    unsafe {
        gemm(
            a.rows,
            b.cols,
            a.cols,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            keep,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `a · b` with as many threads as it is worth.
fn times(a: Matrix<'_>, b: Matrix<'_>, scale: f32) -> Vec<f32> {
    let mut out = vec![0.0; a.rows * b.cols];
    product(&mut out, b.cols, false, a, b, scale, worth_threads(a, b));
    out
}

fn worth_threads(a: Matrix<'_>, b: Matrix<'_>) -> bool {
    a.rows * a.cols * b.cols > 1 << 20
}

/// See [`ModelBackend::frozen_linear`](crate::ModelBackend::frozen_linear).
pub(super) fn frozen_linear(
    x: Tensor<Flex, 2>,
    weight: &Tensor<Flex, 2>,
    bias: Option<&Tensor<Flex, 1>>,
    lora: Option<LoraRef<'_, Flex>>,
) -> Tensor<Flex, 2> {
    let [rows, cols] = x.dims();
    let out = weight.dims()[0];
    let (x, w) = (contiguous(x), contiguous(weight.clone()));
    let (x, w) = (values(&x), values(&w));
    let mut y = if rows <= FEW_ROWS {
        matvec::times_transposed(x, w, rows)
    } else {
        times(Matrix::new(x, rows, cols), Matrix::new(w, out, cols).t(), 1.0)
    };
    if let Some(bias) = bias {
        let bias = contiguous(bias.clone());
        for row in y.chunks_exact_mut(out) {
            row.iter_mut().zip(values(&bias)).for_each(|(y, b)| *y += b);
        }
    }
    if let Some(l) = lora {
        let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
        let (a, b) = (values(&a), values(&b));
        let r = a.len() / cols;
        let xa = if rows <= FEW_ROWS {
            matvec::times_transposed(x, a, rows)
        } else {
            times(Matrix::new(x, rows, cols), Matrix::new(a, r, cols).t(), 1.0)
        };
        let (xa, bt) = (Matrix::new(&xa, rows, r), Matrix::new(b, out, r).t());
        product(&mut y, out, true, xa, bt, l.scaling as f32, worth_threads(xa, bt));
    }
    tensor(y, [rows, out])
}

/// See [`ModelBackend::frozen_linear_backward`](crate::ModelBackend::frozen_linear_backward).
#[allow(clippy::type_complexity)]
pub(super) fn frozen_linear_backward(
    dy: Tensor<Flex, 2>,
    x: Option<Tensor<Flex, 2>>,
    weight: &Tensor<Flex, 2>,
    lora: Option<LoraRef<'_, Flex>>,
    wants_dx: bool,
) -> (Option<Tensor<Flex, 2>>, Option<(Tensor<Flex, 2>, Tensor<Flex, 2>)>) {
    let [rows, out] = dy.dims();
    let cols = weight.dims()[1];
    let (dy, w) = (contiguous(dy), contiguous(weight.clone()));
    let (dy, w) = (values(&dy), values(&w));
    let dy_m = Matrix::new(dy, rows, out);
    let mut dx = wants_dx.then(|| {
        if rows <= FEW_ROWS {
            matvec::times(dy, w, rows)
        } else {
            times(dy_m, Matrix::new(w, out, cols), 1.0)
        }
    });
    let factors = lora.map(|l| {
        let x = contiguous(x.expect("LoRA's backward pass needs the input"));
        let (a, b) = (contiguous(l.a.clone()), contiguous(l.b.clone()));
        let (x, a, b) = (values(&x), values(&a), values(&b));
        let (r, s) = (a.len() / cols, l.scaling as f32);
        let (x_m, a_m, b_m) = (Matrix::new(x, rows, cols), Matrix::new(a, r, cols), Matrix::new(b, out, r));
        let g = times(dy_m, b_m, s);
        let g_m = Matrix::new(&g, rows, r);
        if let Some(dx) = &mut dx {
            product(dx, cols, true, g_m, a_m, 1.0, worth_threads(g_m, a_m));
        }
        let xa = times(x_m, a_m.t(), s);
        let da = times(g_m.t(), x_m, 1.0);
        let db = times(dy_m.t(), Matrix::new(&xa, rows, r), 1.0);
        (tensor(da, [r, cols]), tensor(db, [out, r]))
    });
    (dx.map(|dx| tensor(dx, [rows, cols])), factors)
}
