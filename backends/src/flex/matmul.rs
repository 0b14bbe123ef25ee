//! Matrices in slices, and products of them that the `gemm` crate does best.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use gemm::{Parallelism, gemm};
use rayon::prelude::*;

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

    /// A [`laid`](super::laid) tensor.
    pub fn laid(t: &'a FlexTensor) -> Self {
        let [rows, cols] = [t.layout().shape()[0], t.layout().shape()[1]];
        let data = &t.storage()[t.layout().start_offset()..];
        match t.layout().strides() {
            [1, stride] if *stride == rows as isize && cols > 1 && rows > 1 => {
                Self::new(data, cols, rows).t()
            }
            _ => Self::new(data, rows, cols),
        }
    }

    /// Row `i` of a matrix that is not transposed.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.row_stride..][..self.cols]
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

    /// The columns `cols`.
    pub fn of_cols(self, cols: Range<usize>) -> Self {
        Self {
            data: &self.data[(cols.start * self.col_stride).min(self.data.len())..],
            cols: cols.len(),
            ..self
        }
    }

    /// The rows `rows`.
    pub fn of_rows(self, rows: Range<usize>) -> Self {
        self.t().of_cols(rows).t()
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

/// `scale·a·b` with as many threads as it is worth.
pub(super) fn times(a: Matrix<'_>, b: Matrix<'_>, scale: f32) -> Vec<f32> {
    let mut out = vec![0.0; a.rows * b.cols];
    product(&mut out, b.cols, false, a, b, scale, worth_threads(a, b));
    out
}

/// Whether a product is large enough for more threads than one.
pub(super) fn worth_threads(a: Matrix<'_>, b: Matrix<'_>) -> bool {
    a.rows * a.cols * b.cols > 1 << 20
}

/// Rows and columns of a matrix that are copied together, so that both sides stay in the first-level cache.
const SQUARE: usize = 16;

/// Elements that are copied in less time than another thread takes to begin.
const WORTH_A_TASK: usize = 32 * 1024;

/// The transpose of a row-major matrix, row-major.
pub(super) fn transposed(x: Matrix<'_>) -> Vec<f32> {
    let mut y = vec![0.0; x.rows * x.cols];
    let size = (SQUARE * x.rows).max(1);
    let least = WORTH_A_TASK.div_ceil(size);
    y.par_chunks_mut(size).enumerate().with_min_len(least).for_each(|(i, y)| {
        let height = y.len() / x.rows;
        for from in (0..x.rows).step_by(SQUARE) {
            let to = x.rows.min(from + SQUARE);
            for r in from..to {
                let row = &x.row(r)[i * SQUARE..][..height];
                row.iter().enumerate().for_each(|(c, v)| y[c * x.rows + r] = *v);
            }
        }
    });
    y
}
