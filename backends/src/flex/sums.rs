//! `g·w` for few rows of `g`, `w` row-major: rows of `w` weighted and added, reading `w` once as it lies.
//!
//! Parts of `w` are summed each for itself and the parts then in order: the result does not depend on the number of threads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::shared::prefetch;

/// Rows of `w` that a part has at least.
const PART: usize = 64;
/// Parts at most.
const PARTS: usize = 8;

/// `g·w` for `g [rows, terms]`, `w [terms, cols]` → `[rows, cols]`.
pub(super) fn sums(g: &[f32], w: &[f32], rows: usize) -> Vec<f32> {
    let terms = g.len() / rows;
    let cols = w.len() / terms;
    let part = terms.div_ceil(PARTS).max(PART).next_multiple_of(4);
    let parts: Vec<Vec<f32>> = w
        .par_chunks(part * cols)
        .enumerate()
        .map(|(i, w)| {
            let mut y = vec![0.0; rows * cols];
            Arch::new().dispatch(Task { g: &g[i * part..], stride: terms, w, y: &mut y, cols });
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

/// A part of the terms; `g` begins at its first, rows `stride` apart.
struct Task<'a> {
    g: &'a [f32],
    stride: usize,
    w: &'a [f32],
    y: &'a mut [f32],
    cols: usize,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (i, w) in self.w.chunks(4 * self.cols).enumerate() {
            let mut rows = [&w[..0]; 4];
            for (row, w) in rows.iter_mut().zip(w.chunks_exact(self.cols)) {
                *row = w;
            }
            for (r, y) in self.y.chunks_exact_mut(self.cols).enumerate() {
                let g = &self.g[r * self.stride + 4 * i..];
                if w.len() == 4 * self.cols {
                    add4(simd, y, [g[0], g[1], g[2], g[3]], rows);
                } else {
                    for (&g, w) in g.iter().zip(w.chunks_exact(self.cols)) {
                        add4(simd, y, [g, 0.0, 0.0, 0.0], [w; 4]);
                    }
                }
            }
        }
    }
}

/// `y += Σ_j g[j]·w[j]`, four rows a pass so that `y` is loaded and stored once for them.
#[inline(always)]
fn add4<S: Simd>(simd: S, y: &mut [f32], g: [f32; 4], w: [&[f32]; 4]) {
    let ahead = 4 * y.len();
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
