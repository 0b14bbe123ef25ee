//! Dropout of what LoRA's factors read, drawn anew from keys wherever it is needed.

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use rayon::prelude::*;

use crate::random::{hash_of, splitmix};

/// Which numbers of a module's input its factors do not see: each with probability `p`, others are scaled by `1 / (1 - p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraDropout {
    /// The probability, in `[0, 1)`.
    pub p: f64,
    /// What keeps the draws of modules apart.
    module: u64,
}

impl LoraDropout {
    /// That of the module at `path`.
    pub fn new(p: f64, path: &str) -> Self {
        Self { p, module: hash_of(path) }
    }

    /// `x` without what is dropped. Number `i` at a position of key `k` stays where half `i mod 2` (32 bits, the lower first) of
    /// `splitmix(k ^ module, i / 2)` is at least `p·2³²`.
    ///
    /// # Shapes
    /// `x [N, in]`, a key for each of the `N` positions → `[N, in]`
    ///
    /// # Panics
    /// If there are not as many keys.
    pub(super) fn apply<B: Backend>(&self, x: Tensor<B, 2>, keys: &[u64]) -> Tensor<B, 2> {
        if self.p == 0.0 {
            return x;
        }
        let [n, width] = x.dims();
        assert_eq!(keys.len(), n, "a key for each position");
        x.clone() * Tensor::from_data(TensorData::new(self.mask(keys, width), [n, width]), &x.device())
    }

    /// What the inputs at positions of these keys are multiplied by.
    fn mask(&self, keys: &[u64], width: usize) -> Vec<f32> {
        let least = (self.p * 2_f64.powi(32)) as u64;
        let kept = (1.0 / (1.0 - self.p)) as f32;
        let mut mask = vec![0.0; keys.len() * width];
        mask.par_chunks_mut(width).zip(keys).for_each(|(row, key)| {
            for (i, pair) in row.chunks_mut(2).enumerate() {
                let drawn = splitmix(key ^ self.module, i as u64);
                for (value, half) in pair.iter_mut().zip([drawn & u64::from(u32::MAX), drawn >> 32]) {
                    *value = if half < least { 0.0 } else { kept };
                }
            }
        });
        mask
    }
}

/// Keys of the rows of a backbone's passes: what is drawn at a position depends on its row's key and its id alone, whatever stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKeys(Arc<[u64]>);

impl RowKeys {
    /// The keys of rows of agent `agent` whose samples have the numbers `samples`.
    pub(crate) fn new(seed: u64, agent: usize, samples: &[u64]) -> Self {
        Self(samples.iter().map(|&sample| splitmix(splitmix(seed, sample), agent as u64)).collect())
    }

    /// Rows of several agents, one agent's after another's.
    pub(crate) fn joined<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        Self(all.flat_map(|keys| keys.0.iter().copied()).collect())
    }

    /// The keys of all positions with the ids `ids`, `[B, n]` row-major.
    ///
    /// # Panics
    /// If there is not one key for each row.
    pub(super) fn positions(&self, batch: usize, ids: &[u32]) -> Arc<[u64]> {
        assert_eq!(self.0.len(), batch, "a key for each row");
        let rows = ids.chunks_exact((ids.len() / batch).max(1)).zip(self.0.iter());
        rows.flat_map(|(ids, &key)| ids.iter().map(move |&id| splitmix(key, u64::from(id)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_numbers_are_dropped_as_asked_for_and_the_mean_stays() {
        let keys = RowKeys::new(1, 0, &[7, 8]).positions(2, &(0..200).collect::<Vec<_>>());
        for p in [0.1, 0.5] {
            let mask = LoraDropout::new(p, "q_proj").mask(&keys, 501);
            let dropped = mask.iter().filter(|&&x| x == 0.0).count() as f64 / mask.len() as f64;
            assert!((dropped - p).abs() < 0.005, "{dropped}");
            let mean = mask.iter().map(|&x| f64::from(x)).sum::<f64>() / mask.len() as f64;
            assert!((mean - 1.0).abs() < 0.01, "{mean}");
        }
    }

    #[test]
    fn draws_depend_on_module_agent_sample_and_position_alone() {
        let mask = |path: &str, agent: usize, samples: &[u64], ids: &[u32]| {
            let keys = RowKeys::new(1, agent, samples).positions(samples.len(), ids);
            LoraDropout::new(0.5, path).mask(&keys, 64)
        };
        let one = mask("q", 0, &[5], &[3]);
        for other in [
            mask("k", 0, &[5], &[3]),
            mask("q", 1, &[5], &[3]),
            mask("q", 0, &[6], &[3]),
            mask("q", 0, &[5], &[4]),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(mask("q", 0, &[4, 5], &[9, 3, 2, 3])[3 * 64..], one);
    }
}
