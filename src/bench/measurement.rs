//! The runs of one work, and what they come to.

use serde::{Deserialize, Serialize};

use super::clock::Run;
use super::work::Work;

/// The runs of one work that count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The work.
    pub work: Work,
    /// What a run does: tokens or steps.
    pub count: usize,
    /// Wall-clock seconds of each run, in their order.
    pub seconds: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
    /// What the median comes to.
    pub figure: f64,
    /// The unit of that.
    pub unit: String,
}

impl Measurement {
    /// What `runs` of a work come to, all of which did as much.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(work: Work, runs: &[Run]) -> Self {
        let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
        let (median, count) = (median(&seconds), runs[0].count);
        let (figure, unit) = work.figure(median, count);
        Self {
            work,
            count,
            median,
            min: seconds.iter().copied().fold(f64::INFINITY, f64::min),
            max: seconds.iter().copied().fold(0.0, f64::max),
            seconds,
            figure,
            unit: unit.into(),
        }
    }

    /// How many times as fast as `other` this is, as much work for as much.
    pub fn speed_to(&self, other: &Self) -> f64 {
        (other.median / other.count as f64) / (self.median / self.count as f64)
    }
}

/// The middle of `values`, between the middle two where there are as many on both sides.
///
/// # Panics
/// If there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    0.5 * (sorted[(n - 1) / 2] + sorted[n / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_a_median_and_ends() {
        let runs = [3.0, 1.0, 2.0, 8.0].map(|seconds| Run { seconds, count: 10 });
        let prefill = Measurement::new(Work::Prefill, &runs);
        assert_eq!((prefill.median, prefill.min, prefill.max), (2.5, 1.0, 8.0));
        assert_eq!((prefill.figure, prefill.unit.as_str()), (4.0, "tok/s"));
        let faster = Measurement::new(Work::Prefill, &[Run { seconds: 1.0, count: 10 }]);
        assert_eq!(faster.speed_to(&prefill), 2.5);
    }
}
