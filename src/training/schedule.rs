//! Learning-rate schedules under Hugging Face's names and with its formulas.

use std::f64::consts::PI;

named_enum! {
    /// `lr_scheduler_type`.
    LrSchedulerType, "schedule" {
        /// Warm-up, then linearly to 0.
        #[default]
        Linear = "linear",
        /// Warm-up, then half a cosine to 0.
        Cosine = "cosine",
        /// The same rate always.
        Constant = "constant",
        /// Warm-up, then the same rate.
        ConstantWithWarmup = "constant_with_warmup",
        /// Warm-up, then the same rate, and down to 0 over the last `num_decay_steps` updates.
        WarmupStableDecay = "warmup_stable_decay",
    }
}

named_enum! {
    /// `decay_type`: how the rate of `warmup_stable_decay` falls.
    DecayType, "decay type" {
        /// Linearly.
        #[default]
        Linear = "linear",
        /// Half a cosine.
        Cosine = "cosine",
        /// 1 − √x: fast at first.
        OneMinusSqrt = "1-sqrt",
    }
}

/// How the learning rate of a phase goes from update to update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Its shape.
    pub kind: LrSchedulerType,
    /// Updates of linear warm-up from 0.
    pub warmup_steps: usize,
    /// Updates over which `warmup_stable_decay` falls, at most those after the warm-up; where it is absent, 60 % of all.
    pub num_decay_steps: Option<usize>,
    /// How it falls.
    pub decay_type: DecayType,
}

impl Schedule {
    /// The rate of update `step` (from 0) of `total`.
    pub fn rate(&self, peak: f64, step: usize, total: usize) -> f64 {
        let warmup = self.warmup_steps;
        if self.kind == LrSchedulerType::Constant {
            return peak;
        }
        if step < warmup {
            return peak * step as f64 / warmup as f64;
        }
        let left = total.saturating_sub(warmup).max(1);
        let done = (step - warmup) as f64 / left as f64;
        let factor = match self.kind {
            LrSchedulerType::Linear => 1.0 - done,
            LrSchedulerType::Cosine => cosine(done),
            LrSchedulerType::WarmupStableDecay => {
                let decay = self.num_decay_steps.unwrap_or(total - total * 2 / 5).min(left);
                let stable = warmup + left - decay;
                let done = step.saturating_sub(stable) as f64 / decay.max(1) as f64;
                match self.decay_type {
                    DecayType::Linear => 1.0 - done,
                    DecayType::Cosine => cosine(done),
                    DecayType::OneMinusSqrt => 1.0 - done.sqrt(),
                }
            }
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
        };
        peak * factor.max(0.0)
    }
}

/// Half a cosine, from 1 to 0.
fn cosine(done: f64) -> f64 {
    0.5 * (1.0 + (PI * done.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(kind: LrSchedulerType, schedule: Schedule, total: usize, want: &[f64]) {
        for (step, want) in want.iter().enumerate() {
            let rate = Schedule { kind, ..schedule }.rate(1.0, step, total);
            assert!((rate - want).abs() < 1e-12, "{kind}, update {step}: {rate} is not {want}");
        }
    }

    #[test]
    fn schedules_follow_those_of_transformers() {
        // get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup, warm-up 2 of 10 updates
        let schedule = Schedule { warmup_steps: 2, ..Schedule::default() };
        let at = |kind, step| Schedule { kind, ..schedule }.rate(1.0, step, 10);
        assert_eq!(at(LrSchedulerType::Linear, 0), 0.0);
        assert_eq!(at(LrSchedulerType::Linear, 1), 0.5);
        assert_eq!(at(LrSchedulerType::Linear, 6), 0.5);
        assert!((at(LrSchedulerType::Cosine, 4) - 0.853_553_390_593_273_7).abs() < 1e-12);
        assert_eq!(at(LrSchedulerType::ConstantWithWarmup, 9), 1.0);
        assert_eq!(at(LrSchedulerType::Constant, 0), 1.0);
    }

    #[test]
    fn a_stable_rate_decays_as_that_of_transformers() {
        // get_wsd_schedule(num_warmup_steps=2, num_decay_steps=4, num_training_steps=10, decay_type=…), min_lr_ratio 0, num_cycles 0.5
        let head = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0];
        let wsd = |decay_type, tail: [f64; 4]| {
            let schedule =
                Schedule { warmup_steps: 2, num_decay_steps: Some(4), decay_type, ..Schedule::default() };
            let want = [&head[..], &tail, &[0.0]].concat();
            close(LrSchedulerType::WarmupStableDecay, schedule, 10, &want);
        };
        wsd(DecayType::Linear, [1.0, 0.75, 0.5, 0.25]);
        wsd(DecayType::Cosine, [1.0, 0.853_553_390_593_273_7, 0.5, 0.146_446_609_406_726_24]);
        wsd(DecayType::OneMinusSqrt, [1.0, 0.5, 0.292_893_218_813_452_4, 0.133_974_596_215_561_35]);
    }

    #[test]
    fn a_stable_rate_lasts_for_two_updates_of_five_where_nothing_else_is_said_and_never_cuts_the_warm_up() {
        let schedule = Schedule { warmup_steps: 1, ..Schedule::default() };
        let want = [0.0, 1.0, 1.0, 1.0, 1.0, 5.0 / 6.0, 4.0 / 6.0, 3.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0, 0.0];
        close(LrSchedulerType::WarmupStableDecay, schedule, 10, &want);
        let schedule = Schedule { warmup_steps: 4, num_decay_steps: Some(100), ..Schedule::default() };
        close(LrSchedulerType::WarmupStableDecay, schedule, 6, &[0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0]);
        // A run that is shorter than its warm-up ends within it.
        close(LrSchedulerType::WarmupStableDecay, schedule, 2, &[0.0, 0.25]);
    }
}
