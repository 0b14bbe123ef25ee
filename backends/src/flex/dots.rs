//! `x·wᵀ`, both operands row-major: every element is a dot product of two rows as they lie, so that neither is packed nor
//! transposed, and few rows cost no more than reading the weight once.
//!
//! An element is summed in the same order whatever the number of rows, threads or tiles: batched equals unbatched bit for bit.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::matmul::Matrix;
use super::shared::{Shared, prefetch, ranges};

/// Two matrices of which all pairs of rows are multiplied, `x [rows, k]` and `w [out, k]`; neither transposed.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub x: Matrix<'a>,
    pub w: Matrix<'a>,
}

/// `y[r, o] = bias[o] + Σ_terms Σ_i x[r, i]·w[o, i]` → `[rows, out]`, on all threads.
pub(super) fn dots(terms: &[Operands<'_>], bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, out) = (terms[0].x.rows, terms[0].w.rows);
    let work = rows * out * terms[0].x.cols;
    let mut y = vec![0.0; rows * out];
    let shared = Shared::new(&mut y);
    ranges(out, 4, work)
        .into_par_iter()
        .for_each(|outs| Arch::new().dispatch(Task::new(terms, bias, shared, out, outs)));
    y
}

/// `y[r, o] = Σ_i x[r, i]·w[o, i]` on the calling thread, rows of `y` being `stride` apart.
pub(super) fn dots_into(y: &mut [f32], stride: usize, operands: Operands<'_>) {
    let outs = 0..operands.w.rows;
    Arch::new().dispatch(Task::new(&[operands], None, Shared::new(y), stride, outs));
}

/// The columns `outs` of the product.
struct Task<'a> {
    terms: &'a [Operands<'a>],
    bias: Option<&'a [f32]>,
    y: Shared<'a>,
    stride: usize,
    rows: usize,
    outs: Range<usize>,
}

impl<'a> Task<'a> {
    /// A task whose bounds have been checked.
    fn new(
        terms: &'a [Operands<'a>],
        bias: Option<&'a [f32]>,
        y: Shared<'a>,
        stride: usize,
        outs: Range<usize>,
    ) -> Self {
        let (rows, out) = (terms[0].x.rows, terms[0].w.rows);
        for Operands { x, w } in terms {
            assert!(x.rows == rows && w.rows == out && x.cols == w.cols, "operands of other shapes");
            assert!(x.col_stride == 1 && w.col_stride == 1, "rows with gaps");
        }
        assert!(bias.is_none_or(|b| b.len() == out) && outs.end <= out, "a bias of another shape");
        assert!(
            rows == 0 || out <= stride && (rows - 1) * stride + out <= y.len(),
            "a result of another shape"
        );
        Self { terms, bias, y, stride, rows, outs }
    }
}

/// Rows of `w` that are used again from the second-level cache by each strip of `x`.
const BLOCK: usize = 32;

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut start = self.outs.start;
        while start < self.outs.end {
            let block = start..self.outs.end.min(start + BLOCK);
            start = block.end;
            let mut r = 0;
            while r < self.rows {
                let left = self.rows - r;
                if S::REGISTER_COUNT >= 32 {
                    let height = left.div_ceil(left.div_ceil(6));
                    match height {
                        1 => self.strip::<S, 4, 1>(simd, r, &block),
                        2 => self.strip::<S, 4, 2>(simd, r, &block),
                        3 => self.strip::<S, 4, 3>(simd, r, &block),
                        4 => self.strip::<S, 4, 4>(simd, r, &block),
                        5 => self.strip::<S, 4, 5>(simd, r, &block),
                        _ => self.strip::<S, 4, 6>(simd, r, &block),
                    }
                    r += height;
                } else {
                    let height = left.div_ceil(left.div_ceil(4));
                    match height {
                        1 => self.strip::<S, 2, 1>(simd, r, &block),
                        2 => self.strip::<S, 2, 2>(simd, r, &block),
                        3 => self.strip::<S, 2, 3>(simd, r, &block),
                        _ => self.strip::<S, 2, 4>(simd, r, &block),
                    }
                    r += height;
                }
            }
        }
    }
}

impl Task<'_> {
    /// Rows `r..r + R` of `x` times the rows `outs` of `w`, `O` at a time.
    #[inline(always)]
    fn strip<S: Simd, const O: usize, const R: usize>(&self, simd: S, r: usize, outs: &Range<usize>) {
        let mut o = outs.start;
        while o < outs.end {
            let rows = self.tile::<S, O, R>(simd, r, o, outs.end - 1);
            let count = O.min(outs.end - o);
            for (j, of_row) in rows.iter().enumerate() {
                let mut sums = reduce::<S, O>(simd, of_row);
                if let Some(bias) = self.bias {
                    sums.iter_mut().zip(&bias[o..]).for_each(|(sum, bias)| *sum += bias);
                }
                // SAFETY: `r + j < rows` and `o + count <= out`; this task alone writes the columns `outs`.
                let y = unsafe { self.y.slice((r + j) * self.stride + o, count) };
                y.copy_from_slice(&sums[..count]);
            }
            o += O;
        }
    }

    /// Dot products of `R` rows of `x` with `O` rows of `w`; rows after `last` are `last` again.
    #[inline(always)]
    fn tile<S: Simd, const O: usize, const R: usize>(
        &self,
        simd: S,
        r: usize,
        o: usize,
        last: usize,
    ) -> [[S::f32s; O]; R] {
        let mut acc = [[simd.splat_f32s(0.0); O]; R];
        for &Operands { x, w } in self.terms {
            let k = x.cols;
            let mut xs = [S::as_simd_f32s(&[]); R];
            for (j, xs) in xs.iter_mut().enumerate() {
                *xs = S::as_simd_f32s(x.row(r + j));
            }
            let mut ws = [S::as_simd_f32s(&[]); O];
            for (j, ws) in ws.iter_mut().enumerate() {
                *ws = S::as_simd_f32s(w.row((o + j).min(last)));
            }
            let ahead = O * w.row_stride;
            for i in 0..k / S::F32_LANES {
                let mut of_w = [simd.splat_f32s(0.0); O];
                for j in 0..O {
                    // The same place in the rows of the next tile.
                    prefetch(ws[j].0.as_ptr().wrapping_add(i).cast::<f32>().wrapping_add(ahead));
                    // SAFETY: every row has `k / F32_LANES` vectors.
                    of_w[j] = unsafe { *ws[j].0.get_unchecked(i) };
                }
                for j in 0..R {
                    // SAFETY: as above.
                    let x = unsafe { *xs[j].0.get_unchecked(i) };
                    for o in 0..O {
                        acc[j][o] = simd.mul_add_f32s(of_w[o], x, acc[j][o]);
                    }
                }
            }
            if k % S::F32_LANES != 0 {
                for o in 0..O {
                    let w = simd.partial_load_f32s(ws[o].1);
                    for j in 0..R {
                        acc[j][o] = simd.mul_add_f32s(w, simd.partial_load_f32s(xs[j].1), acc[j][o]);
                    }
                }
            }
        }
        acc
    }
}

/// The sum over the lanes of each of `O` vectors.
#[inline(always)]
fn reduce<S: Simd, const O: usize>(simd: S, vectors: &[S::f32s; O]) -> [f32; O] {
    let mut sums = [0.0; O];
    if let ([a, b, c, d], true) = (&vectors[..], S::F32_LANES > 1) {
        // Four vectors at once: each four lanes of the sum of their transposes belong to the four in turn.
        let [a, b, c, d] = simd.deinterleave_shfl_f32s([*a, *b, *c, *d]);
        let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        for four in pulp::bytemuck::cast_slice::<_, f32>(&[sum]).chunks_exact(4) {
            sums.iter_mut().zip(four).for_each(|(sum, x)| *sum += x);
        }
    } else {
        sums.iter_mut().zip(vectors).for_each(|(sum, v)| *sum = simd.reduce_sum_f32s(*v));
    }
    sums
}
