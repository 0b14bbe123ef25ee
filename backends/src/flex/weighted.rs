//! Weighted sums of a few numbers a row, as attention takes them of values: kept in registers over all rows that are summed.

use pulp::{Simd, WithSimd};

use super::instructions::arch;
use super::matmul::Matrix;
use super::shared::prefetch;

/// `y += g·w` in order of terms, a fused multiply-add each, on the calling thread; rows of `y` are `stride` apart.
pub(super) fn add_weighted(y: &mut [f32], stride: usize, g: Matrix<'_>, w: Matrix<'_>) {
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
        let (cols, lanes) = (self.w.cols, S::F32_LANES);
        let mut col = 0;
        while col < cols {
            col += if cols - col >= 4 * lanes && S::REGISTER_COUNT >= 32 {
                self.panel::<S, 4>(simd, col, 4 * lanes)
            } else if cols - col >= 2 * lanes {
                self.panel::<S, 2>(simd, col, 2 * lanes)
            } else {
                self.panel::<S, 1>(simd, col, lanes.min(cols - col))
            };
        }
    }
}

/// Rows of `w` that are asked for ahead.
const AHEAD: usize = 8;

impl Task<'_> {
    /// The columns `col..col + width`, in `V` vectors; returns `width`.
    #[inline(always)]
    fn panel<S: Simd, const V: usize>(&mut self, simd: S, col: usize, width: usize) -> usize {
        let mut r = 0;
        while r < self.g.rows {
            r += match self.g.rows - r {
                1 => self.tile::<S, 1, V>(simd, r, col, width),
                2 => self.tile::<S, 2, V>(simd, r, col, width),
                3 => self.tile::<S, 3, V>(simd, r, col, width),
                5 if S::REGISTER_COUNT >= 32 => self.tile::<S, 5, V>(simd, r, col, width),
                6.. if S::REGISTER_COUNT >= 32 => self.tile::<S, 6, V>(simd, r, col, width),
                _ => self.tile::<S, 4, V>(simd, r, col, width),
            };
        }
        width
    }

    /// The rows `r..r + R` of a panel; returns `R`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        r: usize,
        col: usize,
        width: usize,
    ) -> usize {
        let Self { stride, g, w, .. } = *self;
        let mut acc = [[simd.splat_f32s(0.0); V]; R];
        let mut gs = [&[] as &[f32]; R];
        for j in 0..R {
            acc[j] = load(simd, &self.y[(r + j) * stride + col..][..width]);
            gs[j] = &g.row(r + j)[..w.rows];
        }
        for term in 0..w.rows {
            let row = &w.data[term * w.row_stride + col..][..width];
            for v in 0..V {
                prefetch(row.as_ptr().wrapping_add(AHEAD * w.row_stride + v * S::F32_LANES));
            }
            let of_w: [S::f32s; V] = load(simd, row);
            for j in 0..R {
                // SAFETY: every row of `g` has as many terms as `w` has rows.
                let g = simd.splat_f32s(unsafe { *gs[j].get_unchecked(term) });
                for v in 0..V {
                    acc[j][v] = simd.mul_add_f32s(g, of_w[v], acc[j][v]);
                }
            }
        }
        for (j, acc) in acc.iter().enumerate() {
            let (whole, tail) = S::as_mut_simd_f32s(&mut self.y[(r + j) * stride + col..][..width]);
            if V == 1 && whole.is_empty() {
                simd.partial_store_f32s(tail, acc[0]);
            } else {
                whole.copy_from_slice(acc);
            }
        }
        R
    }
}

/// `V` vectors of `x`; a single one may be incomplete, and has zeros after its end then.
#[inline(always)]
fn load<S: Simd, const V: usize>(simd: S, x: &[f32]) -> [S::f32s; V] {
    let (whole, tail) = S::as_simd_f32s(x);
    if V == 1 && whole.is_empty() {
        return [simd.partial_load_f32s(tail); V];
    }
    let mut vectors = [simd.splat_f32s(0.0); V];
    vectors.copy_from_slice(&whole[..V]);
    vectors
}
