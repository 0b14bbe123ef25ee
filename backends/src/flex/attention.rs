//! Attention over blocks of keys and values, each read where it lies: no copy of a cache, no expansion of KV heads, no score
//! tensor that outlives its head.
//!
//! The unit of work is a query head of a row (or, for one query, all query heads of a KV head), so that what a task writes is
//! contiguous in `[B, H, t, …]`.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use pulp::Arch;
use rayon::prelude::*;

use super::dots::{Operands, dots_into};
use super::elementwise::{exp, max_and_sum};
use super::matmul::{Matrix, product};
use super::sums::add_sums;
use super::{contiguous, tensor, values};
use crate::{AttentionGrads, AttentionMask, HostMask, KeyValueBlock};

/// A `[B, heads, n, d]` tensor whose last dimension is contiguous, wherever its rows lie.
struct Heads {
    tensor: FlexTensor,
    offset: usize,
    strides: [usize; 3],
    n: usize,
    d: usize,
}

impl Heads {
    /// Wraps `x [B, heads, n, d]`, copying only a layout with gaps inside rows.
    fn new(x: Tensor<Flex, 4>) -> Self {
        let [_, _, n, d] = x.dims();
        let t = x.into_primitive().tensor();
        let s = t.layout().strides();
        let usable = s.iter().all(|&s| s >= 0) && (s[3] == 1 || d == 1);
        let t = if usable { t } else { t.to_contiguous() };
        let s = t.layout().strides();
        let strides = [s[0] as usize, s[1] as usize, s[2] as usize];
        Self { offset: t.layout().start_offset(), strides, n, d, tensor: t }
    }

    /// `[n, d]` of one head of one row.
    fn head(&self, b: usize, h: usize) -> Matrix<'_> {
        let from = self.offset + b * self.strides[0] + h * self.strides[1];
        Matrix::strided(&self.tensor.storage::<f32>()[from..], self.n, self.d, self.strides[2])
    }

    /// `[count, d]`: the only position of `count` neighbouring heads of one row.
    fn neighbours(&self, b: usize, h: usize, count: usize) -> Matrix<'_> {
        let from = self.offset + b * self.strides[0] + h * self.strides[1];
        Matrix::strided(&self.tensor.storage::<f32>()[from..], count, self.d, self.strides[1])
    }
}

/// Up to this many queries a row `gemm` takes longer to pack the other matrix than to multiply.
const FEW_QUERIES: usize = 8;

/// `dst = scale·a·bᵀ` for `a [rows, d]`, `b [n, d]`, rows of `dst` being `stride` apart.
fn times_transposed(few: bool, dst: &mut [f32], stride: usize, a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    if !few {
        return product(dst, stride, false, a, b.t(), scale, false);
    }
    dots_into(dst, stride, Operands { x: a, w: b });
    if scale != 1.0 {
        for row in dst.chunks_mut(stride).take(a.rows) {
            row[..b.rows].iter_mut().for_each(|v| *v *= scale);
        }
    }
}

/// `dst += scale·a·b` for `a [rows, n]`, `b [n, d]`.
fn add_times(few: bool, dst: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    if few {
        add_sums(dst, b.cols, scale, a, b, 0..b.rows);
    } else {
        product(dst, b.cols, true, a, b, scale, false);
    }
}

/// The sizes of a call, and how it is cut into tasks.
struct Plan<'a> {
    batch: usize,
    heads: usize,
    rep: usize,
    t: usize,
    d: usize,
    heads_per_task: usize,
    mask: &'a HostMask,
    scale: f32,
    keys: Vec<Heads>,
    values: Vec<Heads>,
}

impl<'a> Plan<'a> {
    fn new(
        shape: [usize; 4],
        blocks: &[KeyValueBlock<Flex>],
        mask: &'a AttentionMask<Flex>,
        scale: f64,
    ) -> Self {
        let [batch, t, heads, d] = shape;
        let kv_heads = blocks[0].key.dims()[1];
        let n: usize = blocks.iter().map(|b| b.key.dims()[2]).sum();
        assert_eq!(
            (mask.host.batch, mask.host.queries, mask.host.keys),
            (batch, t, n),
            "mask of another call"
        );
        Self {
            batch,
            heads,
            rep: heads / kv_heads,
            t,
            d,
            heads_per_task: if t == 1 { heads / kv_heads } else { 1 },
            mask: &mask.host,
            scale: scale as f32,
            keys: blocks.iter().map(|b| Heads::new(b.key.clone())).collect(),
            values: blocks.iter().map(|b| Heads::new(b.value.clone())).collect(),
        }
    }

    /// Whether queries are few. The rows of a task would not do to tell: they depend on how the call is cut.
    fn few(&self) -> bool {
        self.t <= FEW_QUERIES
    }

    /// Query rows of a task.
    fn rows(&self) -> usize {
        self.heads_per_task * self.t
    }

    /// Row of the batch and first query head of task `i`.
    fn task(&self, i: usize) -> (usize, usize) {
        let per_row = self.heads / self.heads_per_task;
        (i / per_row, i % per_row * self.heads_per_task)
    }

    /// The query rows of a task in a `[B, H, t, d]` view.
    fn queries<'b>(&self, x: &'b Heads, b: usize, h: usize) -> Matrix<'b> {
        if self.t == 1 { x.neighbours(b, h, self.heads_per_task) } else { x.head(b, h) }
    }

    /// Scaled scores of a task, `[rows, n]`.
    fn scores(&self, q: Matrix<'_>, b: usize, h: usize) -> Vec<f32> {
        let n = self.mask.keys;
        let mut s = vec![0.0; self.rows() * n];
        let mut start = 0;
        for k in &self.keys {
            times_transposed(self.few(), &mut s[start..], n, q, k.head(b, h / self.rep), self.scale);
            start += k.n;
        }
        s
    }

    /// Calls `f(row, seen, scores)` for each query row: `seen` is how many leading keys are not in its future.
    #[inline(always)]
    fn for_rows(&self, s: &mut [f32], f: impl Fn(usize, usize, &mut [f32])) {
        let n = self.mask.keys;
        for (i, row) in s.chunks_exact_mut(n).enumerate() {
            let query = if self.t == 1 { 0 } else { i };
            f(i, n - self.t + query + 1, row);
        }
    }

    /// The validity of row `b`'s keys, where any is padding.
    fn valid(&self, b: usize) -> Option<&[bool]> {
        self.mask.valid.as_ref().map(|v| &v[b * self.mask.keys..][..self.mask.keys])
    }
}

/// `[B, H, t, d]` values in task order to a `[B, t, H, d]` tensor.
fn to_rows(x: Vec<f32>, [b, t, h, d]: [usize; 4]) -> Tensor<Flex, 4> {
    if t == 1 {
        return tensor(x, [b, t, h, d]);
    }
    let mut y = vec![0.0; x.len()];
    for (i, row) in x.chunks_exact(d).enumerate() {
        let (b, head, t_i) = (i / (h * t), i / t % h, i % t);
        y[((b * t + t_i) * h + head) * d..][..d].copy_from_slice(row);
    }
    tensor(y, [b, t, h, d])
}

/// See [`ModelBackend::block_attention`](crate::ModelBackend::block_attention).
pub(super) fn forward(
    q: Tensor<Flex, 4>,
    blocks: &[KeyValueBlock<Flex>],
    mask: &AttentionMask<Flex>,
    scale: f64,
) -> (Tensor<Flex, 4>, Tensor<Flex, 4>) {
    let shape = q.dims();
    let mut plan = Plan::new(shape, blocks, mask, scale);
    if plan.batch * plan.heads / plan.heads_per_task < 4 * rayon::current_num_threads() {
        // Too few tasks to keep all threads busy; a head's results do not depend on its neighbours.
        plan.heads_per_task = 1;
    }
    let (rows, d) = (plan.rows(), plan.d);
    let q = Heads::new(q.swap_dims(1, 2));
    let mut out = vec![0.0; plan.batch * plan.heads * plan.t * d];
    let mut lse = vec![0.0; plan.batch * plan.heads * plan.t];
    out.par_chunks_exact_mut(rows * d).zip(lse.par_chunks_exact_mut(rows)).enumerate().for_each(
        |(i, (out, lse))| {
            let (b, h) = plan.task(i);
            let mut s = plan.scores(plan.queries(&q, b, h), b, h);
            let sums = Arch::new().dispatch(
                #[inline(always)]
                || softmax_rows(&plan, b, &mut s),
            );
            for (lse, (max, sum)) in lse.iter_mut().zip(sums) {
                *lse = max + sum.ln();
            }
            let n = plan.mask.keys;
            let mut start = 0;
            for v in &plan.values {
                let p = Matrix::strided(&s[start..], rows, v.n, n);
                add_times(plan.few(), out, p, v.head(b, h / plan.rep), 1.0);
                start += v.n;
            }
        },
    );
    let [b, t, h, _] = shape;
    let rep = plan.rep;
    (to_rows(out, shape), tensor(lse, [b, h / rep, rep * t, 1]))
}

/// Scores to weights in place, row by row; returns each row's maximum and sum of exponentials.
#[inline(always)]
fn softmax_rows(plan: &Plan<'_>, b: usize, s: &mut [f32]) -> Vec<(f32, f32)> {
    let sums = std::cell::RefCell::new(Vec::with_capacity(plan.rows()));
    plan.for_rows(
        s,
        #[inline(always)]
        |_, seen, row| {
            let (now, future) = row.split_at_mut(seen);
            future.fill(0.0);
            if let Some(valid) = plan.valid(b) {
                hide(now, valid);
            }
            let (max, sum) = max_and_sum(now);
            // A row that sees nothing has only scores of minus infinity: all weights 0.
            let (max, sum) = if max == f32::NEG_INFINITY { (0.0, 1e-30) } else { (max, sum) };
            let scale = sum.recip();
            now.iter_mut().for_each(|x| *x = exp(*x - max) * scale);
            sums.borrow_mut().push((max, sum));
        },
    );
    sums.into_inner()
}

/// Sets the scores of padding to minus infinity.
#[inline(always)]
fn hide(scores: &mut [f32], valid: &[bool]) {
    for (s, &v) in scores.iter_mut().zip(valid) {
        *s = if v { *s } else { f32::NEG_INFINITY };
    }
}

/// Gradients of one block's keys and values in one task, `[n, d]` each, where they are wanted.
type BlockGrads = Option<(Vec<f32>, Vec<f32>)>;

/// See [`ModelBackend::block_attention_backward`](crate::ModelBackend::block_attention_backward).
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    d_out: Tensor<Flex, 4>,
    q: Tensor<Flex, 4>,
    blocks: &[KeyValueBlock<Flex>],
    mask: &AttentionMask<Flex>,
    scale: f64,
    out: Tensor<Flex, 4>,
    lse: Tensor<Flex, 4>,
    wants: &[bool],
) -> AttentionGrads<Flex> {
    let shape = q.dims();
    let plan = Plan::new(shape, blocks, mask, scale);
    let (rows, d, n) = (plan.rows(), plan.d, plan.mask.keys);
    let [q, out, d_out] = [q, out, d_out].map(|x| Heads::new(x.swap_dims(1, 2)));
    let lse = contiguous(lse);
    let mut d_q = vec![0.0; plan.batch * plan.heads * plan.t * d];
    let parts: Vec<Vec<BlockGrads>> = d_q
        .par_chunks_exact_mut(rows * d)
        .zip(values(&lse).par_chunks_exact(rows))
        .enumerate()
        .map(|(i, (d_q, lse))| {
            let (b, h) = plan.task(i);
            let (q, out, d_out) =
                (plan.queries(&q, b, h), plan.queries(&out, b, h), plan.queries(&d_out, b, h));
            let mut p = plan.scores(q, b, h);
            let mut d_s = vec![0.0; rows * n];
            let mut start = 0;
            for v in &plan.values {
                times_transposed(plan.few(), &mut d_s[start..], n, d_out, v.head(b, h / plan.rep), 1.0);
                start += v.n;
            }
            Arch::new().dispatch(
                #[inline(always)]
                || score_gradients(&plan, b, lse, out, d_out, &mut p, &mut d_s),
            );
            let mut start = 0;
            let mut grads = Vec::with_capacity(wants.len());
            for (k, &wanted) in plan.keys.iter().zip(wants) {
                let d_s = Matrix::strided(&d_s[start..], rows, k.n, n);
                add_times(plan.few(), d_q, d_s, k.head(b, h / plan.rep), plan.scale);
                grads.push(wanted.then(|| {
                    let (mut d_k, mut d_v) = (vec![0.0; k.n * d], vec![0.0; k.n * d]);
                    product(&mut d_k, d, false, d_s.t(), q, plan.scale, false);
                    let p = Matrix::strided(&p[start..], rows, k.n, n);
                    product(&mut d_v, d, false, p.t(), d_out, 1.0, false);
                    (d_k, d_v)
                }));
                start += k.n;
            }
            grads
        })
        .collect();
    let kv_heads = plan.heads / plan.rep;
    let per_head = plan.rep / plan.heads_per_task;
    let blocks = (0..wants.len())
        .map(|j| {
            wants[j].then(|| {
                let size = plan.keys[j].n * d;
                let mut sums =
                    [vec![0.0f32; plan.batch * kv_heads * size], vec![0.0f32; plan.batch * kv_heads * size]];
                for (i, part) in parts.iter().enumerate() {
                    let (d_k, d_v) = part[j].as_ref().expect("every task computed what was wanted");
                    for (sum, part) in sums.iter_mut().zip([d_k, d_v]) {
                        let sum = &mut sum[i / per_head * size..][..size];
                        sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                    }
                }
                let [d_k, d_v] = sums.map(|s| tensor(s, [plan.batch, kv_heads, plan.keys[j].n, d]));
                (d_k, d_v)
            })
        })
        .collect();
    AttentionGrads { query: to_rows(d_q, shape), blocks }
}

/// Turns scores into weights `p`, and `d_p` into `p·(d_p − Σ d_out·out)`, in place.
#[inline(always)]
fn score_gradients(
    plan: &Plan<'_>,
    b: usize,
    lse: &[f32],
    out: Matrix<'_>,
    d_out: Matrix<'_>,
    p: &mut [f32],
    d_s: &mut [f32],
) {
    let n = plan.mask.keys;
    let d_s = std::cell::RefCell::new(d_s);
    plan.for_rows(
        p,
        #[inline(always)]
        |i, seen, p| {
            let mut d_s = d_s.borrow_mut();
            let (p, future) = p.split_at_mut(seen);
            let (d_s, d_future) = d_s[i * n..][..n].split_at_mut(seen);
            future.fill(0.0);
            d_future.fill(0.0);
            if let Some(valid) = plan.valid(b) {
                hide(p, valid);
            }
            let delta: f32 = (0..plan.d)
                .map(|k| out.data[i * out.row_stride + k] * d_out.data[i * d_out.row_stride + k])
                .sum();
            for (p, d_s) in p.iter_mut().zip(d_s) {
                *p = exp(*p - lse[i]);
                *d_s = *p * (*d_s - delta);
            }
        },
    );
}
