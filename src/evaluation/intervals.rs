//! 95 % intervals of losses and of proportions, over lines: the questions of a line read one message, so that their scores are not independent.
//! A line is a cluster, drawn as a whole.

use std::ops::Range;

use statrs::distribution::{Beta, ContinuousCDF, StudentsT};
use statrs::statistics::Statistics;

use super::sample_score::{Accuracy, SampleScore};

/// The interval of a ratio of sums over `lines`: that of the mean of `loss + Σ (s_i − loss)·n_i · C / Σn`, the ratio's linearisation, where the sum is
/// over the questions of a line and `C` is the number of lines.
pub(super) fn loss_interval(
    scores: &[SampleScore],
    lines: &[Range<usize>],
    loss: f64,
    tokens: usize,
) -> Option<[f64; 2]> {
    let share = lines.len() as f64 / tokens.max(1) as f64;
    let own = |line: &Range<usize>| {
        scores[line.clone()].iter().map(|s| (s.loss - loss) * s.target_tokens as f64).sum::<f64>()
    };
    let values: Vec<f64> = lines.iter().map(|line| loss + own(line) * share).collect();
    let half = half_of_mean(&values)?;
    // No loss is below 0, whatever the deviation of few lines makes of it.
    Some([(loss - half).max(0.0), loss + half])
}

/// Half the interval of the mean of independent `values` (Student's t); none for fewer than two.
pub(super) fn half_of_mean(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let half = quantile(n - 1.0)? * values.std_dev() / n.sqrt();
    half.is_finite().then_some(half)
}

/// How many of the checked answers are right, given by line; `None` where there is none.
pub(super) fn accuracy(lines: &[Vec<bool>]) -> Option<Accuracy> {
    let checked = lines.iter().map(Vec::len).sum();
    let right = lines.iter().flatten().filter(|&&r| r).count();
    let accuracy = right as f64 / checked as f64;
    (checked > 0).then(|| Accuracy { accuracy, interval: proportion_interval(lines), checked })
}

/// The interval of the proportion of what is true, given by line.
///
/// Exact (Clopper and Pearson) where no line has more than one. Else the same for the effective sample size `n / deff · (t_{n−1} / t_{C−1})²` of
/// Korn and Graubard (Survey Methodology 24, 1998, p. 193), at most `n`: `deff ≥ 1` is the variance of the proportion over `C` lines
/// (linearised) by that of independent answers. Where all are alike, that says nothing, and each line counts as one answer (Kish's `Σm² / Σm` for
/// lines of `m` answers). A single line says nothing of others: its interval is `[0, 1]`.
pub(super) fn proportion_interval(lines: &[Vec<bool>]) -> [f64; 2] {
    let lines: Vec<&Vec<bool>> = lines.iter().filter(|line| !line.is_empty()).collect();
    let count = |line: &[bool]| line.iter().filter(|&&r| r).count();
    let n = lines.iter().map(|line| line.len()).sum::<usize>() as f64;
    let right = lines.iter().map(|line| count(line)).sum::<usize>() as f64;
    if lines.iter().all(|line| line.len() == 1) {
        return clopper_pearson(right, n - right);
    }
    let clusters = lines.len() as f64;
    let (Some(of_answers), Some(of_lines)) = (quantile(n - 1.0), quantile(clusters - 1.0)) else {
        return [0.0, 1.0];
    };
    let p = right / n;
    let sum = |of: &dyn Fn(&[bool]) -> f64| lines.iter().map(|line| of(line).powi(2)).sum::<f64>();
    let deff = if p == 0.0 || p == 1.0 {
        sum(&|line| line.len() as f64) / n
    } else {
        let variance =
            clusters / (clusters - 1.0) * sum(&|line| count(line) as f64 - p * line.len() as f64) / (n * n);
        (variance / (p * (1.0 - p) / n)).max(1.0)
    };
    let effective = (n / deff * (of_answers / of_lines).powi(2)).min(n);
    clopper_pearson(p * effective, (1.0 - p) * effective)
}

/// The interval of a proportion of `right` among `right + wrong` independent answers, which need not be whole numbers.
fn clopper_pearson(right: f64, wrong: f64) -> [f64; 2] {
    let bound = |a: f64, b: f64, p: f64| Beta::new(a, b).ok().map(|beta| beta.inverse_cdf(p));
    // A bound that no beta distribution gives is the end of the range: none right, or none wrong.
    [bound(right, wrong + 1.0, 0.025).unwrap_or(0.0), bound(right + 1.0, wrong, 0.975).unwrap_or(1.0)]
}

/// The 97.5 % quantile of Student's t with `freedom` degrees of freedom, if there are any.
fn quantile(freedom: f64) -> Option<f64> {
    StudentsT::new(0.0, 1.0, freedom).ok().map(|t| t.inverse_cdf(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of one answer each, the first of which are right.
    fn single(right: usize, n: usize) -> Vec<Vec<bool>> {
        (0..n).map(|i| vec![i < right]).collect()
    }

    fn near(got: [f64; 2], want: [f64; 2], what: &str) {
        assert!(
            got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6),
            "{what}: {got:?} instead of {want:?}"
        );
    }

    #[test]
    fn intervals_of_proportions_are_exact_at_both_ends() {
        // scipy.stats.binomtest(k, n).proportion_ci(method="exact")
        for (right, n, want) in [
            (0, 12, [0.0, 0.264_648_5]),
            (12, 12, [0.735_351_5, 1.0]),
            (3, 10, [0.066_739_5, 0.652_452_9]),
            (50, 100, [0.398_321_1, 0.601_678_9]),
        ] {
            near(accuracy(&single(right, n)).unwrap().interval, want, &format!("{right} of {n}"));
        }
        assert!(accuracy(&[]).is_none() && accuracy(&[vec![], vec![]]).is_none());
    }

    #[test]
    fn answers_of_one_line_count_for_less_where_they_agree() {
        // With numpy and scipy.stats, t for `scipy.stats.t.ppf`, beta for `scipy.stats.beta.ppf`, y for the lines:
        // z = [sum(v - p) for v in y]; deff = max(1, var(z, ddof=1) * C / n**2 / (p * (1 - p) / n))
        // e = min(n, n / deff * (t(.975, n - 1) / t(.975, C - 1))**2); beta(.025, p*e, e-p*e+1), beta(.975, p*e+1, e-p*e)
        let of = |lines: &str| {
            let line = |line: &str| line.chars().map(|answer| answer == '+').collect();
            accuracy(&lines.split(' ').map(line).collect::<Vec<Vec<bool>>>()).unwrap()
        };
        let agree = of("++++ ++++ ++++ ++++ ++++ ---- ---- ---- ---- ----");
        near(agree.interval, [0.142_602_0, 0.857_398_0], "4.4 answers' worth of variance");
        assert_eq!((agree.accuracy, agree.checked), (0.5, 40));
        near(
            of(&["+++-"; 10].join(" ")).interval,
            [0.565_883_4, 0.885_420_2],
            "no line differs from another",
        );
        let uneven = of("++- - ++++ -- +");
        near(uneven.interval, [0.100_083_1, 0.983_132_9], "lines of other lengths");
        near(of(&["++++"; 10].join(" ")).interval, [0.630_398_2, 1.0], "all right");
        near(of(&["----"; 10].join(" ")).interval, [0.0, 0.369_601_8], "none right");
        near(of("+-+").interval, [0.0, 1.0], "a single line");
        // Where all answers of all lines but unchecked ones stand alone, it is the exact interval.
        near(of("+  - + - + ").interval, accuracy(&single(3, 5)).unwrap().interval, "alone");
    }

    #[test]
    fn the_interval_of_the_loss_is_that_of_a_mean_where_samples_are_of_one_length() {
        let score = |loss: f64| SampleScore {
            line: 1,
            question_index: 1,
            loss,
            target_tokens: 3,
            trace_positions: 0,
            is_correct: None,
            text: None,
        };
        let of = |losses: [f64; 3], loss| loss_interval(&losses.map(score), &[0..1, 1..2, 2..3], loss, 9);
        let [low, high] = of([1.0, 2.0, 4.0], 7.0 / 3.0).unwrap();
        // scipy.stats.t.interval(0.95, 2, 7 / 3, scipy.stats.sem([1, 2, 4]))
        assert!(low == 0.0 && (high - 6.127_916_9).abs() < 1e-6, "{low} {high}");
        let [low, high] = of([7.0, 8.0, 10.0], 25.0 / 3.0).unwrap();
        assert!((low - 4.538_749_8).abs() < 1e-6 && (high - 12.127_916_9).abs() < 1e-6, "{low} {high}");
        assert!(loss_interval(&[score(1.0)], std::slice::from_ref(&(0..1)), 1.0, 3).is_none());
        // Three lines of two questions with the same losses say as much as three lines of one.
        let doubled = [7.0, 7.0, 8.0, 8.0, 10.0, 10.0].map(score);
        near(loss_interval(&doubled, &[0..2, 2..4, 4..6], 25.0 / 3.0, 18).unwrap(), [low, high], "doubled");
        assert!(loss_interval(&doubled, std::slice::from_ref(&(0..6)), 25.0 / 3.0, 18).is_none(), "one line");
    }
}
