//! Which samples an update sees: a permutation per epoch, a function of (seed, epoch) alone, so that a place in the data is two
//! numbers.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The order of samples.
#[derive(Clone, Debug)]
pub struct Sampler {
    samples: usize,
    batch_size: usize,
    accumulation: usize,
    seed: u64,
}

impl Sampler {
    /// An order of `samples` samples in micro-batches of `batch_size`, `accumulation` of them an update.
    ///
    /// # Panics
    /// If any of them is 0.
    pub fn new(samples: usize, batch_size: usize, accumulation: usize, seed: u64) -> Self {
        assert!(samples > 0 && batch_size > 0 && accumulation > 0, "nothing to draw");
        Self { samples, batch_size, accumulation, seed }
    }

    /// Updates per epoch; the last one may be smaller.
    pub fn updates_per_epoch(&self) -> usize {
        self.samples.div_ceil(self.batch_size.saturating_mul(self.accumulation))
    }

    /// The micro-batches of update `step` (from 0), as indices of samples.
    pub fn update(&self, step: usize) -> Vec<Vec<usize>> {
        let per_epoch = self.updates_per_epoch();
        let order = self.epoch(step / per_epoch);
        let size = self.batch_size.saturating_mul(self.accumulation);
        let from = step % per_epoch * size;
        let to = from.saturating_add(size).min(order.len());
        order[from..to].chunks(self.batch_size).map(<[usize]>::to_vec).collect()
    }

    fn epoch(&self, epoch: usize) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..self.samples).collect();
        order.shuffle(&mut rng);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_sample_once_in_an_order_of_its_own() {
        let s = Sampler::new(10, 2, 2, 7);
        assert_eq!(s.updates_per_epoch(), 3);
        let epoch = |e: usize| -> Vec<usize> { (0..3).flat_map(|i| s.update(3 * e + i)).flatten().collect() };
        for e in 0..3 {
            let mut seen = epoch(e);
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        assert_eq!(s.update(2), vec![epoch(0)[8..].to_vec()]);
    }
}
