//! The next tokens of the rows of a batch. Scores stay on the device: what comes to the host is the best token of each row, of rows that
//! draw the tokens that the draw may give, and a log-probability.

use burn::prelude::*;
use diffmas_backends::{BestToken, ModelBackend, Penalty, host_data};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Sampling;
use super::sampling::{Draw, HEAD};
use crate::backbone::select_rows;

/// How one row's token is chosen.
pub(super) struct Choice<'a> {
    /// How, among the scores after the penalty.
    pub sampling: Sampling,
    /// What is done to the scores before.
    pub penalty: Option<Penalty>,
    /// Draws, once for each token that is drawn.
    pub rng: &'a mut ChaCha8Rng,
}

/// A token, and its log-probability under the softmax of the scores as the model gives them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chosen {
    pub token: u32,
    pub log_prob: f32,
}

/// Chooses a token for each row of `logits [N, V]`; none, and nothing is drawn, where scores of the row are not finite.
pub(super) fn choose<B: ModelBackend>(
    logits: Tensor<B, 2>,
    mut rows: Vec<Choice<'_>>,
) -> Vec<Option<Chosen>> {
    let best = B::best_tokens(logits.clone());
    let finite = |best: &BestToken| !best.log_prob.is_nan();
    let mut chosen: Vec<Option<Chosen>> = best
        .iter()
        .map(|best| finite(best).then_some(Chosen { token: best.id, log_prob: best.log_prob }))
        .collect();
    let others: Vec<usize> = (0..rows.len())
        .filter(|&i| chosen[i].is_some())
        .filter(|&i| rows[i].sampling != Sampling::Greedy || rows[i].penalty.is_some())
        .collect();
    if others.is_empty() {
        return chosen;
    }
    let logits = picked(logits, &others);
    let mut scores = logits.clone();
    if others.iter().any(|&i| rows[i].penalty.is_some()) {
        let none = || Penalty { ids: Vec::new(), factor: 1.0 };
        let penalties: Vec<_> = others.iter().map(|&i| rows[i].penalty.take().unwrap_or_else(none)).collect();
        scores = B::penalised(scores, &penalties);
    }
    let draws: Vec<Option<Draw>> = others
        .iter()
        .map(|&i| match rows[i].sampling {
            Sampling::Greedy => None,
            Sampling::Random { temperature, top_k, top_p, min_p } => {
                Some(Draw { temperature, top_k, top_p, min_p, at: rows[i].rng.random() })
            }
        })
        .collect();
    let tokens = drawn(scores, &draws);
    let nll = host_data(B::token_nll(logits, &tokens));
    for ((&i, token), nll) in others.iter().zip(tokens).zip(nll.iter::<f32>()) {
        chosen[i] = Some(Chosen { token, log_prob: -nll });
    }
    chosen
}

/// The token of each draw among a row of `scores`, and of none the best one.
fn drawn<B: ModelBackend>(scores: Tensor<B, 2>, draws: &[Option<Draw>]) -> Vec<u32> {
    let counts: Vec<usize> = draws
        .iter()
        .map(|draw| match draw {
            None => 1,
            Some(draw) if draw.top_k > 0 => draw.top_k,
            Some(_) => HEAD,
        })
        .collect();
    let heads = B::top_tokens(scores.clone(), &counts);
    let open: Vec<usize> =
        (0..draws.len()).filter(|&i| draws[i].is_some_and(|draw| draw.top_k == 0)).collect();
    let sums = if open.is_empty() {
        Vec::new()
    } else {
        let temperatures: Vec<f64> =
            open.iter().filter_map(|&i| draws[i].map(|draw| draw.temperature)).collect();
        B::warm_sums(picked(scores.clone(), &open), &temperatures)
    };
    let mut sums = open.iter().zip(sums).peekable();
    let mut tokens = Vec::with_capacity(draws.len());
    let mut undecided = Vec::new();
    for (i, (draw, head)) in draws.iter().zip(&heads).enumerate() {
        let token = match draw {
            None => head.iter().map(|t| t.id).min(),
            Some(draw) => match sums.next_if(|&(&open, _)| open == i) {
                None => Some(draw.among(head)),
                Some((_, sum)) => draw.within(head, sum),
            },
        };
        tokens.push(token.unwrap_or_default());
        if token.is_none() {
            undecided.push(i);
        }
    }
    if !undecided.is_empty() {
        let all = B::top_tokens(picked(scores, &undecided), &vec![0; undecided.len()]);
        for (&i, all) in undecided.iter().zip(&all) {
            tokens[i] = draws[i].expect("only draws are undecided").among(all);
        }
    }
    tokens
}

/// The rows of `x` with these indices, in ascending order.
pub(super) fn picked<B: Backend>(x: Tensor<B, 2>, rows: &[usize]) -> Tensor<B, 2> {
    if rows.len() == x.dims()[0] {
        return x;
    }
    select_rows(x, rows)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::collections::BTreeSet;

    use burn::tensor::TensorData;
    use diffmas_backends::Flex;

    use super::*;
    use crate::random::generator;

    /// The definition: all scores of a row, sorted.
    fn by_definition(
        logits: &[f32],
        sampling: Sampling,
        penalty: Option<&Penalty>,
        rng: &mut ChaCha8Rng,
    ) -> u32 {
        let mut logits = logits.to_vec();
        for &id in penalty.iter().flat_map(|p| &p.ids) {
            let (x, factor) = (&mut logits[id as usize], penalty.unwrap().factor);
            *x = if *x < 0.0 { *x * factor } else { *x / factor };
        }
        let Sampling::Random { temperature, top_k, top_p, min_p } = sampling else {
            let better = |b: (usize, f32), (i, &v): (usize, &f32)| if v > b.1 { (i, v) } else { b };
            return logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better).0 as u32;
        };
        let mut kept: Vec<(u32, f64)> =
            (0..).zip(&logits).map(|(token, &x)| (token, f64::from(x) / temperature)).collect();
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
        let mut left = rng.random::<f64>() * kept.iter().map(|(_, w)| w).sum::<f64>();
        let chosen = kept.iter().find(|(_, w)| {
            left -= w;
            left < 0.0
        });
        chosen.unwrap_or(&kept[kept.len() - 1]).0
    }

    /// Scores of a row; `kind` says whether they are all different, whether many are equal, and how far the best are above the rest.
    fn scores(vocab: usize, kind: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let score = |_| {
            let x = rng.random::<f32>() * 2.0 - 1.0;
            match kind {
                0 => 4.0 * x,
                1 => (6.0 * x).round() / 2.0,
                2 => 30.0 * x.powi(9),
                _ => 18.0 * x.powi(3),
            }
        };
        (0..vocab).map(score).collect()
    }

    fn every_sampling() -> Vec<Sampling> {
        let mut all = vec![Sampling::Greedy];
        for temperature in [0.25, 1.0, 1.7] {
            for top_k in [0, 1, 5, 200, 100_000] {
                for top_p in [0.0, 0.4, 0.9, 0.99, 1.0] {
                    for min_p in [0.0, 1e-6, 0.05, 0.9] {
                        all.push(Sampling::Random { temperature, top_k, top_p, min_p });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_setting_chooses_what_its_definition_chooses() {
        let mut random = generator(5, 0);
        for (vocab, batch) in [(3, 1), (70, 7), (1000, 3), (5000, 2)] {
            for (case, settings) in every_sampling().chunks(batch).enumerate() {
                let rows: Vec<Vec<f32>> =
                    (0..settings.len()).map(|i| scores(vocab, (case + i) % 4, &mut random)).collect();
                let penalties: Vec<Option<Penalty>> = (0..settings.len())
                    .map(|i| {
                        let factor = *[1.3, 0.7].get((case + i) % 3)?;
                        let ids: BTreeSet<u32> =
                            (0..12).map(|_| random.random_range(0..vocab as u32)).collect();
                        Some(Penalty { ids: ids.into_iter().collect(), factor })
                    })
                    .collect();
                let mut rngs: Vec<ChaCha8Rng> =
                    (0..settings.len()).map(|i| generator(1, (case * 8 + i) as u64)).collect();
                let mut same = rngs.clone();
                let data = TensorData::new(rows.concat(), [settings.len(), vocab]);
                let logits = Tensor::<Flex, 2>::from_data(data, &Default::default());
                let choices = settings.iter().zip(&penalties).zip(&mut rngs);
                let choices = choices.map(|((&sampling, penalty), rng)| Choice {
                    sampling,
                    penalty: penalty.clone(),
                    rng,
                });
                let chosen = choose(logits, choices.collect());
                for (i, chosen) in chosen.into_iter().enumerate() {
                    let Chosen { token, log_prob } = chosen.expect("all scores are finite");
                    let want = by_definition(&rows[i], settings[i], penalties[i].as_ref(), &mut same[i]);
                    assert_eq!(token, want, "{vocab} {:?} {:?}", settings[i], penalties[i]);
                    assert!(rngs[i] == same[i], "as many draws");
                    let exponentials = rows[i].iter().map(|&x| f64::from(x).exp());
                    let want = f64::from(rows[i][token as usize]) - exponentials.sum::<f64>().ln();
                    assert!(
                        (f64::from(log_prob) - want).abs() < 1e-5 * (1.0 + want.abs()),
                        "{log_prob}, not {want}"
                    );
                }
            }
        }
    }

    /// What the best tokens decide is what all decide, however far the sum is off within its error; and mostly they do decide.
    #[test]
    fn the_best_tokens_mostly_decide_a_draw_and_never_otherwise_than_all_would() {
        let mut random = generator(6, 0);
        let (mut decided, mut draws) = (0, 0);
        for case in 0..3000 {
            let row = scores(2000, 2 + case % 2, &mut random);
            let (top_p, min_p) = ([1.0, 0.95, 0.5][case % 3], [0.0, 0.02][case / 3 % 2]);
            let draw = Draw { temperature: 0.8, top_k: 0, top_p, min_p, at: random.random() };
            let data = TensorData::new(row, [1, 2000]);
            let logits = Tensor::<Flex, 2>::from_data(data, &Default::default());
            let sum = Flex::warm_sums(logits.clone(), &[draw.temperature])[0];
            let [head, all] = [HEAD, 0].map(|count| Flex::top_tokens(logits.clone(), &[count]).remove(0));
            let exact: f64 = all.iter().map(|t| (f64::from(t.score - all[0].score) / 0.8).exp()).sum();
            assert!((sum / exact - 1.0).abs() < 2e-5, "{sum} instead of {exact}");
            for sum in [exact, exact * (1.0 + 0.9e-4), exact * (1.0 - 0.9e-4)] {
                draws += 1;
                if let Some(token) = draw.within(&head, sum) {
                    assert_eq!(token, draw.among(&all), "{draw:?}");
                    decided += 1;
                }
            }
        }
        assert!(decided * 10 > draws * 9, "{decided} of {draws}");
    }

    #[test]
    fn rows_whose_scores_are_not_finite_get_no_token_and_draw_nothing() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rows = vec![vec![0.5, 1.0, -1.0]; 3];
            rows[1][2] = bad;
            let logits =
                Tensor::<Flex, 2>::from_data(TensorData::new(rows.concat(), [3, 3]), &Default::default());
            let mut rngs = [0, 1, 2].map(|i| generator(1, i));
            let sampling = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
            let choices = rngs.iter_mut().map(|rng| Choice { sampling, penalty: None, rng });
            let chosen = choose(logits, choices.collect());
            assert!(chosen[0].is_some() && chosen[1].is_none() && chosen[2].is_some(), "{chosen:?}");
            assert!(rngs[1] == generator(1, 1));
        }
    }
}
