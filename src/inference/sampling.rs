//! From scores to the next token.

use diffmas_backends::ScoredToken;

/// How far the sum of all weights may be from what the backend says, as a part of it.
const SUM_ERROR: f64 = 1e-4;

/// How far sums of the same weights in another order may be from each other, as a part of the sum of all.
const ROUNDING: f64 = 1e-9;

/// Best tokens that are looked at before all are, where the number of those that may be drawn is not known beforehand.
pub(super) const HEAD: usize = 128;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The token with the best score.
    #[default]
    Greedy,
    /// A draw, after temperature, `top_k`, `top_p` and `min_p` in this order, as in Hugging Face's `generate`.
    Random {
        /// Divides the scores; positive.
        temperature: f64,
        /// Keeps the `k` best and what ties with the last of them; 0 keeps all.
        top_k: usize,
        /// Keeps the fewest best tokens whose probabilities reach `p`.
        top_p: f64,
        /// Keeps tokens that are at least `p` times as likely as the best one; 0 keeps all.
        min_p: f64,
    },
}

/// One draw among the tokens that [`Sampling::Random`] keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
    pub min_p: f64,
    /// Uniform in `[0, 1)`: the token is the first with which the weights of the kept ones, best first, exceed this part of their sum.
    pub at: f64,
}

impl Draw {
    /// The token, drawn among `tokens`: all that `top_k` keeps, best first.
    pub fn among(&self, tokens: &[ScoredToken]) -> u32 {
        let kept = self.kept(tokens);
        let mut left = self.at * kept.iter().map(|(_, w)| w).sum::<f64>();
        let chosen = kept.iter().find(|(_, w)| {
            left -= w;
            left < 0.0
        });
        chosen.unwrap_or(&kept[kept.len() - 1]).0
    }

    /// The tokens that a draw may give, best first, each with its probability relative to that of the best.
    fn kept(&self, tokens: &[ScoredToken]) -> Vec<(u32, f64)> {
        let mut kept = self.weights(tokens);
        let total: f64 = kept.iter().map(|(_, w)| w).sum();
        let mut reached = 0.0;
        let nucleus = kept.iter().take_while(|(_, w)| {
            let more = reached < self.top_p;
            reached += w / total;
            more
        });
        let nucleus = nucleus.count().max(1);
        kept.truncate(nucleus);
        kept.truncate(kept.partition_point(|&(_, w)| w >= self.min_p).max(1));
        kept
    }

    /// The probability of each token relative to that of the first.
    fn weights(&self, tokens: &[ScoredToken]) -> Vec<(u32, f64)> {
        let warm = |t: &ScoredToken| f64::from(t.score) / self.temperature;
        let best = warm(&tokens[0]);
        tokens.iter().map(|t| (t.id, (warm(t) - best).exp())).collect()
    }

    /// The token that [`Draw::among`] all tokens gives, where the best of them, `head`, decide it; `sum` is that of the weights of all, to
    /// [`SUM_ERROR`]. There is no `top_k`.
    pub fn within(&self, head: &[ScoredToken], sum: f64) -> Option<u32> {
        let (least, most) = (sum * (1.0 - SUM_ERROR), sum * (1.0 + SUM_ERROR));
        let weights = self.weights(head);
        let mut kept = 0.0;
        let mut sums = Vec::with_capacity(weights.len());
        // The sum of all that are kept lies between these.
        let mut bounds = None;
        for &(_, w) in &weights {
            if !sums.is_empty() && (w < self.min_p || kept >= self.top_p * most) {
                bounds = Some((kept, kept));
                break;
            }
            if !sums.is_empty() && kept >= self.top_p * least {
                bounds = Some((kept, most.min(self.top_p * most + w)));
                break;
            }
            kept += w;
            sums.push(kept);
        }
        let (low, high) = bounds.unwrap_or_else(|| {
            let last = weights.last().map_or(0.0, |&(_, w)| w);
            let reached = if self.min_p > 0.0 { 0.0 } else { self.top_p.min(1.0) * least };
            (kept.max(reached), most.min(self.top_p * most + last))
        });
        let first = |at: f64| sums.partition_point(|&sum| sum <= at);
        let margin = ROUNDING * most;
        let (early, late) = (first(self.at * low - margin), first(self.at * high + margin));
        (early == late && early < sums.len()).then(|| weights[early].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(logits: &[f32]) -> Vec<ScoredToken> {
        let mut tokens: Vec<ScoredToken> =
            (0..).zip(logits).map(|(id, &score)| ScoredToken { id, score }).collect();
        tokens.sort_by(|a, b| b.score.total_cmp(&a.score));
        tokens
    }

    #[test]
    fn top_p_leaves_only_the_best_tokens() {
        let tokens = scored(&[0.0, 3.0, 2.9, -4.0]);
        let draw =
            |top_p: f64, at: f64| Draw { temperature: 1.0, top_k: 0, top_p, min_p: 0.0, at }.among(&tokens);
        for i in 0..200 {
            let at = f64::from(i) / 200.0;
            assert_eq!(draw(0.5, at), 1);
            assert!([1, 2].contains(&draw(0.9, at)));
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let tokens = scored(&[0.0, 2.0f32.ln()]);
        let draw = |at| Draw { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, at }.among(&tokens);
        let ones: u32 = (0..6000).map(|i| draw(f64::from(i) / 6000.0)).sum();
        assert!((3999..=4001).contains(&ones), "{ones} of 6000 instead of 4000");
    }

    /// Scores as the logits processors of `transformers` leave them (`scripts/make_sampling_fixture.py`).
    #[test]
    fn penalty_and_warpers_leave_the_distribution_that_transformers_leaves() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampling.json");
        let fixture: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let number = |v: &serde_json::Value| v.as_f64().unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let mut logits: Vec<f32> =
                case["logits"].as_array().unwrap().iter().map(|x| number(x) as f32).collect();
            let mut seen: Vec<u32> =
                case["input_ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
            seen.sort();
            seen.dedup();
            let c = &case["config"];
            let factor = number(&c["repetition_penalty"]) as f32;
            let penalty = diffmas_backends::Penalty { ids: seen, factor };
            for &id in &penalty.ids {
                logits[id as usize] = penalty.apply(logits[id as usize]);
            }
            let (top_k, top_p) = (c["top_k"].as_u64().unwrap() as usize, number(&c["top_p"]));
            let draw = Draw {
                temperature: number(&c["temperature"]),
                top_k,
                top_p,
                min_p: number(&c["min_p"]),
                at: 0.0,
            };
            let mut tokens = scored(&logits);
            if (1..tokens.len()).contains(&top_k) {
                let least = tokens[top_k - 1].score;
                tokens.retain(|t| t.score >= least);
            }
            let got = draw.kept(&tokens);
            let total: f64 = got.iter().map(|(_, w)| w).sum();
            let mut expected = case["probabilities"].as_object().unwrap().clone();
            for (token, weight) in got {
                let p = expected.remove(&token.to_string()).unwrap_or_else(|| panic!("{c}: {token} is kept"));
                assert!((weight / total - number(&p)).abs() < 1e-5, "{c}: {token}: {} {p}", weight / total);
            }
            assert!(expected.is_empty(), "{c}: {expected:?} is missing");
        }
    }
}
