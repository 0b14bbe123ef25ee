//! Two ways of answering the same questions, compared question by question: what makes some questions harder than others for both is no
//! difference between them.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::statistics::Statistics;

use super::sample_score::{SampleScore, proportion_interval};

/// How a control does on the questions that the real message was scored on, too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Mean of the differences of the samples' losses, control minus real, each weighted with its target tokens.
    pub loss_difference: f64,
    /// Its 95 % interval (Student's t over samples); none for fewer than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_interval: Option<[f64; 2]>,
    /// Questions that only the real message, and questions that only the control has right, where answers were checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_right: Option<[usize; 2]>,
    /// Of the questions that one of the two has right, the share that the real message has: its 95 % interval (Clopper and Pearson). A
    /// half means that neither is better (McNemar's exact test).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_interval: Option<[f64; 2]>,
}

impl Paired {
    /// Compares the scores of the same samples in the same order.
    ///
    /// # Panics
    /// If they are of different samples.
    pub fn new(real: &[SampleScore], control: &[SampleScore]) -> Self {
        let lines = |scores: &[SampleScore]| scores.iter().map(|s| s.line).collect::<Vec<_>>();
        assert_eq!(lines(real), lines(control), "the same samples in the same order");
        let tokens: usize = real.iter().map(|s| s.target_tokens).sum();
        let share = real.len() as f64 / tokens.max(1) as f64;
        let pairs = real.iter().zip(control);
        let differences: Vec<f64> =
            pairs.clone().map(|(r, c)| (c.loss - r.loss) * r.target_tokens as f64 * share).collect();
        let (n, mean) = (differences.len() as f64, differences.iter().mean());
        let quantile = StudentsT::new(0.0, 1.0, n - 1.0).ok().map(|t| t.inverse_cdf(0.975));
        let half = quantile.map(|q| q * differences.iter().std_dev() / n.sqrt()).filter(|x| x.is_finite());
        let right: Option<Vec<(bool, bool)>> = pairs.map(|(r, c)| r.is_correct.zip(c.is_correct)).collect();
        let only_right = right.map(|all| {
            let count = |wanted: (bool, bool)| all.iter().filter(|&&pair| pair == wanted).count();
            [count((true, false)), count((false, true))]
        });
        Self {
            loss_difference: mean,
            loss_interval: half.map(|half| [mean - half, mean + half]),
            only_right,
            share_interval: only_right.map(|[r, c]| proportion_interval(r, r + c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_questions_hard_for_both_is_no_difference() {
        let score = |line: usize, loss: f64, right: bool| SampleScore {
            line,
            loss,
            target_tokens: 2,
            trace_positions: 0,
            is_correct: Some(right),
        };
        let real: Vec<_> = (0..9).map(|i| score(i, i as f64, i < 8)).collect();
        let control: Vec<_> =
            (0..9).map(|i| score(i, i as f64 + 0.1 + 0.01 * (i % 3) as f64, i == 8)).collect();
        let paired = Paired::new(&real, &control);
        // scipy.stats.ttest_1samp([0.1, 0.11, 0.12] * 3, 0).confidence_interval()
        let [low, high] = paired.loss_interval.unwrap();
        assert!((paired.loss_difference - 0.11).abs() < 1e-12);
        assert!((low - 0.103_343).abs() < 1e-5 && (high - 0.116_656).abs() < 1e-5, "{low} {high}");
        assert_eq!(paired.only_right, Some([8, 1]));
        // scipy.stats.binomtest(8, 9).proportion_ci()
        let [low, high] = paired.share_interval.unwrap();
        assert!((low - 0.517_50).abs() < 1e-4 && (high - 0.997_19).abs() < 1e-4, "{low} {high}");
    }
}
