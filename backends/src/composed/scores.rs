//! What generation asks of scores `[N, V]`: little of them leaves the device.

use burn::prelude::*;
use burn::tensor::{IndexingUpdateOp, TensorData, Transaction};

use super::wide;
use crate::ModelBackend;
use crate::scores::{BestToken, GROUP, Penalty, ScoredToken, best_first, threshold, top};
use crate::{host_data, host_data_of_all};

/// See [`ModelBackend::best_tokens`](crate::ModelBackend::best_tokens).
pub fn best_tokens<B: ModelBackend>(logits: Tensor<B, 2>) -> Vec<BestToken> {
    let logits = wide(logits);
    let ids = B::argmax_last(logits.clone());
    let best = logits.clone().gather(1, ids.clone());
    let least = B::min_last(logits.clone());
    let sums = B::sum_last((logits - best.clone()).exp());
    let device = ids.device();
    let read = Transaction::default().register(ids).register(best).register(least).register(sums);
    let data = host_data_of_all(read, &device);
    let [ids, best, least, sums] = <[TensorData; 4]>::try_from(data).expect("as many as were registered");
    let rows = ids.iter::<i64>().zip(best.iter()).zip(least.iter()).zip(sums.iter());
    rows.map(|(((id, best), least), sum)| BestToken::new(id as u32, best, least, sum)).collect()
}

/// See [`ModelBackend::top_tokens`](crate::ModelBackend::top_tokens): the largest score of each group, then the groups that hold one.
pub fn top_tokens<B: ModelBackend>(logits: Tensor<B, 2>, counts: &[usize]) -> Vec<Vec<ScoredToken>> {
    let logits = wide(logits);
    let [rows, vocab] = logits.dims();
    let groups = vocab / GROUP;
    if counts.iter().any(|&k| k == 0 || k > groups / 4) {
        let all: Vec<f32> = host_data(logits).iter().collect();
        return all.chunks_exact(vocab).zip(counts).map(|(row, &k)| top(row, k)).collect();
    }
    let whole = groups * GROUP;
    let grouped = logits.clone().narrow(1, 0, whole).reshape([rows * groups, GROUP]);
    let mut wanted = Transaction::default().register(B::max_last(grouped.clone()));
    if whole < vocab {
        wanted = wanted.register(logits.narrow(1, whole, vocab - whole));
    }
    let mut data = host_data_of_all(wanted, &grouped.device()).into_iter();
    let maxima: Vec<f32> = data.next().expect("it was registered").iter().collect();
    let rest: Vec<f32> = data.next().map(|rest| rest.iter().collect()).unwrap_or_default();
    let chosen: Vec<Vec<usize>> = maxima
        .chunks_exact(groups)
        .zip(counts)
        .map(|(maxima, &k)| {
            let least = threshold(maxima, k);
            (0..groups).filter(|&g| maxima[g] >= least).collect()
        })
        .collect();
    let at: Vec<i64> = (0..)
        .zip(&chosen)
        .flat_map(|(row, chosen)| chosen.iter().map(move |g| (row * groups + g) as i64))
        .collect();
    let n = at.len();
    let at = Tensor::<B, 1, Int>::from_data(TensorData::new(at, [n]), &grouped.device());
    let found: Vec<f32> = host_data(grouped.select(0, at)).iter().collect();
    let mut found = found.chunks_exact(GROUP);
    let row = |(row, chosen): (usize, &Vec<usize>)| {
        let tail = &rest[row * (vocab - whole)..][..vocab - whole];
        let groups =
            chosen.iter().map(|g| (g * GROUP, found.next().expect("a group for each that was chosen")));
        let tokens = groups.chain([(whole, tail)]).flat_map(|(from, scores)| {
            (from as u32..).zip(scores).map(|(id, &score)| ScoredToken { id, score })
        });
        best_first(tokens.collect(), counts[row])
    };
    chosen.iter().enumerate().map(row).collect()
}

/// See [`ModelBackend::warm_sums`](crate::ModelBackend::warm_sums).
pub fn warm_sums<B: ModelBackend>(logits: Tensor<B, 2>, temperatures: &[f64]) -> Vec<f64> {
    let logits = wide(logits);
    let temperatures: Vec<f32> = temperatures.iter().map(|&t| t as f32).collect();
    let n = temperatures.len();
    let temperatures = Tensor::<B, 2>::from_data(TensorData::new(temperatures, [n, 1]), &logits.device());
    let best = B::max_last(logits.clone());
    host_data(B::sum_last(((logits - best) / temperatures).exp())).iter().collect()
}

/// See [`ModelBackend::penalised`](crate::ModelBackend::penalised).
pub fn penalised<B: Backend>(logits: Tensor<B, 2>, penalties: &[Penalty]) -> Tensor<B, 2> {
    let logits = wide(logits);
    let ([rows, vocab], device) = (logits.dims(), logits.device());
    let cells = (0..).zip(penalties).flat_map(|(row, penalty)| {
        penalty.ids.iter().map(move |&id| ((row * vocab) as i64 + i64::from(id), penalty.factor))
    });
    let (at, factors): (Vec<i64>, Vec<f32>) = cells.unzip();
    let n = at.len();
    if n == 0 {
        return logits;
    }
    let at = Tensor::<B, 1, Int>::from_data(TensorData::new(at, [n]), &device);
    let factors = Tensor::<B, 1>::from_data(TensorData::new(factors, [n]), &device);
    let all = logits.reshape([rows * vocab]);
    let old = all.clone().select(0, at.clone());
    let new = (old.clone() / factors.clone()).mask_where(old.clone().lower_elem(0.0), old.clone() * factors);
    // What is taken off its own self leaves 0, and 0 changes no sum: the new score to the bit.
    let without = all.select_assign(0, at.clone(), old.neg(), IndexingUpdateOp::Add);
    without.select_assign(0, at, new, IndexingUpdateOp::Add).reshape([rows, vocab])
}

/// See [`ModelBackend::written`](crate::ModelBackend::written).
pub fn written<B: Backend>(cache: Tensor<B, 4>, new: Tensor<B, 4>, from: usize) -> Tensor<B, 4> {
    let [b, g, t, d] = new.dims();
    cache.slice_assign([0..b, 0..g, from..from + t, 0..d], new)
}
