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

    /// Adds the products of the rows `r..r + R` of `x` with [`TILE`] rows from `o` on, lane by lane and vectors in order, to `acc`; in place of
    /// rows that do not exist, the last one counts again. To be inlined always.
    fn accumulate<S: Widen, const R: usize>(
        &self,
        simd: S,
        x: Matrix<'_>,
        r: usize,
        o: usize,
        acc: &mut [[S::f32s; TILE]; R],
    );
}

/// Rows of a weight that are multiplied at once.
pub(super) const TILE: usize = 4;

/// Most rows of the other side that are multiplied with them at once.
const TALLEST: usize = 6;

impl Rows for Matrix<'_> {
    fn shape(&self) -> [usize; 2] {
        assert!(self.col_stride == 1, "rows with gaps");
        [self.rows, self.cols]
    }

    #[inline(always)]
    fn accumulate<S: Widen, const R: usize>(
        &self,
        simd: S,
        x: Matrix<'_>,
        r: usize,
        o: usize,
        acc: &mut [[S::f32s; TILE]; R],
    ) {
        accumulate::<S, R, false>(*self, simd, x, r, o, acc);
    }
}

/// A matrix whose rows are read once, so that they are not in a cache: the next ones are asked for ahead. Where they are, that costs as much
/// as a product.
#[derive(Clone, Copy)]
struct Once<'a>(Matrix<'a>);

impl Rows for Once<'_> {
    fn shape(&self) -> [usize; 2] {
        Rows::shape(&self.0)
    }

    #[inline(always)]
    fn accumulate<S: Widen, const R: usize>(
        &self,
        simd: S,
        x: Matrix<'_>,
        r: usize,
        o: usize,
        acc: &mut [[S::f32s; TILE]; R],
    ) {
        accumulate::<S, R, true>(self.0, simd, x, r, o, acc);
    }
}

/// See [`Rows::accumulate`].
#[inline(always)]
fn accumulate<S: Widen, const R: usize, const ONCE: bool>(
    w: Matrix<'_>,
    simd: S,
    x: Matrix<'_>,
    r: usize,
    o: usize,
    acc: &mut [[S::f32s; TILE]; R],
) {
    let xs = vectors::<S, R>(x, r);
    let mut ws = [S::as_simd_f32s(&[]); TILE];
    for (j, ws) in ws.iter_mut().enumerate() {
        *ws = S::as_simd_f32s(w.row((o + j).min(w.rows - 1)));
    }
    let ahead = TILE * w.row_stride;
    for i in 0..w.cols / S::F32_LANES {
        let mut of_x = [simd.splat_f32s(0.0); R];
        for j in 0..R {
            // SAFETY: every row has `cols / F32_LANES` vectors.
            of_x[j] = unsafe { *xs[j].0.get_unchecked(i) };
        }
        for o in 0..TILE {
            if ONCE {
                // The same place in the rows of the next tile.
                prefetch(ws[o].0.as_ptr().wrapping_add(i).cast::<f32>().wrapping_add(ahead));
            }
            // SAFETY: as above.
            let w = unsafe { *ws[o].0.get_unchecked(i) };
            for j in 0..R {
                acc[j][o] = simd.mul_add_f32s(w, of_x[j], acc[j][o]);
            }
        }
    }
    if !w.cols.is_multiple_of(S::F32_LANES) {
        for o in 0..TILE {
            let w = simd.partial_load_f32s(ws[o].1);
            for j in 0..R {
                acc[j][o] = simd.mul_add_f32s(w, simd.partial_load_f32s(xs[j].1), acc[j][o]);
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
    ranges(w.rows, TILE, x.rows * w.rows * x.cols).into_par_iter().for_each(|outs| {
        let product = Operands { x, w: w.of_rows(outs.clone()) };
        run_on_rows(product, addends.of(outs.clone()), shared, w.rows, outs.start);
    });
    y
}

/// `y[r, o] = Σ_i x[r, i]·w[o, i]` on the calling thread, rows of `y` being `stride` apart.
pub(super) fn dots_into(y: &mut [f32], stride: usize, operands: Operands<'_>) {
    run_on_rows(operands, Addends::default(), Shared::new(y), stride, 0);
}

/// Runs the [`Task`] of these operands.
fn run_on_rows(product: Operands<'_>, addends: Addends<'_>, y: Shared<'_>, stride: usize, at: usize) {
    let Operands { x, w } = product;
    if x.rows > TALLEST {
        Task::new(product, addends, y, stride, at).run();
    } else {
        Task::new(Operands { x, w: Once(w) }, addends, y, stride, at).run();
    }
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

/// Numbers of `x` that are used again from the second-level cache by each tile of `w`, which stays in the first-level one meanwhile.
const CACHED: usize = 32 * 1024;

impl<W: Rows> Kernel for Task<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Widen>(self, simd: S) {
        let (rows, [out, k]) = (self.product.x.rows, self.product.w.shape());
        // As many sums as there are registers for, beside what they are made of.
        let tallest = if S::REGISTER_COUNT >= 32 { TALLEST } else { 3 };
        let block = (CACHED / k.max(1)).next_multiple_of(tallest).max(tallest);
        for start in (0..rows).step_by(block) {
            let end = rows.min(start + block);
            for o in (0..out).step_by(TILE) {
                let mut r = start;
                while r < end {
                    let height = (end - r).div_ceil((end - r).div_ceil(tallest));
                    match height {
                        1 => self.tile::<S, 1>(simd, r, o),
                        2 => self.tile::<S, 2>(simd, r, o),
                        3 => self.tile::<S, 3>(simd, r, o),
                        4 if S::REGISTER_COUNT >= 32 => self.tile::<S, 4>(simd, r, o),
                        5 if S::REGISTER_COUNT >= 32 => self.tile::<S, 5>(simd, r, o),
                        _ if S::REGISTER_COUNT >= 32 => self.tile::<S, 6>(simd, r, o),
                        _ => unreachable!("no tile is taller"),
                    }
                    r += height;
                }
            }
        }
    }
}

impl<W: Rows> Task<'_, W> {
    /// Rows `r..r + R` of `x` times [`TILE`] rows of `w` from `o` on.
    #[inline(always)]
    fn tile<S: Widen, const R: usize>(&self, simd: S, r: usize, o: usize) {
        let Self { product, addends, .. } = self;
        let mut acc = [[simd.splat_f32s(0.0); TILE]; R];
        product.w.accumulate::<S, R>(simd, product.x, r, o, &mut acc);
        if let Some(also) = &addends.also {
            also.w.accumulate::<S, R>(simd, also.x, r, o, &mut acc);
        }
        let count = TILE.min(product.w.shape()[0] - o);
        for (j, acc) in acc.iter().enumerate() {
            let mut sums = reduce(simd, acc);
            if let Some(bias) = addends.bias {
                sums.iter_mut().zip(&bias[o..]).for_each(|(sum, bias)| *sum += bias);
            }
            // SAFETY: `r + j < rows` and `o + count <= out`; this task alone writes its columns.
            let y = unsafe { self.y.slice((r + j) * self.stride + self.at + o, count) };
            y.copy_from_slice(&sums[..count]);
        }
    }
}

/// The sum over the lanes of each of four vectors.
#[inline(always)]
fn reduce<S: Simd>(simd: S, vectors: &[S::f32s; TILE]) -> [f32; TILE] {
    let mut sums = [0.0; TILE];
    if S::F32_LANES == 1 {
        sums.copy_from_slice(bytemuck::cast_slice(vectors));
        return sums;
    }
    // Four vectors at once: each four lanes of the sum of their transposes belong to the four in turn.
    let [a, b, c, d] = simd.deinterleave_shfl_f32s(*vectors);
    let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
    for four in bytemuck::cast_slice::<_, f32>(&[sum]).chunks_exact(TILE) {
        sums.iter_mut().zip(four).for_each(|(sum, x)| *sum += x);
    }
    sums
}
