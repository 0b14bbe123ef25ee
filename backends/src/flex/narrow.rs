//! Frozen matrices narrower than f32 as they are stored: widened in registers for few rows of the other side, and for more of them a strip
//! of rows at a time that stays in a cache.

use std::marker::PhantomData;
use std::ops::Range;

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::dots::{Addends, Operands, Rows, TILE, Task, vectors};
use super::instructions::{Kernel, run};
use super::matmul::Matrix;
use super::shared::{Shared, WORTH_A_THREAD, prefetch, ranges};
use super::widen::{Bf16, F16, Format, Q4_0, Q4_1, Q8_0, UNIT, Widen};
use crate::{StoredDtype, StoredMatrix};

/// Up to this many rows of the other side are multiplied with numbers as they are widened, once for every two; more, with numbers that were stored.
const FEW_ROWS: usize = 4;

/// Widened numbers that stay in the first-level cache, for rows that do so beside them, and in the second-level one.
const CACHED: [usize; 2] = [4 * 1024, 32 * 1024];

/// A row-major matrix `[rows, columns]` whose rows are whole blocks.
#[derive(Clone, Copy)]
pub(super) struct Narrow<'a> {
    dtype: StoredDtype,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
}

/// Evaluates `$body` with `$format` for the format of registers that `$dtype` is, of which `$bytes` bytes are a unit; `$other` where it is none.
macro_rules! with_format {
    ($dtype:expr, $format:ident, $bytes:ident => $body:expr, else $other:expr) => {{
        macro_rules! of {
            ($name:ty, $count:literal) => {{
                type $format = $name;
                const $bytes: usize = $count;
                $body
            }};
        }
        match $dtype {
            StoredDtype::Bf16 => of!(Bf16, 64),
            StoredDtype::F16 => of!(F16, 64),
            StoredDtype::Blocks(blocks) => match blocks.0 {
                GgmlDType::Q8_0 => of!(Q8_0, 34),
                GgmlDType::Q4_0 => of!(Q4_0, 18),
                GgmlDType::Q4_1 => of!(Q4_1, 20),
                _ => $other,
            },
            StoredDtype::F32 => $other,
        }
    }};
}

impl<'a> Narrow<'a> {
    /// A stored matrix.
    pub fn new(matrix: &'a StoredMatrix) -> Self {
        let [rows, cols] = matrix.shape();
        Self { dtype: matrix.dtype(), bytes: matrix.bytes(), rows, cols }
    }

    /// `[rows, columns]`
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Columns between two places where a row can be taken apart.
    pub fn step(&self) -> usize {
        self.dtype.block_values().max(UNIT)
    }

    /// The bytes of so many columns.
    fn width(&self, cols: usize) -> usize {
        self.dtype.bytes(cols).expect("whole blocks")
    }

    /// The rows `rows`.
    fn of_rows(self, rows: Range<usize>) -> Self {
        let width = self.width(self.cols);
        Self { bytes: &self.bytes[rows.start * width..rows.end * width], rows: rows.len(), ..self }
    }

    /// The numbers of the rows `rows` and the columns `cols`, which begin and end between [`Narrow::step`]s, in `out`.
    pub fn widen<'b>(&self, rows: Range<usize>, cols: Range<usize>, out: &'b mut Vec<f32>) -> Matrix<'b> {
        let (from, to, width) = (self.width(cols.start), self.width(cols.end), self.width(self.cols));
        out.resize(rows.len() * cols.len(), 0.0);
        let one = |(row, out): (usize, &mut [f32])| {
            widen(self.dtype, &self.bytes[(rows.start + row) * width..][from..to], out);
        };
        let row = cols.len().max(1);
        match out.len() {
            ..WORTH_A_THREAD => out.chunks_exact_mut(row).enumerate().for_each(one),
            _ => out.par_chunks_exact_mut(row).enumerate().for_each(one),
        }
        Matrix::new(out, rows.len(), cols.len())
    }
}

/// Widens the part of a row.
fn widen(dtype: StoredDtype, bytes: &[u8], out: &mut [f32]) {
    with_format!(dtype, F, BYTES => run(Widened::<F, BYTES> { bytes, out, format: PhantomData }), else {
        let mut words = vec![0_u16; bytes.len().div_ceil(2)];
        let words = &mut bytemuck::cast_slice_mut(&mut words)[..bytes.len()];
        words.copy_from_slice(bytes);
        dtype.widen(words, out).expect("blocks that were read before");
    });
}

/// `out`, widened from `bytes`.
struct Widened<'a, F, const BYTES: usize> {
    bytes: &'a [u8],
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format<BYTES>, const BYTES: usize> Kernel for Widened<'_, F, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Widen>(self, simd: S) {
        let (units, rest) = self.bytes.as_chunks::<BYTES>();
        let (whole, tail) = self.out.split_at_mut(units.len() * UNIT);
        for (bytes, out) in units.iter().zip(whole.chunks_exact_mut(UNIT)) {
            let unit = F::widen(simd, bytes);
            for (out, vector) in S::as_mut_simd_f32s(out).0.iter_mut().zip(unit.as_ref()) {
                *out = *vector;
            }
        }
        if !tail.is_empty() {
            let unit = F::widen(simd, &padded(rest));
            tail.copy_from_slice(&pulp::bytemuck::cast_slice(unit.as_ref())[..tail.len()]);
        }
    }
}

/// A unit of which the end is missing, with zeros there; blocks have none such.
#[inline(always)]
fn padded<const BYTES: usize>(rest: &[u8]) -> [u8; BYTES] {
    let mut unit = [0; BYTES];
    unit[..rest.len()].copy_from_slice(rest);
    unit
}

/// Rows that are widened in registers.
struct InRegisters<'a, F, const BYTES: usize> {
    of: Narrow<'a>,
    format: PhantomData<F>,
}

impl<F, const BYTES: usize> Clone for InRegisters<'_, F, BYTES> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, const BYTES: usize> Copy for InRegisters<'_, F, BYTES> {}

impl<F: Format<BYTES>, const BYTES: usize> Rows for InRegisters<'_, F, BYTES> {
    fn shape(&self) -> [usize; 2] {
        self.of.shape()
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
        let width = self.of.bytes.len() / self.of.rows;
        let (xs, lanes) = (vectors::<S, R>(x, r), S::F32_LANES);
        let mut ws: [(&[[u8; BYTES]], &[u8]); TILE] = [(&[], &[]); TILE];
        for (j, ws) in ws.iter_mut().enumerate() {
            *ws = self.of.bytes[(o + j).min(self.of.rows - 1) * width..][..width].as_chunks();
        }
        for i in 0..self.of.cols / UNIT {
            for o in 0..TILE {
                // SAFETY: every row has `cols / UNIT` units.
                let bytes = unsafe { ws[o].0.get_unchecked(i) };
                // The same place in the rows of the next tile.
                prefetch(bytes.as_ptr().wrapping_add(TILE * width).cast());
                let unit = F::widen(simd, bytes);
                for (v, w) in unit.as_ref().iter().enumerate() {
                    for j in 0..R {
                        // SAFETY: every row of `x` has as many vectors as a row of `w` has.
                        let x = unsafe { *xs[j].0.get_unchecked(i * (UNIT / lanes) + v) };
                        acc[j][o] = simd.mul_add_f32s(*w, x, acc[j][o]);
                    }
                }
            }
        }
        let tail = self.of.cols % UNIT;
        for o in 0..if tail > 0 { TILE } else { 0 } {
            let unit = F::widen(simd, &padded(ws[o].1));
            for (v, w) in unit.as_ref()[..tail.div_ceil(lanes)].iter().enumerate() {
                for (j, acc) in acc.iter_mut().enumerate() {
                    let rest = &x.row(r + j)[self.of.cols - tail + v * lanes..];
                    let x = simd.partial_load_f32s(&rest[..rest.len().min(lanes)]);
                    acc[o] = simd.mul_add_f32s(*w, x, acc[o]);
                }
            }
        }
    }
}

/// [`dots`](super::dots::dots) with a narrow weight.
pub(super) fn dots(x: Matrix<'_>, w: Narrow<'_>, addends: Addends<'_>) -> Vec<f32> {
    let mut y = vec![0.0; x.rows * w.rows];
    let shared = Shared::new(&mut y);
    ranges(w.rows, TILE, x.rows * w.rows * x.cols).into_par_iter().for_each(|outs| {
        let in_cache = || {
            let (mut wide, cached) = (Vec::new(), CACHED[usize::from(x.rows * x.cols > CACHED[1])]);
            let height = (cached / w.cols.max(1)).next_multiple_of(TILE).max(TILE);
            for from in outs.clone().step_by(height) {
                let outs = from..outs.end.min(from + height);
                let strip = w.widen(outs.clone(), 0..w.cols, &mut wide);
                Task::new(Operands { x, w: strip }, addends.of(outs), shared, w.rows, from).run();
            }
        };
        if x.rows > FEW_ROWS {
            return in_cache();
        }
        with_format!(w.dtype, F, BYTES => {
            let few = InRegisters::<F, BYTES> { of: w.of_rows(outs.clone()), format: PhantomData };
            Task::new(Operands { x, w: few }, addends.of(outs.clone()), shared, w.rows, outs.start).run();
        }, else in_cache());
    });
    y
}
