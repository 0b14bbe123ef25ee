//! `x·wᵀ`, both operands row-major: every element is a dot product of two rows as they lie, so that neither is packed nor
//! transposed, and few rows cost no more than reading the weight once.
//!
//! An element is summed in the same order whatever the number of rows, threads or tiles, and however the weight is stored: batched equals
//! unbatched bit for bit.

use std::ops::Range;

use pulp::{Simd, bytemuck};
use rayon::prelude::*;

use super::instructions::{Kernel, run};
use super::matmul::Matrix;
use super::shared::{Shared, prefetch, ranges};
use super::widen::Widen;

/// Two matrices of which all pairs of rows are multiplied, `x [rows, k]` and `w [out, k]`; neither transposed.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, W = Matrix<'a>> {
    pub x: Matrix<'a>,
    pub w: W,
}

/// Rows of a weight, however they are stored.
pub(super) trait Rows: Copy + Sync {
    /// `[rows, columns]`
    fn shape(&self) -> [usize; 2];

    /// Adds the products of the rows `r..r + R` of `x` with the rows `o..o + O`, lane by lane and vectors in order, to `acc`; rows after `last`
    /// are `last` again. To be inlined always.
    fn accumulate<S: Widen, const O: usize, const R: usize>(
        &self,
        simd: S,
        x: Matrix<'_>,
        r: usize,
        o_last: [usize; 2],
        acc: &mut [[S::f32s; O]; R],
    );
}

impl Rows for Matrix<'_> {
    fn shape(&self) -> [usize; 2] {
        assert!(self.col_stride == 1, "rows with gaps");
        [self.rows, self.cols]
    }

    #[inline(always)]
    fn accumulate<S: Widen, const O: usize, const R: usize>(
        &self,
        simd: S,
        x: Matrix<'_>,
        r: usize,
        [o, last]: [usize; 2],
        acc: &mut [[S::f32s; O]; R],
    ) {
        let xs = vectors::<S, R>(x, r);
        let mut ws = [S::as_simd_f32s(&[]); O];
        for (j, ws) in ws.iter_mut().enumerate() {
            *ws = S::as_simd_f32s(self.row((o + j).min(last)));
        }
        let ahead = O * self.row_stride;
        for i in 0..self.cols / S::F32_LANES {
            for o in 0..O {
                // The same place in the rows of the next tile.
                prefetch(ws[o].0.as_ptr().wrapping_add(i).cast::<f32>().wrapping_add(ahead));
                // SAFETY: every row has `cols / F32_LANES` vectors.
                let w = unsafe { *ws[o].0.get_unchecked(i) };
                for j in 0..R {
                    // SAFETY: as above.
                    let x = unsafe { *xs[j].0.get_unchecked(i) };
                    acc[j][o] = simd.mul_add_f32s(w, x, acc[j][o]);
                }
            }
        }
        if self.cols % S::F32_LANES != 0 {
            for o in 0..O {
                let w = simd.partial_load_f32s(ws[o].1);
                for j in 0..R {
                    acc[j][o] = simd.mul_add_f32s(w, simd.partial_load_f32s(xs[j].1), acc[j][o]);
                }
            }
        }
    }
}

/// The rows `r..r + R` of `x` in vectors, and what is left of each.
#[inline(always)]
pub(super) fn vectors<'a, S: Simd, const R: usize>(
    x: Matrix<'a>,
    r: usize,
) -> [(&'a [S::f32s], &'a [f32]); R] {
    let mut xs = [S::as_simd_f32s(&[]); R];
    for (j, xs) in xs.iter_mut().enumerate() {
        *xs = S::as_simd_f32s(x.row(r + j));
    }
    xs
}

/// `y[r, o] = Σ_i x[r, i]·w[o, i]` and what is added → `[rows, out]`, on all threads.
pub(super) fn dots(product: Operands<'_>, addends: Addends<'_>) -> Vec<f32> {
    let Operands { x, w } = product;
    let mut y = vec![0.0; x.rows * w.rows];
    let shared = Shared::new(&mut y);
    ranges(w.rows, 8, x.rows * w.rows * x.cols).into_par_iter().for_each(|outs| {
        let product = Operands { x, w: w.of_rows(outs.clone()) };
        Task::new(product, addends.of(outs.clone()), shared, w.rows, outs.start).run();
    });
    y
}

/// `y[r, o] = Σ_i x[r, i]·w[o, i]` on the calling thread, rows of `y` being `stride` apart.
pub(super) fn dots_into(y: &mut [f32], stride: usize, operands: Operands<'_>) {
    Task::new(operands, Addends::default(), Shared::new(y), stride, 0).run();
}

/// What is added to a product `[rows, out]`.
#[derive(Clone, Copy, Default)]
pub(super) struct Addends<'a> {
    /// Another product of the same shape.
    pub also: Option<Operands<'a>>,
    /// `[out]`
    pub bias: Option<&'a [f32]>,
}

impl Addends<'_> {
    /// What is added to the columns `outs`.
    pub fn of(self, outs: Range<usize>) -> Self {
        let also = self.also.map(|Operands { x, w }| Operands { x, w: w.of_rows(outs.clone()) });
        Self { also, bias: self.bias.map(|b| &b[outs]) }
    }
}

/// A product, the columns `at..` of `y`.
pub(super) struct Task<'a, W> {
    product: Operands<'a, W>,
    addends: Addends<'a>,
    y: Shared<'a>,
    stride: usize,
    at: usize,
}

impl<'a, W: Rows> Task<'a, W> {
    /// A task whose bounds have been checked.
    pub fn new(
        product: Operands<'a, W>,
        addends: Addends<'a>,
        y: Shared<'a>,
        stride: usize,
        at: usize,
    ) -> Self {
        let (rows, [out, k]) = (product.x.rows, product.w.shape());
        let fits = |x: Matrix<'_>, [w_rows, w_cols]: [usize; 2]| {
            x.rows == rows && x.cols == w_cols && w_rows == out && x.col_stride == 1
        };
        assert!(fits(product.x, [out, k]), "operands of other shapes");
        assert!(
            addends.also.is_none_or(|l| fits(l.x, Rows::shape(&l.w))),
            "another product of another shape"
        );
        assert!(addends.bias.is_none_or(|b| b.len() == out), "a bias of another shape");
        assert!(
            rows == 0 || at + out <= stride && (rows - 1) * stride + at + out <= y.len(),
            "a result of another shape"
        );
        Self { product, addends, y, stride, at }
    }

    /// Computes on the calling thread, which alone writes these columns.
    pub fn run(self) {
        run(self);
    }
}

/// Rows of `w` that are used again from the second-level cache by each strip of `x`.
pub(super) const BLOCK: usize = 32;

impl<W: Rows> Kernel for Task<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Widen>(self, simd: S) {
        // As many sums as there are registers for, beside what they are made of.
        let tallest = if S::REGISTER_COUNT >= 32 { 6 } else { 3 };
        let [out, _] = self.product.w.shape();
        for start in (0..out).step_by(BLOCK) {
            let block = start..out.min(start + BLOCK);
            let mut r = 0;
            while r < self.product.x.rows {
                let left = self.product.x.rows - r;
                let height = left.div_ceil(left.div_ceil(tallest));
                match height {
                    1 => self.strip::<S, 8, 1>(simd, r, &block),
                    2 => self.strip::<S, 4, 2>(simd, r, &block),
                    3 => self.strip::<S, 4, 3>(simd, r, &block),
                    4 if S::REGISTER_COUNT >= 32 => self.strip::<S, 4, 4>(simd, r, &block),
                    5 if S::REGISTER_COUNT >= 32 => self.strip::<S, 4, 5>(simd, r, &block),
                    _ if S::REGISTER_COUNT >= 32 => self.strip::<S, 4, 6>(simd, r, &block),
                    _ => unreachable!("no strip is taller"),
                }
                r += height;
            }
        }
    }
}

impl<W: Rows> Task<'_, W> {
    /// Rows `r..r + R` of `x` times the rows `outs` of `w`, `O` at a time, which is a multiple of four.
    #[inline(always)]
    fn strip<S: Widen, const O: usize, const R: usize>(&self, simd: S, r: usize, outs: &Range<usize>) {
        let Self { product, addends, .. } = self;
        for o in outs.clone().step_by(O) {
            let (count, rows) = (O.min(outs.end - o), [o, outs.end - 1]);
            let mut acc = [[simd.splat_f32s(0.0); O]; R];
            product.w.accumulate::<S, O, R>(simd, product.x, r, rows, &mut acc);
            if let Some(also) = &addends.also {
                also.w.accumulate::<S, O, R>(simd, also.x, r, rows, &mut acc);
            }
            for (j, acc) in acc.iter().enumerate() {
                let mut sums = reduce::<S, O>(simd, acc);
                if let Some(bias) = addends.bias {
                    sums.iter_mut().zip(&bias[o..]).for_each(|(sum, bias)| *sum += bias);
                }
                // SAFETY: `r + j < rows` and `o + count <= out`; this task alone writes its columns.
                let y = unsafe { self.y.slice((r + j) * self.stride + self.at + o, count) };
                y.copy_from_slice(&sums[..count]);
            }
        }
    }
}

/// The sum over the lanes of each of `O` vectors.
#[inline(always)]
fn reduce<S: Simd, const O: usize>(simd: S, vectors: &[S::f32s; O]) -> [f32; O] {
    let mut sums = [0.0; O];
    for (sums, vectors) in sums.chunks_exact_mut(4).zip(vectors.chunks_exact(4)) {
        if S::F32_LANES == 1 {
            sums.copy_from_slice(bytemuck::cast_slice(vectors));
            continue;
        }
        // Four vectors at once: each four lanes of the sum of their transposes belong to the four in turn.
        let [a, b, c, d] = simd.deinterleave_shfl_f32s([vectors[0], vectors[1], vectors[2], vectors[3]]);
        let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        for four in bytemuck::cast_slice::<_, f32>(&[sum]).chunks_exact(4) {
            sums.iter_mut().zip(four).for_each(|(sum, x)| *sum += x);
        }
    }
    sums
}
