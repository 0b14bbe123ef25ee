//! Scores of single samples, and what they say of all: 95 % intervals of losses and of proportions.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF, StudentsT};
use statrs::statistics::Statistics;

/// The score of one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleScore {
    /// Its line in the data file, from 1.
    pub line: usize,
    /// Mean NLL of its target tokens, in nats.
    pub loss: f64,
    /// Its target tokens.
    pub target_tokens: usize,
    /// Positions and vectors that the final agent found, padding not counted.
    pub trace_positions: usize,
    /// Whether the final agent's own answer was right, where that was checked.
    #[serde(flatten, with = "super::former_names::is_correct")]
    pub is_correct: Option<bool>,
}

/// The score of one sample with one control, as a line of `samples.jsonl` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlledScore {
    /// What the final agent read.
    #[serde(flatten, with = "super::former_names::control")]
    pub control: String,
    /// The score.
    #[serde(flatten)]
    pub score: SampleScore,
}

/// How many answers were right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Right answers by checked ones.
    pub accuracy: f64,
    /// Its 95 % interval (Clopper and Pearson, exact).
    pub interval: [f64; 2],
    /// Answers that were checked.
    pub checked: usize,
}

impl Accuracy {
    /// The accuracy in percent with its interval, `98.6 % [97.3, 99.4]`; `unit` stands after the number.
    pub fn in_percent(&self, digits: usize, unit: &str) -> String {
        let [low, high] = self.interval.map(|x| 100.0 * x);
        format!("{:.digits$}{unit} [{low:.digits$}, {high:.digits$}]", 100.0 * self.accuracy)
    }
}

/// The 95 % interval of a ratio of sums over samples: that of the mean of `loss + (s_i − loss·n_i)·N / Σn`, the ratio's linearisation.
pub(super) fn loss_interval(scores: &[SampleScore], loss: f64, tokens: usize) -> Option<[f64; 2]> {
    let share = scores.len() as f64 / tokens.max(1) as f64;
    let linear = scores.iter().map(|s| loss + (s.loss - loss) * s.target_tokens as f64 * share);
    let values: Vec<f64> = linear.collect();
    let n = values.len() as f64;
    let quantile = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.975);
    let half = quantile * values.std_dev() / n.sqrt();
    // No loss is below 0, whatever the deviation of few samples makes of it.
    half.is_finite().then_some([(loss - half).max(0.0), loss + half])
}

/// How many of the `checked` answers are right; `None` where there is none.
pub(super) fn accuracy(checked: &[bool]) -> Option<Accuracy> {
    let (n, right) = (checked.len(), checked.iter().filter(|&&r| r).count());
    let interval = proportion_interval(right, n);
    (n > 0).then(|| Accuracy { accuracy: right as f64 / n as f64, interval, checked: n })
}

/// The 95 % interval of a proportion (Clopper and Pearson).
pub(super) fn proportion_interval(right: usize, n: usize) -> [f64; 2] {
    let wrong = n - right;
    let bound =
        |a: usize, b: usize, p: f64| Beta::new(a as f64, b as f64).ok().map(|beta| beta.inverse_cdf(p));
    // A bound that no beta distribution gives is the end of the range: none right, or none wrong.
    [bound(right, wrong + 1, 0.025).unwrap_or(0.0), bound(right + 1, wrong, 0.975).unwrap_or(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_proportions_are_exact_at_both_ends() {
        // scipy.stats.binomtest(k, n).proportion_ci(method="exact")
        let of = |right: usize, n: usize| {
            accuracy(&(0..n).map(|i| i < right).collect::<Vec<_>>()).unwrap().interval
        };
        for (right, n, want) in [
            (0, 12, [0.0, 0.264_648_5]),
            (12, 12, [0.735_351_5, 1.0]),
            (3, 10, [0.066_739_5, 0.652_452_9]),
            (50, 100, [0.398_321_1, 0.601_678_9]),
        ] {
            let got = of(right, n);
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "{right} of {n}: {got:?}");
        }
        assert!(accuracy(&[]).is_none());
    }

    #[test]
    fn the_interval_of_the_loss_is_that_of_a_mean_where_samples_are_of_one_length() {
        let score =
            |loss: f64| SampleScore { line: 1, loss, target_tokens: 3, trace_positions: 0, is_correct: None };
        let scores = [1.0, 2.0, 4.0].map(score);
        let [low, high] = loss_interval(&scores, 7.0 / 3.0, 9).unwrap();
        // scipy.stats.t.interval(0.95, 2, 7 / 3, scipy.stats.sem([1, 2, 4]))
        assert!(low == 0.0 && (high - 6.127_916_9).abs() < 1e-6, "{low} {high}");
        let [low, high] = loss_interval(&[7.0, 8.0, 10.0].map(score), 25.0 / 3.0, 9).unwrap();
        assert!((low - 4.538_749_8).abs() < 1e-6 && (high - 12.127_916_9).abs() < 1e-6, "{low} {high}");
        assert!(loss_interval(&scores[..1], 1.0, 3).is_none());
    }
}
