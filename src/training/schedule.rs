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
    }
}

/// The rate of update `step` (from 0) of `total`, after `warmup` updates of linear warm-up from 0.
pub fn learning_rate(kind: LrSchedulerType, peak: f64, step: usize, warmup: usize, total: usize) -> f64 {
    if kind == LrSchedulerType::Constant {
        return peak;
    }
    if step < warmup {
        return peak * step as f64 / warmup as f64;
    }
    let left = total.saturating_sub(warmup).max(1) as f64;
    let done = (step - warmup) as f64 / left;
    match kind {
        LrSchedulerType::Linear => peak * (1.0 - done).max(0.0),
        LrSchedulerType::Cosine => peak * (0.5 * (1.0 + (PI * done.min(1.0)).cos())).max(0.0),
        LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => peak,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_follow_those_of_transformers() {
        // get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup, warm-up 2 of 10 updates
        let at = |kind, step| learning_rate(kind, 1.0, step, 2, 10);
        assert_eq!(at(LrSchedulerType::Linear, 0), 0.0);
        assert_eq!(at(LrSchedulerType::Linear, 1), 0.5);
        assert_eq!(at(LrSchedulerType::Linear, 6), 0.5);
        assert!((at(LrSchedulerType::Cosine, 4) - 0.853_553_390_593_273_7).abs() < 1e-12);
        assert_eq!(at(LrSchedulerType::ConstantWithWarmup, 9), 1.0);
        assert_eq!(at(LrSchedulerType::Constant, 0), 1.0);
    }
}
