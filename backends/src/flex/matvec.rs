//! Few rows times a frozen weight: limited by reading the weight once, so read by all cores, in vector registers, once for
//! all rows.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Up to this many rows the weight's memory traffic dominates, and these kernels beat a blocked matrix product.
pub(super) const FEW_ROWS: usize = 8;

/// Weights smaller than this are not worth waking another core for.
const PARALLEL_ELEMENTS: usize = 32 * 1024;

/// `y[r, o] = Σ_i x[r, i]·w[o, i]`; `x [rows, in]`, `w [out, in]` → `[rows, out]`.
pub(super) fn times_transposed(x: &[f32], w: &[f32], rows: usize) -> Vec<f32> {
    let cols = x.len() / rows;
    let out = w.len() / cols;
    // Output-major, so that each task writes a range of its own.
    let mut y = vec![0.0f32; out * rows];
    let kernel = |(y, w): (&mut [f32], &[f32])| Arch::new().dispatch(Dots { x, w, y, rows, cols });
    if w.len() < PARALLEL_ELEMENTS {
        kernel((&mut y, w));
    } else {
        let step = out.div_ceil(rayon::current_num_threads()).next_multiple_of(4);
        y.par_chunks_mut(step * rows).zip(w.par_chunks(step * cols)).for_each(kernel);
    }
    if rows == 1 {
        return y;
    }
    let mut t = vec![0.0f32; out * rows];
    for (o, of_rows) in y.chunks_exact(rows).enumerate() {
        for (r, &v) in of_rows.iter().enumerate() {
            t[r * out + o] = v;
        }
    }
    t
}

/// `dx[r, i] = Σ_o dy[r, o]·w[o, i]`; `dy [rows, out]`, `w [out, in]` → `[rows, in]`.
///
/// Tasks own columns, and each column sums over `o` in order: the result does not depend on how columns are split.
pub(super) fn times(dy: &[f32], w: &[f32], rows: usize) -> Vec<f32> {
    let out = dy.len() / rows;
    let cols = w.len() / out;
    if w.len() < PARALLEL_ELEMENTS {
        let mut dx = vec![0.0f32; rows * cols];
        Arch::new().dispatch(Sums { dy, w, dx: &mut dx, rows, cols, from: 0, width: cols });
        return dx;
    }
    let width = cols.div_ceil(rayon::current_num_threads()).next_multiple_of(64);
    let parts: Vec<(usize, Vec<f32>)> = (0..cols.div_ceil(width))
        .into_par_iter()
        .map(|p| {
            let from = p * width;
            let width = width.min(cols - from);
            let mut dx = vec![0.0f32; rows * width];
            Arch::new().dispatch(Sums { dy, w, dx: &mut dx, rows, cols, from, width });
            (from, dx)
        })
        .collect();
    let mut dx = vec![0.0f32; rows * cols];
    for (from, part) in parts {
        let width = part.len() / rows;
        for (r, row) in part.chunks_exact(width).enumerate() {
            dx[r * cols + from..][..width].copy_from_slice(row);
        }
    }
    dx
}

/// Dot products of each weight row with each input row, written output-major.
struct Dots<'a> {
    x: &'a [f32],
    w: &'a [f32],
    y: &'a mut [f32],
    rows: usize,
    cols: usize,
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (w, y) in self.w.chunks_exact(self.cols).zip(self.y.chunks_exact_mut(self.rows)) {
            for (x, y) in self.x.chunks_exact(self.cols).zip(y) {
                *y = dot(simd, x, w);
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = S::as_simd_f32s(a);
    let (b, b_tail) = S::as_simd_f32s(b);
    let zero = simd.splat_f32s(0.0);
    let (mut s0, mut s1, mut s2, mut s3) = (zero, zero, zero, zero);
    let (mut ac, mut bc) = (a.chunks_exact(4), b.chunks_exact(4));
    for (a, b) in (&mut ac).zip(&mut bc) {
        s0 = simd.mul_add_f32s(a[0], b[0], s0);
        s1 = simd.mul_add_f32s(a[1], b[1], s1);
        s2 = simd.mul_add_f32s(a[2], b[2], s2);
        s3 = simd.mul_add_f32s(a[3], b[3], s3);
    }
    for (&a, &b) in ac.remainder().iter().zip(bc.remainder()) {
        s0 = simd.mul_add_f32s(a, b, s0);
    }
    let sum = simd.add_f32s(simd.add_f32s(s0, s1), simd.add_f32s(s2, s3));
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    simd.reduce_sum_f32s(sum) + tail
}

/// Weighted sums of weight rows, over the columns `from..from + width`.
struct Sums<'a> {
    dy: &'a [f32],
    w: &'a [f32],
    dx: &'a mut [f32],
    rows: usize,
    cols: usize,
    from: usize,
    width: usize,
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let out = self.dy.len() / self.rows;
        let row = |o: usize| &self.w[o * self.cols + self.from..][..self.width];
        let mut o = 0;
        while o < out {
            for r in 0..self.rows {
                let dx = &mut self.dx[r * self.width..][..self.width];
                let dy = &self.dy[r * out..][..out];
                if o + 4 <= out {
                    add4(
                        simd,
                        dx,
                        [dy[o], dy[o + 1], dy[o + 2], dy[o + 3]],
                        [row(o), row(o + 1), row(o + 2), row(o + 3)],
                    );
                } else {
                    for (o, &dy) in dy.iter().enumerate().skip(o) {
                        add4(simd, dx, [dy, 0.0, 0.0, 0.0], [row(o); 4]);
                    }
                }
            }
            o += 4;
        }
    }
}

/// `acc += Σ_j g[j]·w[j]`, four rows a pass so that `acc` is loaded and stored once for them.
#[inline(always)]
fn add4<S: Simd>(simd: S, acc: &mut [f32], g: [f32; 4], w: [&[f32]; 4]) {
    let (acc, acc_tail) = S::as_mut_simd_f32s(acc);
    let gs = g.map(|g| simd.splat_f32s(g));
    let (w0, t0) = S::as_simd_f32s(w[0]);
    let (w1, t1) = S::as_simd_f32s(w[1]);
    let (w2, t2) = S::as_simd_f32s(w[2]);
    let (w3, t3) = S::as_simd_f32s(w[3]);
    for ((((a, &w0), &w1), &w2), &w3) in acc.iter_mut().zip(w0).zip(w1).zip(w2).zip(w3) {
        let s = simd.mul_add_f32s(gs[0], w0, *a);
        let s = simd.mul_add_f32s(gs[1], w1, s);
        let s = simd.mul_add_f32s(gs[2], w2, s);
        *a = simd.mul_add_f32s(gs[3], w3, s);
    }
    for (i, a) in acc_tail.iter_mut().enumerate() {
        *a += g[0] * t0[i] + g[1] * t1[i] + g[2] * t2[i] + g[3] * t3[i];
    }
}
