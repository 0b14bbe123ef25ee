//! From scores to the next token.

use std::collections::BTreeSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

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

impl Sampling {
    /// Chooses among `logits`; draws from `rng` only where there is a choice.
    pub fn choose(self, logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
        match self {
            Self::Greedy => argmax(logits),
            Self::Random { temperature, top_k, top_p, min_p } => {
                let weights = warped(logits, temperature, top_k, top_p, min_p);
                let mut left = rng.random::<f64>() * weights.iter().map(|(_, w)| w).sum::<f64>();
                let chosen = weights.iter().find(|(_, w)| {
                    left -= w;
                    left < 0.0
                });
                chosen.unwrap_or(&weights[weights.len() - 1]).0
            }
        }
    }
}

/// The tokens that a draw may give, best first, each with its probability relative to that of the best.
fn warped(logits: &[f32], temperature: f64, top_k: usize, top_p: f64, min_p: f64) -> Vec<(u32, f64)> {
    let mut kept: Vec<(u32, f64)> =
        (0..).zip(logits).map(|(token, &x)| (token, f64::from(x) / temperature)).collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if (1..kept.len()).contains(&top_k) {
        let least = kept[top_k - 1].1;
        kept.truncate(kept.partition_point(|&(_, x)| x >= least));
    }
    let best = kept[0].1;
    kept.iter_mut().for_each(|(_, x)| *x = (*x - best).exp());
    let total: f64 = kept.iter().map(|(_, w)| w).sum();
    let mut reached = 0.0;
    let nucleus = kept.iter().take_while(|(_, w)| {
        let more = reached < top_p;
        reached += w / total;
        more
    });
    let nucleus = nucleus.count().max(1);
    kept.truncate(nucleus);
    kept.truncate(kept.partition_point(|&(_, w)| w >= min_p).max(1));
    kept
}

/// Hugging Face's `repetition_penalty`: the scores of `seen` tokens move away from zero where they are negative and towards it
/// where they are positive, by this factor, once a token.
pub(super) fn penalise(logits: &mut [f32], seen: &BTreeSet<u32>, penalty: f64) {
    for &token in seen {
        let x = &mut logits[token as usize];
        *x = if *x < 0.0 { *x * penalty as f32 } else { *x / penalty as f32 };
    }
}

/// The first index of the largest value.
fn argmax(x: &[f32]) -> u32 {
    let best =
        x.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, &v)| if v > b.1 { (i, v) } else { b });
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn top_p_and_top_k_leave_only_the_best_tokens() {
        let logits = [0.0, 3.0, 2.9, -4.0];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let one = Sampling::Random { temperature: 1.0, top_k: 1, top_p: 1.0, min_p: 0.0 };
        let half = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.5, min_p: 0.0 };
        let most = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.9, min_p: 0.0 };
        for _ in 0..200 {
            assert_eq!(one.choose(&logits, &mut rng), 1);
            assert_eq!(half.choose(&logits, &mut rng), 1);
            assert!([1, 2].contains(&most.choose(&logits, &mut rng)));
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0f32, 2.0f32.ln()];
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let all = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
        let ones: u32 = (0..6000).map(|_| all.choose(&logits, &mut rng)).sum();
        assert!((3850..4150).contains(&ones), "{ones} of 6000 instead of about 4000");
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
            let seen = case["input_ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32);
            let c = &case["config"];
            penalise(&mut logits, &seen.collect(), number(&c["repetition_penalty"]));
            let (top_k, top_p) = (c["top_k"].as_u64().unwrap() as usize, number(&c["top_p"]));
            let got = warped(&logits, number(&c["temperature"]), top_k, top_p, number(&c["min_p"]));
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
