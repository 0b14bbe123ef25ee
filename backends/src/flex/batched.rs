//! Products of matrices that lie in any number of leading dimensions.
//!
//! Each row of a result is summed in an order of its own: with a transposed right side as [`dots`](super::dots) does, with a row-major
//! one over the terms in order, so that terms of 0 change nothing. A transposed left side, as gradients of parameters have, is left to `gemm`.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use rayon::prelude::*;

use super::dots::{Addends, Operands, dots};
use super::matmul::{Matrix, product, worth_threads};
use super::shared::{Shared, ranges};
use super::tensor;
use super::weighted::add_weighted;

/// Terms that are summed one after the other at most: more than a rollout has, and few enough to stay exact.
const CHAIN: usize = 8192;

/// Matrices of a tensor `[.., rows, cols]`.
struct Matrices {
    tensor: FlexTensor,
    /// Where each matrix begins.
    offsets: Vec<usize>,
}

impl Matrices {
    /// The matrices of `x`, copied where neither rows nor columns lie without gaps.
    fn new<const D: usize>(x: Tensor<Flex, D>) -> Self {
        let t = x.into_primitive().tensor();
        let s = t.layout().strides();
        let usable = s.iter().all(|&s| s >= 0) && (s[D - 1] == 1 || s[D - 2] == 1);
        let tensor = if usable { t } else { t.to_contiguous() };
        let layout = tensor.layout();
        let mut offsets = vec![layout.start_offset()];
        for (&n, &stride) in layout.shape().iter().zip(layout.strides()).take(D - 2) {
            let each = offsets.iter().flat_map(|&at| (0..n).map(move |i| at + i * stride as usize));
            offsets = each.collect();
        }
        Self { tensor, offsets }
    }

    fn get(&self, i: usize) -> Matrix<'_> {
        let layout = self.tensor.layout();
        let d = layout.num_dims();
        Matrix {
            data: &self.tensor.storage()[self.offsets[i]..],
            rows: layout.shape()[d - 2],
            cols: layout.shape()[d - 1],
            row_stride: layout.strides()[d - 2] as usize,
            col_stride: layout.strides()[d - 1] as usize,
        }
    }
}

/// See [`ModelBackend::matmul`](crate::ModelBackend::matmul).
pub(super) fn matmul<const D: usize>(a: Tensor<Flex, D>, b: Tensor<Flex, D>) -> Tensor<Flex, D> {
    let mut shape = a.dims();
    assert_eq!(shape[..D - 2], b.dims()[..D - 2], "the leading dimensions of a matrix product");
    assert_eq!(shape[D - 1], b.dims()[D - 2], "inner dimensions");
    shape[D - 1] = b.dims()[D - 1];
    let (a, b) = (Matrices::new(a), Matrices::new(b));
    let mut y = vec![0.0; shape.iter().product()];
    let size = (shape[D - 2] * shape[D - 1]).max(1);
    y.par_chunks_mut(size).enumerate().for_each(|(i, y)| one(y, a.get(i), b.get(i)));
    tensor(y, shape)
}

/// Rows of a result that a task writes.
const ROWS: usize = 48;

/// `a·b` into `y`, which is 0.
fn one(y: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    if a.col_stride != 1 {
        product(y, b.cols, false, a, b, 1.0, worth_threads(a, b));
    } else if b.col_stride != 1 {
        y.copy_from_slice(&dots(Operands { x: a, w: b.t() }, Addends::default()));
    } else {
        y.par_chunks_mut(ROWS * b.cols).enumerate().for_each(|(i, y)| {
            let from = i * ROWS;
            in_order(y, a.of_rows(from..a.rows.min(from + ROWS)), b);
        });
    }
}

/// `a·b` into `y`, which is 0, both row-major, summed over the terms in order.
fn in_order(y: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    let shared = Shared::new(y);
    ranges(b.cols, 64, a.rows * a.cols * b.cols).into_par_iter().for_each(|cols| {
        let mut sums = vec![0.0; a.rows * cols.len()];
        for from in (0..a.cols).step_by(CHAIN) {
            let terms = from..a.cols.min(from + CHAIN);
            let w = b.of_rows(terms.clone()).of_cols(cols.clone());
            sums.fill(0.0);
            add_weighted(&mut sums, cols.len(), a.of_cols(terms), w);
            for (r, sums) in sums.chunks_exact(cols.len()).enumerate() {
                // SAFETY: `r < rows` and `cols` are columns of the result that no other task writes.
                let y = unsafe { shared.slice(r * b.cols + cols.start, cols.len()) };
                y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
            }
        }
    });
}
