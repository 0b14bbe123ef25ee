//! Scores of the next token, `[N, V]`: what of them comes to the host, and their order.

/// Scores that are first looked at as one: of the largest of each group it is decided which groups hold what is asked for.
pub(crate) const GROUP: usize = 64;

/// The best token of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestToken {
    /// The first index of the largest score.
    pub id: u32,
    /// `log softmax(scores)[id]`; not a number where a score of the row is not finite.
    pub log_prob: f32,
}

impl BestToken {
    /// From the largest and the least score of a row, and `Σ exp(score − largest)`.
    pub(crate) fn new(id: u32, largest: f32, least: f32, sum: f32) -> Self {
        // Infinity and what is no number show in the sum, too.
        let finite = [largest, least, sum].into_iter().all(f32::is_finite);
        Self { id, log_prob: if finite { -sum.ln() } else { f32::NAN } }
    }
}

/// A token and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredToken {
    /// Its index.
    pub id: u32,
    /// Its score.
    pub score: f32,
}

/// Scores of a row that are made smaller or, by a factor below 1, larger; see
/// [`ModelBackend::penalised`](crate::ModelBackend::penalised).
#[derive(Clone, Debug, PartialEq)]
pub struct Penalty {
    /// Different tokens.
    pub ids: Vec<u32>,
    /// What negative scores are multiplied with and others divided by.
    pub factor: f32,
}

impl Penalty {
    /// A score after the penalty.
    #[inline]
    pub fn apply(&self, score: f32) -> f32 {
        if score < 0.0 { score * self.factor } else { score / self.factor }
    }
}

/// The `k`-th largest of `maxima`, below which a group cannot hold one of the `k` largest scores; the least number where there are no more
/// than `k`, or `k` is 0.
pub(crate) fn threshold(maxima: &[f32], k: usize) -> f32 {
    if k == 0 || maxima.len() <= k {
        return f32::NEG_INFINITY;
    }
    *maxima.to_vec().select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// The `k` best of `tokens` and what ties with the last of them, best first and equals in order of their ids; all where `k` is 0.
pub(crate) fn best_first(mut tokens: Vec<ScoredToken>, k: usize) -> Vec<ScoredToken> {
    tokens.sort_unstable_by_key(rank);
    if (1..tokens.len()).contains(&k) {
        let least = tokens[k - 1].score;
        tokens.truncate(tokens.partition_point(|t| t.score >= least));
    }
    tokens
}

/// What orders tokens best first: the score as a number that falls where it rises, then the id.
fn rank(token: &ScoredToken) -> u64 {
    let bits = token.score.to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!rising) << 32 | u64::from(token.id)
}

/// The `k` best of a row of finite `scores`, and what ties with the last of them; see [`best_first`]. Only groups that hold one are ordered.
pub(crate) fn top(scores: &[f32], k: usize) -> Vec<ScoredToken> {
    let maxima: Vec<f32> = scores.chunks(GROUP).map(max).collect();
    let least = threshold(&maxima, k);
    let groups = (0..).step_by(GROUP).zip(scores.chunks(GROUP)).zip(maxima);
    let found = groups.filter(|&(_, max)| max >= least).flat_map(|((from, group), _)| {
        (from..)
            .zip(group)
            .filter(|&(_, &score)| score >= least)
            .map(|(id, &score)| ScoredToken { id, score })
    });
    best_first(found.collect(), k)
}

/// The largest of some finite numbers, in lanes of their own so that it vectorises.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder().iter().copied();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = larger(*lane, x));
    }
    lanes.into_iter().chain(rest).fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_those_of_a_stable_sort_and_ties_stay_in_order() {
        // Few different numbers, zeros of both signs among them.
        let scores: Vec<f32> = (0..1000u32)
            .map(|i| match i.wrapping_mul(2_654_435_761) >> 26 {
                0 => -0.0,
                n => (n as f32 - 40.0) / 4.0,
            })
            .collect();
        let mut all: Vec<ScoredToken> =
            (0..).zip(&scores).map(|(id, &score)| ScoredToken { id, score }).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        for k in [0, 1, 2, 15, 16, 17, 100, 999, 1000, 2000] {
            let n = if (1..1000).contains(&k) {
                all.partition_point(|t| t.score >= all[k - 1].score)
            } else {
                1000
            };
            let same =
                |(a, b): (&ScoredToken, &ScoredToken)| a.id == b.id && a.score.to_bits() == b.score.to_bits();
            let got = top(&scores, k);
            assert!(got.len() == n && got.iter().zip(&all).all(same), "k = {k}");
        }
    }
}
