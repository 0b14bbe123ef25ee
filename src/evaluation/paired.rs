//! Two ways of answering the same questions, compared question by question: what makes some questions harder than others for both is no
//! difference between them.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use statrs::statistics::Statistics;

use super::intervals::{half_of_mean, proportion_interval};
use super::sample_score::SampleScore;

/// How a control does on the questions that the real message was scored on, too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Mean of the differences of the samples' losses, control minus real, each weighted with its target tokens.
    pub loss_difference: f64,
    /// Its 95 % interval (Student's t over lines); none for fewer than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_interval: Option<[f64; 2]>,
    /// Questions that only the real message, and questions that only the control has right, where answers were checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_right: Option<[usize; 2]>,
    /// Of the questions that one of the two has right, the share that the real message has: its 95 % interval (as that of
    /// [`Accuracy`](super::Accuracy)). A half means that neither is better (McNemar's exact test where lines have one question).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_interval: Option<[f64; 2]>,
}

impl Paired {
    /// Compares the scores of the same samples in the same order.
    ///
    /// # Panics
    /// If they are of different samples.
    pub fn new(real: &[SampleScore], control: &[SampleScore]) -> Self {
        let places =
            |scores: &[SampleScore]| scores.iter().map(|s| (s.line, s.question_index)).collect::<Vec<_>>();
        assert_eq!(places(real), places(control), "the same samples in the same order");
        let lines = SampleScore::lines(real);
        let tokens: usize = real.iter().map(|s| s.target_tokens).sum();
        let share = lines.len() as f64 / tokens.max(1) as f64;
        let pairs: Vec<_> = real.iter().zip(control).collect();
        let difference = |&(r, c): &(&SampleScore, &SampleScore)| (c.loss - r.loss) * r.target_tokens as f64;
        let own = |line: &Range<usize>| pairs[line.clone()].iter().map(difference).sum::<f64>();
        let differences: Vec<f64> = lines.iter().map(|line| own(line) * share).collect();
        let mean = differences.iter().mean();
        let right: Option<Vec<(bool, bool)>> =
            pairs.iter().map(|(r, c)| r.is_correct.zip(c.is_correct)).collect();
        // Of each line, whether the real message is right where one of the two is.
        let one_right = right.map(|all| {
            let one =
                |line: Range<usize>| all[line].iter().filter(|(r, c)| r != c).map(|(r, _)| *r).collect();
            lines.into_iter().map(one).collect::<Vec<Vec<bool>>>()
        });
        let only_right = one_right.as_ref().map(|lines| {
            let count = |wanted: bool| lines.iter().flatten().filter(|&&real| real == wanted).count();
            [count(true), count(false)]
        });
        Self {
            loss_difference: mean,
            loss_interval: half_of_mean(&differences).map(|half| [mean - half, mean + half]),
            only_right,
            share_interval: one_right.map(|lines| proportion_interval(&lines)),
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
            question_index: 1,
            loss,
            target_tokens: 2,
            trace_positions: 0,
            is_correct: Some(right),
            text: None,
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

    #[test]
    fn questions_of_a_line_are_no_independent_evidence() {
        let score = |line: usize, question: usize, loss: f64, right: bool| SampleScore {
            line,
            question_index: question,
            loss,
            target_tokens: 2,
            trace_positions: 0,
            is_correct: Some(right),
            text: None,
        };
        // Nine lines of `n` questions that all say the same.
        let of = |n: usize| {
            let all = |score: &dyn Fn(usize, usize) -> SampleScore| -> Vec<SampleScore> {
                (0..9)
                    .flat_map(|line| (1..=n).map(move |question| (line, question)))
                    .map(|(l, q)| score(l, q))
                    .collect()
            };
            let real = all(&|line, question| score(line, question, line as f64, line < 8));
            let difference = |line: usize| 0.1 + 0.01 * (line % 3) as f64;
            let control =
                all(&|line, question| score(line, question, line as f64 + difference(line), line == 8));
            Paired::new(&real, &control)
        };
        let (one, three) = (of(1), of(3));
        let near = |a: [f64; 2], b: [f64; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!((one.loss_difference - three.loss_difference).abs() < 1e-12);
        assert!(near(one.loss_interval.unwrap(), three.loss_interval.unwrap()), "three say what one says");
        assert_eq!((one.only_right, three.only_right), (Some([8, 1]), Some([24, 3])));
        // Three times as many exact pairs would give [0.708, 0.976]; as in `intervals.rs`, for 8 lines of three and one of three.
        let [low, high] = three.share_interval.unwrap();
        assert!((low - 0.428_723_1).abs() < 1e-6 && (high - 0.999_273_4).abs() < 1e-6, "{low} {high}");
    }
}
