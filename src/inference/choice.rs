//! The next tokens of the rows of a batch. Scores stay on the device: what comes to the host is the best token of each row, of rows that
//! draw the tokens that the draw may give, and a log-probability.

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{BestToken, ModelBackend, Penalty};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Sampling;
use super::sampling::{Draw, HEAD};

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
    let nll = B::token_nll(logits, &tokens).into_data();
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
    let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let indices = Tensor::<B, 1, Int>::from_data(TensorData::new(indices, [rows.len()]), &x.device());
    x.select(0, indices)
}
