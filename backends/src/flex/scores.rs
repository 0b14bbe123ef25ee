//! What generation asks of scores, which lie in the process's own memory: read where they are.

use burn::backend::Flex;
use burn::prelude::*;
use rayon::prelude::*;

use super::elementwise::{exp, sum};
use super::instructions::arch;
use super::{contiguous, tensor, values, wrapped};
use crate::scores::{BestToken, Penalty, ScoredToken, max, top};

/// Numbers that are added up in single precision.
const PART: usize = 4096;

pub(super) fn best_tokens(logits: Tensor<Flex, 2>) -> Vec<BestToken> {
    let [_, vocab] = logits.dims();
    let logits = contiguous(logits);
    let facts = |row: &[f32]| {
        arch().dispatch(
            #[inline(always)]
            || {
                let best = max(row);
                let sum = sum(row.len(), |i| exp(row[i] - best));
                (best, sum, sum_of_zeros(row) == 0.0)
            },
        )
    };
    values(&logits)
        .par_chunks_exact(vocab)
        .map(|row| {
            let (best, sum, finite) = facts(row);
            let id = row.iter().position(|&x| x == best).unwrap_or(0) as u32;
            BestToken { id, log_prob: if finite { -sum.ln() } else { f32::NAN } }
        })
        .collect()
}

/// 0 if all of `x` are finite, else no number.
#[inline(always)]
fn sum_of_zeros(x: &[f32]) -> f32 {
    sum(x.len(), |i| x[i] * 0.0)
}

pub(super) fn top_tokens(logits: Tensor<Flex, 2>, counts: &[usize]) -> Vec<Vec<ScoredToken>> {
    let [_, vocab] = logits.dims();
    let logits = contiguous(logits);
    values(&logits).par_chunks_exact(vocab).zip(counts).map(|(row, &k)| top(row, k)).collect()
}

pub(super) fn warm_sums(logits: Tensor<Flex, 2>, temperatures: &[f64]) -> Vec<f64> {
    let [_, vocab] = logits.dims();
    let logits = contiguous(logits);
    values(&logits)
        .par_chunks_exact(vocab)
        .zip(temperatures)
        .map(|(row, &temperature)| {
            let scale = temperature.recip() as f32;
            arch().dispatch(
                #[inline(always)]
                || {
                    let best = max(row);
                    let part = |part: &[f32]| f64::from(sum(part.len(), |i| exp((part[i] - best) * scale)));
                    row.chunks(PART).map(part).sum()
                },
            )
        })
        .collect()
}

pub(super) fn penalised(logits: Tensor<Flex, 2>, penalties: &[Penalty]) -> Tensor<Flex, 2> {
    let shape = logits.dims();
    let mut scores = values(&contiguous(logits)).to_vec();
    for (row, penalty) in scores.chunks_exact_mut(shape[1]).zip(penalties) {
        for &id in &penalty.ids {
            row[id as usize] = penalty.apply(row[id as usize]);
        }
    }
    tensor(scores, shape)
}

/// Burn's own assignment holds its tensor twice, and copies it for that.
pub(super) fn written(cache: Tensor<Flex, 4>, new: Tensor<Flex, 4>, from: usize) -> Tensor<Flex, 4> {
    let ([_, g, capacity, d], [b, _, t, _]) = (cache.dims(), new.dims());
    let (mut cache, new) = (contiguous(cache), contiguous(new));
    let rows = values(&new).chunks_exact(t * d);
    let cells = cache.storage_mut::<f32>();
    assert!(
        from + t <= capacity && cells.len() == b * g * capacity * d,
        "a cache with room for what is written"
    );
    for (head, row) in cells.chunks_exact_mut(capacity * d).zip(rows) {
        head[from * d..][..t * d].copy_from_slice(row);
    }
    wrapped(cache)
}
