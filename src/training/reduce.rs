//! One update of several processes: each differentiates micro-batches of its own, in turns, and all of them add up all gradients in the order
//! of the micro-batches, as one process does. So all take the step that one process would take, to the bit.

use std::time::Instant;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{ModelBackend, host_data};

use super::UpdateGradient;
use crate::agents::TokenCounts;
use crate::error::Result;
use crate::processes::Processes;

/// The tokens of all processes' rows: each term of the loss is a mean over those of the whole update.
///
/// # Errors
/// If a process cannot be reached.
pub(super) fn all_tokens(processes: &dyn Processes, own: &TokenCounts) -> Result<TokenCounts> {
    let own: Vec<f64> = [own.target].iter().chain(&own.trajectories).map(|&n| n as f64).collect();
    let all = processes.numbers(&own)?;
    let mut sums = (0..own.len()).map(|i| all.iter().map(|own| own[i] as usize).sum());
    Ok(TokenCounts { target: sums.next().unwrap_or_default(), trajectories: sums.collect() })
}

/// `sum`, and the gradients of all micro-batches of all processes added to it, of which `own` are those of this process: process `r` of `N`
/// has the micro-batches `r`, `r + N`, `r + 2N` and so on.
///
/// # Errors
/// If a process cannot be reached.
pub(super) fn all_gradients<B: ModelBackend>(
    processes: &dyn Processes,
    mut sum: UpdateGradient<B>,
    own: impl Iterator<Item = UpdateGradient<B>>,
) -> Result<UpdateGradient<B>> {
    if processes.count() == 1 {
        own.for_each(|part| sum.add(part));
        return Ok(sum.by_name());
    }
    let (mut numbers, mut flats) = (Vec::new(), Vec::new());
    for part in own {
        numbers.extend(Numbers::of(&part));
        if part.flat.reached().contains(&true) {
            flats.push(host_data(part.flat.sum()).to_vec::<f32>().expect("gradients are f32"));
        }
    }
    let width = Numbers::of(&sum).len();
    // Who is ready waits here for the others; the exchange begins when all are.
    processes.meet()?;
    let clock = Instant::now();
    let numbers: Vec<Vec<f64>> = processes.numbers(&numbers)?;
    // In the order of the micro-batches: of each, whose it is.
    let rounds = numbers.iter().map(Vec::len).max().unwrap_or(0) / width;
    let turns = (0..rounds).flat_map(|round| numbers.iter().enumerate().map(move |of| (round, of)));
    let mut reached = vec![false; sum.flat.reached().len()];
    let mut owners = Vec::new();
    for (round, (rank, numbers)) in turns {
        let Some(numbers) = numbers.chunks_exact(width).nth(round) else { continue };
        let (part, of_part) = Numbers(numbers).among(&sum);
        sum.add(part);
        if of_part.contains(&true) {
            owners.push(rank);
            reached.iter_mut().zip(of_part).for_each(|(all, of_part)| *all |= of_part);
        }
    }
    if !owners.is_empty() {
        let added = added_in_order(processes, &flats, &owners, sum.flat.layout().len())?;
        let (length, device) = (added.len(), sum.flat.device());
        sum.flat.replace(Tensor::from_data(TensorData::new(added, [length]), &device), reached);
        tracing::debug!(
            "gradients of {} micro-batches, {length} numbers each, exchanged in {:.4} s",
            owners.len(),
            clock.elapsed().as_secs_f64()
        );
    }
    Ok(sum.by_name())
}

/// The sum of lists of `length` numbers, of which `own` are those of this process; `owners` says, in the order in which they are added, whose each
/// of all of them is. Each process adds up a part of every list and hands its sums round.
fn added_in_order(
    processes: &dyn Processes,
    own: &[Vec<f32>],
    owners: &[usize],
    length: usize,
) -> Result<Vec<f32>> {
    let n = processes.count();
    let range = |rank: usize| rank * length / n..(rank + 1) * length / n;
    let parts =
        (0..n).map(|rank| own.iter().flat_map(|list| &list[range(rank)]).copied().collect()).collect();
    let dealt = processes.deal(parts)?;
    let width = range(processes.rank()).len();
    let mut lists: Vec<_> = dealt.iter().map(|lists| lists.chunks_exact(width.max(1))).collect();
    let mut sums: Option<Vec<f32>> = None;
    for &owner in owners.iter().filter(|_| width > 0) {
        let list = lists[owner].next().expect("as many lists as were told of");
        match &mut sums {
            Some(sums) => sums.iter_mut().zip(list).for_each(|(sum, x)| *sum += x),
            None => sums = Some(list.to_vec()),
        }
    }
    let sums = processes.gather(bytemuck::cast_slice(&sums.unwrap_or_default()))?;
    Ok(sums.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec::<u8, f32>(bytes)).collect())
}

/// What is told of a micro-batch's gradient beside the gradient.
struct Numbers<'a>(&'a [f64]);

impl Numbers<'_> {
    fn of<B: ModelBackend>(gradient: &UpdateGradient<B>) -> Vec<f64> {
        let g = gradient;
        let mut numbers =
            vec![g.loss, g.trajectory_loss, g.dropped[0] as f64, g.dropped[1] as f64, g.positions as f64];
        for number in [g.distillation_loss].iter().chain(&g.message_squares) {
            numbers.extend([f64::from(number.is_some()), number.unwrap_or(0.0)]);
        }
        numbers.extend(g.flat.reached().iter().map(|&reached| f64::from(reached)));
        numbers
    }

    /// The gradient that they were taken from, but for the tensor, of which it is said what has reached it; of the layout of `like`.
    fn among<B: ModelBackend>(&self, like: &UpdateGradient<B>) -> (UpdateGradient<B>, Vec<bool>) {
        let (sums, rest) = self.0.split_at(5);
        let (pairs, reached) = rest.split_at(2 * (1 + like.message_squares.len()));
        let mut numbers = pairs.chunks_exact(2).map(|pair| (pair[0] > 0.0).then_some(pair[1]));
        let gradient = UpdateGradient {
            loss: sums[0],
            trajectory_loss: sums[1],
            dropped: [sums[2] as usize, sums[3] as usize],
            positions: sums[4] as usize,
            distillation_loss: numbers.next().flatten(),
            message_squares: numbers.collect(),
            gradients: Default::default(),
            flat: like.flat.like(),
        };
        (gradient, reached.iter().map(|&reached| reached > 0.0).collect())
    }
}
