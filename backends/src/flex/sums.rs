//! `g·w` for few rows of `g`, `w` row-major: rows of `w` weighted and added, reading `w` once as it lies.
//!
//! Parts of `w` are summed each for itself and the parts then in order: the result does not depend on the number of threads.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::matmul::Matrix;
use super::shared::prefetch;

/// Rows of `w` that a part has at least.
const PART: usize = 64;
/// Parts at most.
const PARTS: usize = 8;

/// `g·w` for `g [rows, terms]`, `w [terms, cols]` → `[rows, cols]`, on all threads; neither transposed.
pub(super) fn sums(g: Matrix<'_>, w: Matrix<'_>) -> Vec<f32> {
    let (rows, cols) = (g.rows, w.cols);
    let part = g.cols.div_ceil(PARTS).max(PART).next_multiple_of(4);
    let parts: Vec<Vec<f32>> = (0..g.cols.div_ceil(part))
        .into_par_iter()
        .map(|i| {
            let terms = i * part..g.cols.min((i + 1) * part);
            let mut y = vec![0.0; rows * cols];
            add_sums(&mut y, cols, 1.0, g, w, terms);
            y
        })
        .collect();
    parts
        .into_iter()
        .reduce(|mut y, part| {
            y.iter_mut().zip(part).for_each(|(y, part)| *y += part);
            y
        })
        .unwrap_or_else(|| vec![0.0; rows * cols])
}

/// `y += scale·g·w` over some of the terms, on the calling thread, rows of `y` being `stride` apart.
pub(super) fn add_sums(
    y: &mut [f32],
    stride: usize,
    scale: f32,
    g: Matrix<'_>,
    w: Matrix<'_>,
    terms: Range<usize>,
) {
    assert!(g.cols == w.rows && terms.end <= w.rows && w.cols <= stride, "matrices of other shapes");
    assert!(g.col_stride == 1 && w.col_stride == 1, "rows with gaps");
    Arch::new().dispatch(Task { y, stride, scale, g, w, terms });
}

/// Some terms of `y += scale·g·w`.
struct Task<'a> {
    y: &'a mut [f32],
    stride: usize,
    scale: f32,
    g: Matrix<'a>,
    w: Matrix<'a>,
    terms: Range<usize>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { y, stride, scale, g, w, terms } = self;
        for term in terms.clone().step_by(4) {
            let mut rows = [w.row(term); 4];
            let count = rows.len().min(terms.end - term);
            for (j, row) in rows.iter_mut().enumerate().take(count) {
                *row = w.row(term + j);
            }
            for (r, y) in y.chunks_mut(stride).enumerate().take(g.rows) {
                let mut gs = [0.0; 4];
                for (to, from) in gs.iter_mut().zip(&g.row(r)[term..term + count]) {
                    *to = scale * from;
                }
                add4(simd, &mut y[..w.cols], gs, rows, 4 * w.row_stride);
            }
        }
    }
}

/// `y += Σ_j g[j]·w[j]`, four rows a pass so that `y` is loaded and stored once for them; the next four are
/// `ahead` elements on.
#[inline(always)]
fn add4<S: Simd>(simd: S, y: &mut [f32], g: [f32; 4], w: [&[f32]; 4], ahead: usize) {
    let (y, y_tail) = S::as_mut_simd_f32s(y);
    let gs = [simd.splat_f32s(g[0]), simd.splat_f32s(g[1]), simd.splat_f32s(g[2]), simd.splat_f32s(g[3])];
    let (w0, t0) = S::as_simd_f32s(w[0]);
    let (w1, t1) = S::as_simd_f32s(w[1]);
    let (w2, t2) = S::as_simd_f32s(w[2]);
    let (w3, t3) = S::as_simd_f32s(w[3]);
    for ((((y, w0), w1), w2), w3) in y.iter_mut().zip(w0).zip(w1).zip(w2).zip(w3) {
        for w in [w0, w1, w2, w3] {
            // The same place in the next four rows.
            prefetch(std::ptr::from_ref(w).cast::<f32>().wrapping_add(ahead));
        }
        let s = simd.mul_add_f32s(gs[0], *w0, *y);
        let s = simd.mul_add_f32s(gs[1], *w1, s);
        let s = simd.mul_add_f32s(gs[2], *w2, s);
        *y = simd.mul_add_f32s(gs[3], *w3, s);
    }
    for (i, y) in y_tail.iter_mut().enumerate() {
        *y += g[0] * t0[i] + g[1] * t1[i] + g[2] * t2[i] + g[3] * t3[i];
    }
}
