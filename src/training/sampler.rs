//! Which lines an update sees: a permutation per epoch, a function of (seed, epoch) alone, so that a place in the data is two
//! numbers; or, while a curriculum holds difficult lines back, a draw that is a function of (seed, update).

use rand::seq::SliceRandom;

use crate::random::generator;

/// The order of lines, each of which brings all its questions.
#[derive(Clone, Debug)]
pub struct Sampler {
    lines: usize,
    batch_size: usize,
    accumulation: usize,
    seed: u64,
}

impl Sampler {
    /// An order of `lines` lines in micro-batches of `batch_size`, `accumulation` of them an update.
    ///
    /// # Panics
    /// If any of them is 0.
    pub fn new(lines: usize, batch_size: usize, accumulation: usize, seed: u64) -> Self {
        assert!(lines > 0 && batch_size > 0 && accumulation > 0, "nothing to draw");
        Self { lines, batch_size, accumulation, seed }
    }

    /// Updates per epoch; the last one may be smaller.
    pub fn updates_per_epoch(&self) -> usize {
        self.lines.div_ceil(self.batch_size.saturating_mul(self.accumulation))
    }

    /// Most micro-batches of an update.
    pub fn micro_batches_per_update(&self) -> usize {
        self.lines.div_ceil(self.batch_size).min(self.accumulation)
    }

    /// The micro-batches of update `step` (from 0), as indices of lines.
    pub fn update(&self, step: usize) -> Vec<Vec<usize>> {
        let per_epoch = self.updates_per_epoch();
        let order = self.epoch(step / per_epoch);
        let size = self.batch_size.saturating_mul(self.accumulation);
        let from = step % per_epoch * size;
        let to = from.saturating_add(size).min(order.len());
        self.micro_batches(&order[from..to])
    }

    /// The micro-batches of update `step` (from 0) while only lines of a difficulty of at most `competence` are drawn: none twice
    /// before all were drawn once. The easiest is always among them.
    pub fn update_within(&self, step: usize, difficulties: &[f64], competence: f64) -> Vec<Vec<usize>> {
        if competence >= 1.0 {
            return self.update(step);
        }
        let easiest = difficulties.iter().copied().fold(f64::INFINITY, f64::min);
        let open: Vec<usize> =
            (0..self.lines).filter(|&i| difficulties[i] <= competence.max(easiest)).collect();
        // Epochs count from 0; draws count from the other end, so that no stream serves both.
        let mut rng = generator(self.seed, u64::MAX - step as u64);
        let size = self.batch_size.saturating_mul(self.accumulation).min(self.lines);
        let mut drawn = Vec::with_capacity(size);
        while drawn.len() < size {
            let mut order = open.clone();
            order.shuffle(&mut rng);
            drawn.extend(order.into_iter().take(size - drawn.len()));
        }
        self.micro_batches(&drawn)
    }

    fn micro_batches(&self, lines: &[usize]) -> Vec<Vec<usize>> {
        lines.chunks(self.batch_size).map(<[usize]>::to_vec).collect()
    }

    fn epoch(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.lines).collect();
        order.shuffle(&mut generator(self.seed, epoch as u64));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_line_once_in_an_order_of_its_own() {
        let s = Sampler::new(10, 2, 2, 7);
        assert_eq!(s.updates_per_epoch(), 3);
        let epoch = |e: usize| -> Vec<usize> { (0..3).flat_map(|i| s.update(3 * e + i).concat()).collect() };
        for e in 0..3 {
            let mut seen = epoch(e);
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        assert_eq!(s.update(2).concat(), epoch(0)[8..]);
    }

    #[test]
    fn a_curriculum_draws_only_what_is_easy_enough() {
        let s = Sampler::new(10, 2, 2, 7);
        let difficulties: Vec<f64> = (0..10).map(|i| f64::from(i) / 10.0).collect();
        let drawn = |step, c| s.update_within(step, &difficulties, c).concat();
        for step in 0..20 {
            let mut early = drawn(step, 0.35);
            early.sort_unstable();
            assert_eq!(early, [0, 1, 2, 3]);
            assert!(drawn(step, 0.0).iter().all(|&i| i == 0));
        }
        assert_ne!((0..5).map(|i| drawn(i, 0.5)).collect::<Vec<_>>(), vec![drawn(0, 0.5); 5]);
        assert_eq!(drawn(3, 1.0), s.update(3).concat());
    }

    #[test]
    fn an_update_has_the_same_lines_in_any_micro_batches() {
        let cut = |size, accumulation| Sampler::new(20, size, accumulation, 7);
        let whole = cut(8, 1).update(1);
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
