//! Attention over blocks of keys and values, each read where it lies: no copy of a cache, no expansion of KV heads, no score
//! tensor that outlives its head.
//!
//! The unit of work is a query head of a row (or, for one query, all query heads of a KV head), so that what a task writes is
//! contiguous in `[B, H, t, …]`.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use rayon::prelude::*;

use super::dots::{Operands, dots_into};
use super::elementwise::{exp, largest, total};
use super::instructions::arch;
use super::matmul::{Matrix, transposed};
use super::weighted::add_weighted;
use super::{contiguous, tensor, values};
use crate::{AttentionCall, AttentionGrads, HostMask};

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
        let [rows, _, n, d] = x.dims();
        let t = x.into_primitive().tensor();
        let s = t.layout().strides();
        let usable = s.iter().all(|&s| s >= 0) && (s[3] == 1 || d == 1);
        let t = if usable { t } else { t.to_contiguous() };
        let s = t.layout().strides();
        // A single row is every row.
        let strides = [if rows == 1 { 0 } else { s[0] as usize }, s[1] as usize, s[2] as usize];
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

/// Query rows that share the keys they read, up to the last that any of them sees, and keys that share the query rows that see them.
const STRIP: usize = 24;

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
    fn new(call: &'a AttentionCall<Flex>) -> Self {
        let [batch, t, heads, d] = call.q.dims();
        let (mask, kv_heads) = (&call.mask.host, call.kv_heads());
        let n: usize = call.blocks.iter().map(|b| b.key.dims()[2]).sum();
        assert_eq!((mask.batch, mask.queries, mask.keys), (batch, t, n), "mask of another call");
        Self {
            batch,
            heads,
            rep: heads / kv_heads,
            t,
            d,
            heads_per_task: if t == 1 { heads / kv_heads } else { 1 },
            mask,
            scale: call.scale as f32,
            keys: call.blocks.iter().map(|b| Heads::new(b.key.clone())).collect(),
            values: call.blocks.iter().map(|b| Heads::new(b.value.clone())).collect(),
        }
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

    /// How many leading keys are not in the future of row `i` of a task.
    fn seen(&self, i: usize) -> usize {
        let query = if self.t == 1 { 0 } else { i };
        self.mask.keys - self.t + query + 1
    }

    /// The first query row of a task that sees key `key`.
    fn first(&self, key: usize) -> usize {
        if self.t == 1 { 0 } else { (key + self.t).saturating_sub(self.mask.keys) }
    }

    /// Calls `f(rows, block, start, count)` for strips of the rows of a task and each of the `blocks` of keys: the block begins with key
    /// `start`, and `count` of its keys are not in the future of all the rows.
    fn for_strips(&self, blocks: &[Heads], mut f: impl FnMut(Range<usize>, &Heads, usize, usize)) {
        for from in (0..self.rows()).step_by(STRIP) {
            let rows = from..self.rows().min(from + STRIP);
            let seen = self.seen(rows.end - 1);
            let mut start = 0;
            for block in blocks {
                f(rows.clone(), block, start, block.n.min(seen.saturating_sub(start)));
                start += block.n;
            }
        }
    }

    /// Scaled scores of a task, `[rows, n]`; 0 for keys in the future of a whole strip.
    fn scores(&self, q: Matrix<'_>, b: usize, h: usize) -> Vec<f32> {
        let n = self.mask.keys;
        let mut s = vec![0.0; self.rows() * n];
        self.for_strips(&self.keys, |rows, block, start, count| {
            let w = block.head(b, h / self.rep).of_rows(0..count);
            dots_into(&mut s[rows.start * n + start..], n, Operands { x: q.of_rows(rows), w });
        });
        s.iter_mut().for_each(|s| *s *= self.scale);
        s
    }

    /// `y·xᵀ` of a task for the keys or values `y` of all blocks, `[n, rows]`, summed over the head's numbers in order; 0 for query rows that
    /// see none of a strip of keys.
    ///
    /// What a gradient takes: only the few numbers of the queries are transposed, and sums over queries find their weights as they lie.
    fn by_keys(&self, x: Matrix<'_>, blocks: &[Heads], b: usize, h: usize) -> Vec<f32> {
        let rows = self.rows();
        let x = transposed(x);
        let x = Matrix::new(&x, self.d, rows);
        let mut s = vec![0.0; self.mask.keys * rows];
        let mut start = 0;
        for block in blocks {
            for from in (0..block.n).step_by(STRIP) {
                let first = self.first(start + from);
                let y = block.head(b, h / self.rep).of_rows(from..block.n.min(from + STRIP));
                add_weighted(&mut s[(start + from) * rows + first..], rows, y, x.of_cols(first..rows));
            }
            start += block.n;
        }
        s
    }

    /// `dst += p·y` of a task for its weights `p [rows, n]` and the keys or values `y` of all blocks, summed over keys in order; a weight of
    /// 0 changes no sum.
    fn add_weighted(&self, dst: &mut [f32], p: &[f32], blocks: &[Heads], b: usize, h: usize) {
        let (n, d) = (self.mask.keys, self.d);
        self.for_strips(blocks, |rows, block, start, count| {
            let p = Matrix::strided(&p[rows.start * n + start..], rows.len(), count, n);
            let w = block.head(b, h / self.rep).of_rows(0..count);
            add_weighted(&mut dst[rows.start * d..rows.end * d], d, p, w);
        });
    }

    /// `dst += p·x` for the weights `p` of a task, `[n, rows]`, of the keys `keys`, over query rows `x` in order, so that those that are
    /// padding change nothing.
    fn add_over_queries(&self, dst: &mut [f32], p: &[f32], x: Matrix<'_>, keys: Range<usize>) {
        let (rows, d) = (self.rows(), self.d);
        for (strip, dst) in dst.chunks_mut(STRIP * d).enumerate() {
            let from = keys.start + strip * STRIP;
            let first = self.first(from);
            let p = Matrix::strided(&p[from * rows + first..], dst.len() / d, rows - first, rows);
            add_weighted(dst, d, p, x.of_rows(first..rows));
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
pub(super) fn forward(call: &AttentionCall<Flex>) -> (Tensor<Flex, 4>, Tensor<Flex, 4>) {
    let shape = call.q.dims();
    let mut plan = Plan::new(call);
    if plan.batch * plan.heads / plan.heads_per_task < 4 * rayon::current_num_threads() {
        // Too few tasks to keep all threads busy; a head's results do not depend on its neighbours.
        plan.heads_per_task = 1;
    }
    let (rows, d) = (plan.rows(), plan.d);
    let q = Heads::new(call.q.clone().swap_dims(1, 2));
    let mut out = vec![0.0; plan.batch * plan.heads * plan.t * d];
    let mut lse = vec![0.0; plan.batch * plan.heads * plan.t];
    out.par_chunks_exact_mut(rows * d).zip(lse.par_chunks_exact_mut(rows)).enumerate().for_each(
        |(i, (out, lse))| {
            let (b, h) = plan.task(i);
            let mut s = plan.scores(plan.queries(&q, b, h), b, h);
            let sums = arch().dispatch(
                #[inline(always)]
                || softmax_rows(&plan, b, &mut s),
            );
            for (lse, (max, sum)) in lse.iter_mut().zip(sums) {
                *lse = max + sum.ln();
            }
            plan.add_weighted(out, &s, &plan.values, b, h);
        },
    );
    let [b, t, h, _] = shape;
    let rep = plan.rep;
    (to_rows(out, shape), tensor(lse, [b, h / rep, rep * t, 1]))
}

/// Scores to weights in place, row by row; returns each row's maximum and sum of exponentials.
///
/// The sum runs over the keys that are seen as if nothing stood between them, so that it does not depend on padding.
#[inline(always)]
fn softmax_rows(plan: &Plan<'_>, b: usize, s: &mut [f32]) -> Vec<(f32, f32)> {
    let mut sums = Vec::with_capacity(plan.rows());
    let valid = plan.valid(b);
    let runs = valid.map(runs);
    let mut real = Vec::with_capacity(plan.mask.keys);
    for (i, row) in s.chunks_exact_mut(plan.mask.keys).enumerate() {
        let (now, future) = row.split_at_mut(plan.seen(i));
        future.fill(0.0);
        if let Some(valid) = valid {
            hide(now, valid);
        }
        let max = largest(now);
        // A row that sees nothing has only scores of minus infinity: all weights 0.
        let max = if max == f32::NEG_INFINITY { 0.0 } else { max };
        now.iter_mut().for_each(|x| *x = exp(*x - max));
        let sum = match &runs {
            None => total(now),
            Some(runs) => {
                real.clear();
                let seen = runs.iter().take_while(|run| run.start < now.len());
                seen.for_each(|run| real.extend_from_slice(&now[run.start..run.end.min(now.len())]));
                total(&real)
            }
        };
        let sum = sum.max(1e-30);
        let scale = sum.recip();
        now.iter_mut().for_each(|x| *x *= scale);
        sums.push((max, sum));
    }
    sums
}

/// Where the keys that are valid lie, in order.
fn runs(valid: &[bool]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, _) in valid.iter().enumerate().filter(|&(_, &v)| v) {
        match runs.last_mut() {
            Some(run) if run.end == i => run.end += 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

/// Sets the scores of padding to minus infinity.
#[inline(always)]
fn hide(scores: &mut [f32], valid: &[bool]) {
    for (s, &v) in scores.iter_mut().zip(valid) {
        *s = if v { *s } else { f32::NEG_INFINITY };
    }
}

/// Gradients of the keys and values of some positions in one task, `[n, d]` each, where they are wanted.
type KeyGrads = Option<[Vec<f32>; 2]>;

/// See [`ModelBackend::block_attention_backward`](crate::ModelBackend::block_attention_backward).
pub(super) fn backward(
    call: &AttentionCall<Flex>,
    d_out: Tensor<Flex, 4>,
    out: Tensor<Flex, 4>,
    lse: Tensor<Flex, 4>,
    wants: &[bool],
) -> AttentionGrads<Flex> {
    let shape = call.q.dims();
    let plan = Plan::new(call);
    let (rows, d, n) = (plan.rows(), plan.d, plan.mask.keys);
    let [q, out, d_out] = [call.q.clone(), out, d_out].map(|x| Heads::new(x.swap_dims(1, 2)));
    let lse = contiguous(lse);
    // The keys before the last block are one matrix, so that the bits do not depend on how they are cut.
    let (last, past) = wants.split_last().expect("attention over at least one block");
    let from = n - plan.keys.last().map_or(0, |block| block.n);
    let groups = [(0..from, past.contains(&true)), (from..n, *last)];
    let mut d_q = vec![0.0; plan.batch * plan.heads * plan.t * d];
    let parts: Vec<[KeyGrads; 2]> = d_q
        .par_chunks_exact_mut(rows * d)
        .zip(values(&lse).par_chunks_exact(rows))
        .enumerate()
        .map(|(i, (d_q, lse))| {
            let (b, h) = plan.task(i);
            let (q, out, d_out) =
                (plan.queries(&q, b, h), plan.queries(&out, b, h), plan.queries(&d_out, b, h));
            let mut p = plan.by_keys(q, &plan.keys, b, h);
            let mut d_s = plan.by_keys(d_out, &plan.values, b, h);
            arch().dispatch(
                #[inline(always)]
                || score_gradients(&plan, b, lse, out, d_out, &mut p, &mut d_s),
            );
            let by_rows = transposed(Matrix::new(&d_s, n, rows));
            plan.add_weighted(d_q, &by_rows, &plan.keys, b, h);
            d_q.iter_mut().for_each(|d| *d *= plan.scale);
            groups.clone().map(|(keys, wanted)| {
                wanted.then(|| {
                    [(&d_s, q, plan.scale), (&p, d_out, 1.0)].map(|(weights, x, scale)| {
                        let mut sums = vec![0.0; keys.len() * d];
                        plan.add_over_queries(&mut sums, weights, x, keys.clone());
                        sums.iter_mut().for_each(|sum| *sum *= scale);
                        sums
                    })
                })
            })
        })
        .collect();
    let kv_heads = plan.heads / plan.rep;
    let per_head = plan.rep / plan.heads_per_task;
    let mut start = 0;
    let blocks = plan.keys.iter().zip(wants).map(|(block, &wanted)| {
        let keys = start..start + block.n;
        start = keys.end;
        wanted.then(|| {
            let size = block.n * d;
            let [d_k, d_v] = [0, 1].map(|which| {
                let mut sums = vec![0.0f32; plan.batch * kv_heads * size];
                for (i, part) in parts.iter().enumerate() {
                    let (group, part) = groups
                        .iter()
                        .zip(part)
                        .find(|((g, _), _)| keys.end <= g.end)
                        .expect("every key has a group");
                    let part = part.as_ref().expect("every task computed what was wanted");
                    let part = &part[which][(keys.start - group.0.start) * d..][..size];
                    let sum = &mut sums[i / per_head * size..][..size];
                    sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                }
                tensor(sums, [plan.batch, kv_heads, block.n, d])
            });
            (d_k, d_v)
        })
    });
    let blocks = blocks.collect();
    AttentionGrads { query: to_rows(d_q, shape), blocks }
}

/// Turns products of keys and queries into weights `p`, and `d_p` into `p·(d_p − Σ d_out·out)`, in place; both `[n, rows]`.
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
    let rows = plan.rows();
    let delta: Vec<f32> =
        (0..rows).map(|i| out.row(i).iter().zip(d_out.row(i)).map(|(o, d)| o * d).sum()).collect();
    let valid = plan.valid(b);
    for (key, (p, d_s)) in p.chunks_exact_mut(rows).zip(d_s.chunks_exact_mut(rows)).enumerate() {
        // Padding weighs nothing.
        let first = if valid.is_none_or(|valid| valid[key]) { plan.first(key) } else { rows };
        p[..first].fill(0.0);
        d_s[..first].fill(0.0);
        let of_rows = lse[first..].iter().zip(&delta[first..]);
        for ((p, d_s), (lse, delta)) in p[first..].iter_mut().zip(&mut d_s[first..]).zip(of_rows) {
            *p = exp(*p * plan.scale - lse);
            *d_s = *p * (*d_s - delta);
        }
    }
}
