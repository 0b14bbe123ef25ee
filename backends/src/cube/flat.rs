//! Many matrices in one tensor: what is added to them, their norm, and the update of AdamW in one pass.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{BLOCK, blocks, cube_number, dense, empty, unit_number};
use super::rows::cube_sum;
use crate::AdamWRange;

/// Matrices that one launch adds: as many buffers as every graphics API lets a kernel have, but for the sum and the sizes.
const EACH: usize = 14;

/// Cubes that share a sum of squares.
const SHARES: usize = 256;

/// A tensor to be changed: itself where nobody else holds it.
fn owned<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    let x = dense(x);
    if x.can_mut() { x } else { x.copy() }
}

/// A matrix, one of several of a launch.
#[derive(CubeType, CubeLaunch)]
struct Part {
    numbers: Array<f32>,
    rows: usize,
    columns: usize,
    /// From a row to the next.
    stride: usize,
    /// Where it is added.
    to: usize,
}

#[cube(launch_unchecked)]
fn add_kernel(parts: &Sequence<Part>, sum: &mut Array<f32>) {
    let unit = unit_number();
    let mut before = 0usize;
    #[unroll]
    for number in 0..parts.len() {
        let part = parts.index(number);
        let own = part.rows * part.columns;
        if unit >= before && unit < before + own {
            let i = unit - before;
            sum[part.to + i] += part.numbers[i / part.columns * part.stride + i % part.columns];
        }
        before += own;
    }
}

/// See [`crate::ModelBackend::added`].
pub(super) fn added<R: CubeRuntime>(
    flat: CubeTensor<R>,
    parts: Vec<(usize, CubeTensor<R>)>,
) -> CubeTensor<R> {
    let sum = owned(flat);
    let mut parts = parts.into_iter().peekable();
    while parts.peek().is_some() {
        let (mut args, mut numbers) = (SequenceArg::new(), 0);
        for (to, part) in parts.by_ref().take(EACH) {
            let ([rows, columns], stride) = (part.meta.shape().dims(), part.meta.strides()[0]);
            assert!(to + rows * columns <= sum.meta.num_elements(), "a part of the sum");
            numbers += rows * columns;
            args.push(PartLaunch::new(part.into_array_arg(), rows, columns, stride, to));
        }
        let (count, dim) = blocks(numbers);
        // SAFETY: units beyond the last number do nothing, and each matrix has its place in the sum.
        unsafe {
            add_kernel::launch_unchecked(&sum.client, count, dim, args, sum.clone().into_array_arg());
        }
    }
    sum
}

#[cube(launch_unchecked)]
fn squares_kernel(x: &Array<f32>, sums: &mut Array<f32>, len: usize, #[comptime] units: usize) {
    let cube = cube_number();
    let mut scratch = SharedMemory::<f32>::new(units);
    let mut squares = 0.0f32;
    let mut i = cube * units + UNIT_POS as usize;
    while i < len {
        let value = x[i];
        squares += value * value;
        i += SHARES * units;
    }
    let squares = cube_sum(squares, &mut scratch);
    if UNIT_POS == 0 {
        sums[cube] = squares;
    }
}

/// Sums of the squares of all numbers, which add up to that of all.
pub(super) fn squares<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    let sums = empty(&x, [SHARES]);
    let len = x.meta.num_elements();
    // SAFETY: there are as many cubes as sums.
    unsafe {
        squares_kernel::launch_unchecked(
            &sums.client,
            CubeCount::Static(SHARES as u32, 1, 1),
            CubeDim::new_1d(BLOCK),
            x.into_array_arg(),
            sums.clone().into_array_arg(),
            len,
            BLOCK as usize,
        );
    }
    sums
}

/// [`AdamWRange`] in a kernel.
#[derive(CubeType, CubeLaunch)]
struct Rule {
    lr: f32,
    beta_1: f32,
    beta_2: f32,
    eps: f32,
    bias_1: f32,
    bias_2: f32,
    kept: f32,
    clip_factor: f32,
    /// The width of a square matrix, and what is added to its diagonal.
    width: usize,
    pull: f32,
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, clippy::manual_is_multiple_of)]
fn adamw_kernel(
    parameters: &mut Array<f32>,
    exp_avg: &mut Array<f32>,
    exp_avg_sq: &mut Array<f32>,
    gradient: &Array<f32>,
    rule: &Rule,
    from: usize,
    len: usize,
) {
    let unit = unit_number();
    if unit >= len {
        terminate!();
    }
    let i = from + unit;
    let slope = gradient[i] * rule.clip_factor;
    let first = exp_avg[i] * rule.beta_1 + slope * (1.0 - rule.beta_1);
    let second = exp_avg_sq[i] * rule.beta_2 + slope * slope * (1.0 - rule.beta_2);
    let step = first / rule.bias_1 / (f32::sqrt(second / rule.bias_2) + rule.eps);
    let mut value = parameters[i] * rule.kept - step * rule.lr;
    if unit % (rule.width + 1) == 0 {
        value += rule.pull;
    }
    parameters[i] = value;
    exp_avg[i] = first;
    exp_avg_sq[i] = second;
}

/// See [`crate::ModelBackend::adamw`]. Parameters and moments, each without gaps, in this order.
pub(super) fn adamw<R: CubeRuntime>(
    state: [CubeTensor<R>; 3],
    gradient: CubeTensor<R>,
    ranges: &[AdamWRange],
) -> [CubeTensor<R>; 3] {
    let state = state.map(owned);
    for range in ranges {
        let (from, len) = (range.numbers.start, range.numbers.len());
        let all = state.iter().chain([&gradient]).map(|x| x.meta.num_elements());
        assert!(all.min().is_some_and(|n| range.numbers.end <= n), "numbers of the tensors");
        let ([beta_1, beta_2], [bias_1, bias_2]) = (range.betas, range.bias_corrections);
        // Without a diagonal, nothing is added to what it would be.
        let (width, pull) = range.diagonal.unwrap_or((0, 0.0));
        let rule = RuleLaunch::new(
            range.lr,
            beta_1,
            beta_2,
            range.eps,
            bias_1,
            bias_2,
            range.kept,
            range.clip_factor,
            width,
            pull,
        );
        let [parameters, exp_avg, exp_avg_sq] = state.each_ref().map(|x| x.clone().into_array_arg());
        let gradient = gradient.clone().into_array_arg();
        let (client, (count, dim)) = (&state[0].client, blocks(len));
        // SAFETY: units beyond the last number do nothing.
        unsafe {
            adamw_kernel::launch_unchecked(
                client, count, dim, parameters, exp_avg, exp_avg_sq, gradient, rule, from, len,
            );
        }
    }
    state
}
