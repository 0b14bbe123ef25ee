//! What generation asks of scores: the CPU backend against plain Burn operations, and both against what is meant.
#![cfg(feature = "flex")]

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{Flex, ModelBackend, Penalty, ScoredToken, composed};

type T<const D: usize> = Tensor<Flex, D>;

/// Scores of `rows` rows, many of them equal.
fn scores(rows: usize, vocab: usize) -> (Vec<f32>, T<2>) {
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 20) as f32;
    let values: Vec<f32> =
        (0..(rows * vocab) as u32).map(|i| ((number(i) - 2000.0) / 100.0).round() / 2.0).collect();
    let tensor = T::from_data(TensorData::new(values.clone(), [rows, vocab]), &Default::default());
    (values, tensor)
}

#[test]
fn the_best_token_is_the_first_of_the_largest_scores() {
    for vocab in [1, 5, 64, 1000] {
        let (values, logits) = scores(3, vocab);
        let (own, plain) = (Flex::best_tokens(logits.clone()), composed::best_tokens(logits));
        for ((row, own), plain) in values.chunks_exact(vocab).zip(own).zip(plain) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let id = row.iter().position(|&x| x == largest).unwrap() as u32;
            let sum: f64 = row.iter().map(|&x| f64::from(x - largest).exp()).sum();
            for best in [own, plain] {
                assert_eq!(best.id, id);
                assert!((f64::from(best.log_prob) + sum.ln()).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn a_score_that_is_not_finite_shows_in_its_row_alone() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 33, 99] {
            let (mut values, _) = scores(3, 100);
            values[100 + at] = bad;
            let logits = T::<2>::from_data(TensorData::new(values, [3, 100]), &Default::default());
            for best in [Flex::best_tokens(logits.clone()), composed::best_tokens(logits)] {
                let finite: Vec<bool> = best.iter().map(|best| best.log_prob.is_finite()).collect();
                assert_eq!(finite, [true, false, true], "{bad} at {at}");
            }
        }
    }
}

#[test]
fn the_best_tokens_are_the_head_of_all_in_order_with_what_ties() {
    for vocab in [10, 64, 1000, 4096, 5000] {
        let (values, logits) = scores(3, vocab);
        for counts in [[1, 2, 3], [5, 1, 12], [0, 40, vocab], [vocab + 1, 1, vocab - 1]] {
            let (own, plain) =
                (Flex::top_tokens(logits.clone(), &counts), composed::top_tokens(logits.clone(), &counts));
            assert_eq!(own, plain, "{counts:?} of {vocab}");
            for ((row, got), count) in values.chunks_exact(vocab).zip(own).zip(counts) {
                let mut all: Vec<ScoredToken> =
                    (0..).zip(row).map(|(id, &score)| ScoredToken { id, score }).collect();
                all.sort_by(|a, b| b.score.total_cmp(&a.score));
                if (1..vocab).contains(&count) {
                    let least = all[count - 1].score;
                    all.retain(|t| t.score >= least);
                }
                assert_eq!(got, all, "{count} of {vocab}");
            }
        }
    }
}

#[test]
fn sums_and_penalties_are_those_of_plain_operations() {
    let (values, logits) = scores(2, 3000);
    let penalties = [
        Penalty { ids: vec![3, 77, 2999], factor: 1.3 },
        Penalty { ids: (0..400).map(|i| i * 7).collect(), factor: 0.6 },
    ];
    let own = Flex::penalised(logits.clone(), &penalties).into_data();
    let plain = composed::penalised(logits.clone(), &penalties).into_data();
    let mut want = values.clone();
    for (row, penalty) in want.chunks_exact_mut(3000).zip(&penalties) {
        penalty.ids.iter().for_each(|&id| row[id as usize] = penalty.apply(row[id as usize]));
    }
    assert_eq!(own.iter::<f32>().collect::<Vec<_>>(), want);
    assert_eq!(plain.iter::<f32>().collect::<Vec<_>>(), want);
    assert_ne!(want, values);
    let temperatures = [0.7, 2.0];
    let (own, plain) =
        (Flex::warm_sums(logits.clone(), &temperatures), composed::warm_sums(logits, &temperatures));
    for ((row, temperature), sums) in values.chunks_exact(3000).zip(temperatures).zip(own.iter().zip(plain)) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let want: f64 = row.iter().map(|&x| (f64::from(x - largest) / temperature).exp()).sum();
        for sum in [*sums.0, sums.1] {
            assert!((sum / want - 1.0).abs() < 1e-5, "{sum} instead of {want}");
        }
    }
}

#[test]
fn positions_are_written_where_the_cache_lies() {
    let cache = T::<4>::zeros([2, 3, 5, 4], &Default::default());
    let new = T::<4>::ones([2, 3, 2, 4], &Default::default());
    let plain = composed::written(cache.clone(), new.clone(), 1).into_data();
    let kept = Flex::written(cache.clone(), new.clone(), 1);
    assert_eq!(kept.to_data(), plain);
    assert_eq!(
        cache.into_data().iter::<f32>().sum::<f32>(),
        0.0,
        "a cache that somebody holds stays as it is"
    );
    let address = |t: &T<4>| t.clone().into_primitive().tensor().as_slice::<f32>().unwrap().as_ptr();
    let before = address(&kept);
    let after = Flex::written(kept, new, 3);
    assert_eq!(address(&after), before);
    assert_eq!(after.into_data().iter::<f32>().sum::<f32>(), 96.0);
}
