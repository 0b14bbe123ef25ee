//! Many matrices in one tensor.

use burn::prelude::*;

use crate::{AdamWRange, AdamWState, ModelBackend, host_data};

/// See [`ModelBackend::part`].
pub fn part<B: Backend>(flat: &Tensor<B, 1>, from: usize, shape: [usize; 2]) -> Tensor<B, 2> {
    flat.clone().narrow(0, from, shape.iter().product()).reshape(shape)
}

/// See [`ModelBackend::added`].
pub fn added<B: Backend>(flat: Tensor<B, 1>, parts: Vec<(usize, Tensor<B, 2>)>) -> Tensor<B, 1> {
    parts.into_iter().fold(flat, |flat, (from, part)| {
        let numbers = from..from + part.shape().num_elements();
        let sum = flat.clone().slice(numbers.clone()) + part.flatten(0, 1);
        flat.slice_assign(numbers, sum)
    })
}

/// See [`ModelBackend::sum_of_squares`].
pub fn sum_of_squares<B: ModelBackend>(x: Tensor<B, 1>) -> f64 {
    host_data(B::sum(x.square())).iter::<f64>().sum()
}

/// See [`ModelBackend::adamw`].
pub fn adamw<B: Backend>(
    state: AdamWState<B>,
    gradient: Tensor<B, 1>,
    ranges: &[AdamWRange],
) -> AdamWState<B> {
    let AdamWState { mut parameters, mut exp_avg, mut exp_avg_sq } = state;
    for range in ranges {
        let own = |all: &Tensor<B, 1>| all.clone().slice(range.numbers.clone());
        let ([beta_1, beta_2], [bias_1, bias_2]) = (range.betas, range.bias_corrections);
        let gradient = own(&gradient).mul_scalar(range.clip_factor);
        let first = own(&exp_avg).mul_scalar(beta_1) + gradient.clone().mul_scalar(1.0 - beta_1);
        let second = own(&exp_avg_sq).mul_scalar(beta_2) + gradient.square().mul_scalar(1.0 - beta_2);
        let step =
            first.clone().div_scalar(bias_1) / second.clone().div_scalar(bias_2).sqrt().add_scalar(range.eps);
        let mut values = own(&parameters).mul_scalar(range.kept) - step.mul_scalar(range.lr);
        if let Some((width, pull)) = range.diagonal {
            let diagonal = Tensor::<B, 2>::eye(width, &values.device()).mul_scalar(pull);
            values = values + diagonal.flatten(0, 1);
        }
        let put = |all: Tensor<B, 1>, own| all.slice_assign(range.numbers.clone(), own);
        parameters = put(parameters, values);
        exp_avg = put(exp_avg, first);
        exp_avg_sq = put(exp_avg_sq, second);
    }
    AdamWState { parameters, exp_avg, exp_avg_sq }
}
