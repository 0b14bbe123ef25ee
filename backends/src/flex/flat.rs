//! Many matrices in one tensor, passed over in pieces of one size: no result depends on the number of threads.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use rayon::prelude::*;

use super::elementwise::sum;
use super::instructions::arch;
use super::{contiguous, values, wrapped};
use crate::{AdamWRange, AdamWState};

/// Numbers of a piece.
const PIECE: usize = 16 * 1024;

/// All numbers of a tensor, to be changed: in place where nobody else holds it.
fn owned(x: Tensor<Flex, 1>) -> FlexTensor {
    let x = contiguous(x);
    let whole = x.storage::<f32>().len() == x.layout().num_elements();
    if whole { x } else { x.to_contiguous() }
}

/// See [`ModelBackend::added`](crate::ModelBackend::added).
pub(super) fn added(flat: Tensor<Flex, 1>, parts: Vec<(usize, Tensor<Flex, 2>)>) -> Tensor<Flex, 1> {
    let mut flat = owned(flat);
    let mut parts: Vec<_> = parts.into_iter().map(|(from, part)| (from, contiguous(part))).collect();
    parts.sort_by_key(|(from, _)| *from);
    let (mut rest, mut end) = (flat.storage_mut::<f32>(), 0);
    let mut sums = Vec::with_capacity(parts.len());
    for (from, part) in &parts {
        let part = values(part);
        let (own, after) = std::mem::take(&mut rest)[from - end..].split_at_mut(part.len());
        sums.push((own, part));
        (rest, end) = (after, from + part.len());
    }
    sums.into_par_iter().for_each(|(sum, part)| {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    });
    wrapped(flat)
}

/// See [`ModelBackend::sum_of_squares`](crate::ModelBackend::sum_of_squares).
pub(super) fn sum_of_squares(x: Tensor<Flex, 1>) -> f64 {
    let x = contiguous(x);
    let of_piece = |x: &[f32]| {
        arch().dispatch(
            #[inline(always)]
            || f64::from(sum(x.len(), |i| x[i] * x[i])),
        )
    };
    let pieces: Vec<f64> = values(&x).par_chunks(PIECE).map(of_piece).collect();
    pieces.iter().sum()
}

/// See [`ModelBackend::adamw`](crate::ModelBackend::adamw).
pub(super) fn adamw(
    state: AdamWState<Flex>,
    gradient: Tensor<Flex, 1>,
    ranges: &[AdamWRange],
) -> AdamWState<Flex> {
    let [mut parameters, mut first, mut second] =
        [state.parameters, state.exp_avg, state.exp_avg_sq].map(owned);
    let gradient = contiguous(gradient);
    for range in ranges {
        let own = || range.numbers.clone();
        let all = [&mut parameters, &mut first, &mut second].map(|x| &mut x.storage_mut::<f32>()[own()]);
        let [parameters, first, second] = all.map(|x| x.par_chunks_mut(PIECE));
        let gradient = values(&gradient)[own()].par_chunks(PIECE);
        let pieces = parameters.zip(first).zip(second).zip(gradient).enumerate();
        pieces.for_each(|(piece, (((parameters, first), second), gradient))| {
            arch().dispatch(
                #[inline(always)]
                || update(parameters, first, second, gradient, range),
            );
            if let Some((width, pull)) = range.diagonal {
                let from = piece * PIECE;
                for (i, value) in parameters.iter_mut().enumerate() {
                    *value += if (from + i).is_multiple_of(width + 1) { pull } else { 0.0 };
                }
            }
        });
    }
    let [parameters, exp_avg, exp_avg_sq] = [parameters, first, second].map(wrapped);
    AdamWState { parameters, exp_avg, exp_avg_sq }
}

/// An update of some of the numbers of `range`.
#[inline(always)]
fn update(
    parameters: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    range: &AdamWRange,
) {
    let ([beta_1, beta_2], [bias_1, bias_2]) = (range.betas, range.bias_corrections);
    for (((p, m), v), g) in parameters.iter_mut().zip(first).zip(second).zip(gradient) {
        let g = g * range.clip_factor;
        *m = *m * beta_1 + g * (1.0 - beta_1);
        *v = *v * beta_2 + g * g * (1.0 - beta_2);
        let step = *m / bias_1 / ((*v / bias_2).sqrt() + range.eps);
        *p = *p * range.kept - step * range.lr;
    }
}
