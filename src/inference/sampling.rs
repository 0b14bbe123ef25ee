//! From scores to the next token.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The token with the best score.
    Greedy,
    /// A draw, after temperature, `top_k` and `top_p` in this order, as in Hugging Face's `generate`.
    Random {
        /// Divides the scores; positive.
        temperature: f64,
        /// Keeps the `k` best; 0 keeps all.
        top_k: usize,
        /// Keeps the fewest best tokens whose probabilities reach `p`.
        top_p: f64,
    },
}

impl Sampling {
    /// Chooses among `logits`; draws from `rng` only where there is a choice.
    pub fn choose(self, logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
        match self {
            Self::Greedy => argmax(logits),
            Self::Random { temperature, top_k, top_p } => {
                let mut p: Vec<(usize, f64)> =
                    logits.iter().enumerate().map(|(i, &x)| (i, f64::from(x) / temperature)).collect();
                p.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                if top_k > 0 {
                    p.truncate(top_k);
                }
                let max = p[0].1;
                p.iter_mut().for_each(|(_, x)| *x = (*x - max).exp());
                let total: f64 = p.iter().map(|(_, x)| x).sum();
                let mut reached = 0.0;
                let kept = p.iter().take_while(|(_, x)| {
                    let more = reached < top_p;
                    reached += x / total;
                    more
                });
                let kept = kept.count().max(1);
                p.truncate(kept);
                let mut left = rng.random::<f64>() * p.iter().map(|(_, x)| x).sum::<f64>();
                let chosen = p.iter().find(|(_, x)| {
                    left -= x;
                    left < 0.0
                });
                chosen.unwrap_or(&p[p.len() - 1]).0 as u32
            }
        }
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
        let one = Sampling::Random { temperature: 1.0, top_k: 1, top_p: 1.0 };
        let half = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.5 };
        let most = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.9 };
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
        let all = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 1.0 };
        let ones: u32 = (0..6000).map(|_| all.choose(&logits, &mut rng)).sum();
        assert!((3850..4150).contains(&ones), "{ones} of 6000 instead of about 4000");
    }
}
