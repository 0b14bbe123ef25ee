//! `g·w`, `w` row-major: rows of `w` weighted and added, reading `w` once as it lies.
//!
//! An element is summed in the same order whatever the number of rows, columns or threads, and however `w` is stored: one running sum a chunk
//! of terms, a fused multiply-add each, and the chunks' sums in order.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::instructions::arch;
use super::matmul::{Matrix, product, worth_threads};
use super::narrow::Narrow;
use super::shared::{Shared, prefetch, ranges};

/// Terms of a chunk: a quarter of all, so that few are summed one after the other and rounding stays small, within these bounds. `gemm` is
/// sure to take as many in one pass, in order.
const CHUNK: (usize, usize) = (16, 256);

/// Up to this many rows, adding rows of `w` is faster than packing them for `gemm`.
const FEW_ROWS: usize = 12;

/// Elements of a partial result that stay in the first-level cache.
const CACHED: usize = 4096;

/// The chunks of `terms` terms, of nearly equal length.
fn chunks(terms: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let count = terms.div_ceil(terms.div_ceil(4).clamp(CHUNK.0, CHUNK.1)).max(1);
    (0..count).map(move |i| i * terms / count..(i + 1) * terms / count)
}

/// Rows that are weighted and added.
pub(super) trait Terms: Copy + Sync {
    /// `[terms, columns]`
    fn shape(&self) -> [usize; 2];

    /// Columns between two places where a row can be taken apart.
    fn step(&self) -> usize;

    /// Terms that are got at once, of so many that are needed; at least one.
    fn at_once(&self, terms: usize) -> usize;

    /// Some terms and columns, in `buffer` where they are not in memory.
    fn part<'a>(&'a self, terms: Range<usize>, cols: Range<usize>, buffer: &'a mut Vec<f32>) -> Matrix<'a>;
}

impl Terms for Matrix<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn step(&self) -> usize {
        16
    }

    fn at_once(&self, terms: usize) -> usize {
        terms.max(1)
    }

    fn part<'a>(&'a self, terms: Range<usize>, cols: Range<usize>, _buffer: &'a mut Vec<f32>) -> Matrix<'a> {
        self.of_rows(terms).of_cols(cols)
    }
}

impl Terms for Narrow<'_> {
    fn shape(&self) -> [usize; 2] {
        Self::shape(self)
    }

    fn step(&self) -> usize {
        Self::step(self)
    }

    fn at_once(&self, _terms: usize) -> usize {
        // As many as are added before a result is stored: with as many columns, they stay in the first-level cache.
        4
    }

    fn part<'a>(&'a self, terms: Range<usize>, cols: Range<usize>, buffer: &'a mut Vec<f32>) -> Matrix<'a> {
        self.widen(terms, cols, buffer)
    }
}

/// `y += g·w` for `g [rows, terms]`, `w [terms, cols]`, `y [rows, cols]`, on all threads; neither transposed.
pub(super) fn add_product(y: &mut [f32], g: Matrix<'_>, w: impl Terms) {
    let [terms, cols] = w.shape();
    assert_eq!((y.len(), g.cols), (g.rows * cols, terms), "matrices of other shapes");
    // `gemm` has other orders for vectors and for one or two terms.
    if g.rows <= FEW_ROWS || cols == 1 || g.cols <= 2 {
        let shared = Shared::new(y);
        ranges(cols, w.step(), g.rows * cols * terms)
            .into_par_iter()
            .for_each(|cols| add_to_columns(shared, cols, g, w));
    } else {
        let mut buffer = Vec::new();
        for terms in chunks(g.cols) {
            let (g, w) = (g.of_cols(terms.clone()), w.part(terms, 0..cols, &mut buffer));
            product(y, cols, true, g, w, 1.0, worth_threads(g, w));
        }
    }
}

/// The columns `cols` of [`add_product`], on the calling thread, which alone writes them.
fn add_to_columns(y: Shared<'_>, cols: Range<usize>, g: Matrix<'_>, w: impl Terms) {
    let [all_terms, stride] = w.shape();
    let width = (CACHED / g.rows.max(1)).next_multiple_of(w.step().max(64)).min(cols.len().max(1));
    let (mut sums, mut buffer) = (vec![0.0; g.rows * width], Vec::new());
    for from in cols.clone().step_by(width) {
        let cols = from..cols.end.min(from + width);
        for terms in chunks(all_terms) {
            sums.fill(0.0);
            for from in terms.clone().step_by(w.at_once(terms.len())) {
                let terms = from..terms.end.min(from + w.at_once(terms.len()));
                let part = w.part(terms.clone(), cols.clone(), &mut buffer);
                add_sums(&mut sums, width, g.of_cols(terms), part);
            }
            for (r, sums) in sums.chunks_exact(width).enumerate() {
                // SAFETY: `r < rows` and `cols` are columns of the result that no other task writes.
                let y = unsafe { y.slice(r * stride + cols.start, cols.len()) };
                y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
            }
        }
    }
}

/// `y += g·w` in order of terms, a fused multiply-add each, on the calling thread; rows of `y` are `stride` apart.
fn add_sums(y: &mut [f32], stride: usize, g: Matrix<'_>, w: Matrix<'_>) {
    assert!(g.cols == w.rows && w.cols <= stride, "matrices of other shapes");
    assert!(g.col_stride == 1 && w.col_stride == 1, "rows with gaps");
    arch().dispatch(Task { y, stride, g, w });
}

/// `y += g·w`.
struct Task<'a> {
    y: &'a mut [f32],
    stride: usize,
    g: Matrix<'a>,
    w: Matrix<'a>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for term in (0..self.w.rows).step_by(4) {
            let mut r = 0;
            while r < self.g.rows {
                r += match self.g.rows - r {
                    4.. if S::REGISTER_COUNT >= 32 => self.strip::<S, 4>(simd, r, term),
                    2.. => self.strip::<S, 2>(simd, r, term),
                    _ => self.strip::<S, 1>(simd, r, term),
                };
            }
        }
    }
}

impl Task<'_> {
    /// Adds up to four terms from `term` to the rows `r..r + R`, so that `y` is loaded and stored once for them; returns `R`.
    #[inline(always)]
    fn strip<S: Simd, const R: usize>(&mut self, simd: S, r: usize, term: usize) -> usize {
        let Self { stride, g, w, .. } = *self;
        let count = (w.rows - term).min(4);
        let mut gs = [[simd.splat_f32s(0.0); 4]; R];
        for (j, gs) in gs.iter_mut().enumerate() {
            let row = &g.row(r + j)[term..term + count];
            for (t, to) in gs.iter_mut().enumerate() {
                // What is missing of four counts nothing.
                *to = simd.splat_f32s(row.get(t).copied().unwrap_or(0.0));
            }
        }
        let mut ws = [S::as_simd_f32s(&[]); 4];
        for (j, to) in ws.iter_mut().enumerate() {
            *to = S::as_simd_f32s(w.row(term + j.min(count - 1)));
        }
        let mut rows = self.y[r * stride..].chunks_mut(stride);
        let mut ys: [(&mut [S::f32s], &mut [f32]); R] = std::array::from_fn(
            #[inline(always)]
            |_| S::as_mut_simd_f32s(&mut rows.next().expect("a row of the result")[..w.cols]),
        );
        // The same place in the next four rows.
        let ahead = 4 * w.row_stride;
        for i in 0..ws[0].0.len() {
            let mut of_w = [simd.splat_f32s(0.0); 4];
            for (to, w) in of_w.iter_mut().zip(&ws) {
                prefetch(w.0.as_ptr().wrapping_add(i).cast::<f32>().wrapping_add(ahead));
                // SAFETY: every row has as many vectors.
                *to = unsafe { *w.0.get_unchecked(i) };
            }
            for (y, gs) in ys.iter_mut().zip(&gs) {
                // SAFETY: as above.
                let y = unsafe { y.0.get_unchecked_mut(i) };
                *y = add4(simd, gs, &of_w, *y);
            }
        }
        if !ws[0].1.is_empty() {
            let mut of_w = [simd.splat_f32s(0.0); 4];
            for (to, w) in of_w.iter_mut().zip(&ws) {
                *to = simd.partial_load_f32s(w.1);
            }
            for (y, gs) in ys.iter_mut().zip(&gs) {
                let sum = add4(simd, gs, &of_w, simd.partial_load_f32s(y.1));
                simd.partial_store_f32s(y.1, sum);
            }
        }
        R
    }
}

/// `y + Σ_j g[j]·w[j]`, in order.
#[inline(always)]
fn add4<S: Simd>(simd: S, g: &[S::f32s; 4], w: &[S::f32s; 4], mut y: S::f32s) -> S::f32s {
    for (g, w) in g.iter().zip(w) {
        y = simd.mul_add_f32s(*g, *w, y);
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    /// The order that all ways to the product share.
    fn in_order(y: &mut [f32], g: &[f32], w: &[f32], [rows, terms, cols]: [usize; 3]) {
        for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
            for each in chunks(terms) {
                y[r * cols + c] += each.fold(0.0f32, |sum, i| g[r * terms + i].mul_add(w[i * cols + c], sum));
            }
        }
    }

    #[test]
    fn few_and_many_rows_are_summed_in_one_order() {
        for rows in [0, 1, 2, 3, 5, 8, FEW_ROWS, FEW_ROWS + 1, 31, 64, 200] {
            for (terms, cols) in [
                (0, 5),
                (1, 40),
                (2, 33),
                (3, 1),
                (3, 2),
                (8, 96),
                (64, 17),
                (70, 33),
                (515, 65),
                (1537, 100),
                (576, 192),
            ] {
                let (g, w) = (numbers(rows * terms, 1), numbers(terms * cols, 2));
                let mut want = numbers(rows * cols, 3);
                let mut got = want.clone();
                in_order(&mut want, &g, &w, [rows, terms, cols]);
                add_product(&mut got, Matrix::new(&g, rows, terms), Matrix::new(&w, terms, cols));
                assert!(got == want, "{rows} rows, {terms} terms, {cols} columns");
            }
        }
    }
}
