//! Which samples an update sees: a permutation per epoch, a function of (seed, epoch) alone, so that a place in the data is two
//! numbers; or, while a curriculum holds difficult samples back, a draw that is a function of (seed, update).

use rand::seq::SliceRandom;

use crate::random::generator;

/// A row of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Index of its sample.
    pub sample: usize,
    /// Its place among all rows of the update, however these are cut into micro-batches.
    pub number: u64,
}

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

    /// The micro-batches of update `step` (from 0), numbered through.
    pub fn update(&self, step: usize) -> Vec<Vec<Drawn>> {
        let per_epoch = self.updates_per_epoch();
        let order = self.epoch(step / per_epoch);
        let size = self.batch_size.saturating_mul(self.accumulation);
        let from = step % per_epoch * size;
        let to = from.saturating_add(size).min(order.len());
        self.micro_batches(&order[from..to])
    }

    /// The micro-batches of update `step` (from 0) while only samples of a difficulty of at most `competence` are drawn: none twice
    /// before all were drawn once. The easiest is always among them.
    pub fn update_within(&self, step: usize, difficulties: &[f64], competence: f64) -> Vec<Vec<Drawn>> {
        if competence >= 1.0 {
            return self.update(step);
        }
        let easiest = difficulties.iter().copied().fold(f64::INFINITY, f64::min);
        let open: Vec<usize> =
            (0..self.samples).filter(|&i| difficulties[i] <= competence.max(easiest)).collect();
        // Epochs count from 0; draws count from the other end, so that no stream serves both.
        let mut rng = generator(self.seed, u64::MAX - step as u64);
        let size = self.batch_size.saturating_mul(self.accumulation).min(self.samples);
        let mut drawn = Vec::with_capacity(size);
        while drawn.len() < size {
            let mut order = open.clone();
            order.shuffle(&mut rng);
            drawn.extend(order.into_iter().take(size - drawn.len()));
        }
        self.micro_batches(&drawn)
    }

    fn micro_batches(&self, samples: &[usize]) -> Vec<Vec<Drawn>> {
        let rows: Vec<Drawn> =
            samples.iter().zip(0..).map(|(&sample, number)| Drawn { sample, number }).collect();
        rows.chunks(self.batch_size).map(<[Drawn]>::to_vec).collect()
    }

    fn epoch(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples).collect();
        order.shuffle(&mut generator(self.seed, epoch as u64));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(update: Vec<Vec<Drawn>>) -> Vec<usize> {
        update.concat().iter().map(|row| row.sample).collect()
    }

    #[test]
    fn every_epoch_visits_every_sample_once_in_an_order_of_its_own() {
        let s = Sampler::new(10, 2, 2, 7);
        assert_eq!(s.updates_per_epoch(), 3);
        let epoch = |e: usize| -> Vec<usize> { (0..3).flat_map(|i| samples(s.update(3 * e + i))).collect() };
        for e in 0..3 {
            let mut seen = epoch(e);
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        assert_eq!(samples(s.update(2)), epoch(0)[8..]);
    }

    #[test]
    fn a_curriculum_draws_only_what_is_easy_enough() {
        let s = Sampler::new(10, 2, 2, 7);
        let difficulties: Vec<f64> = (0..10).map(|i| f64::from(i) / 10.0).collect();
        let drawn = |step, c| samples(s.update_within(step, &difficulties, c));
        for step in 0..20 {
            let mut early = drawn(step, 0.35);
            early.sort_unstable();
            assert_eq!(early, [0, 1, 2, 3]);
            assert!(drawn(step, 0.0).iter().all(|&i| i == 0));
        }
        assert_ne!((0..5).map(|i| drawn(i, 0.5)).collect::<Vec<_>>(), vec![drawn(0, 0.5); 5]);
        assert_eq!(drawn(3, 1.0), samples(s.update(3)));
    }

    #[test]
    fn a_row_has_the_same_number_in_any_micro_batch() {
        let cut = |size, accumulation| Sampler::new(20, size, accumulation, 7);
        let whole = cut(8, 1).update(1);
        let numbers: Vec<u64> = whole[0].iter().map(|row| row.number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
        let easy: Vec<f64> = (0..20).map(|i| f64::from(i) / 20.0).collect();
        for (size, accumulation) in [(2, 4), (4, 2), (1, 8)] {
            let s = cut(size, accumulation);
            assert_eq!(s.update(1).iter().map(Vec::len).collect::<Vec<_>>(), vec![size; accumulation]);
            assert_eq!(s.update(1).concat(), whole[0]);
            let within = |s: &Sampler| s.update_within(3, &easy, 0.3).concat();
            assert_eq!(within(&s), within(&cut(8, 1)));
        }
    }
}
