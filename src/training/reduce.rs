//! One update of several processes: each differentiates rows of its own, and all of them take the same step.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::UpdateGradient;
use crate::agents::TokenCounts;
use crate::error::Result;

/// Adds up over the processes of a run. All of them call the same methods in the same order with arguments of the same sizes, and all get
/// the same sums.
pub trait Reduce<B: ModelBackend>: Send + Sync {
    /// Puts in place of each number its sum over the processes.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn numbers(&self, own: &mut [f64]) -> Result<()>;

    /// The sum of a tensor over the processes.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn tensor(&self, own: Tensor<B, 1>) -> Result<Tensor<B, 1>>;
}

/// A run of one process: its sums are its own numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneProcess;

impl<B: ModelBackend> Reduce<B> for OneProcess {
    fn numbers(&self, _own: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn tensor(&self, own: Tensor<B, 1>) -> Result<Tensor<B, 1>> {
        Ok(own)
    }
}

/// The tokens of all processes' rows: each term of the loss is a mean over those of the whole update.
///
/// # Errors
/// If a process cannot be reached.
pub(super) fn all_tokens<B: ModelBackend>(reduce: &dyn Reduce<B>, own: &TokenCounts) -> Result<TokenCounts> {
    let mut sums: Vec<f64> = [own.target].iter().chain(&own.trajectories).map(|&n| n as f64).collect();
    reduce.numbers(&mut sums)?;
    let [target, trajectories @ ..] = &sums[..] else { unreachable!("as many numbers as before") };
    Ok(TokenCounts {
        target: *target as usize,
        trajectories: trajectories.iter().map(|&n| n as usize).collect(),
    })
}

/// The gradient of all processes' rows. One that no process has a gradient of has none in the sum.
///
/// # Errors
/// If a process cannot be reached.
pub(super) fn all_gradients<B: ModelBackend>(
    reduce: &dyn Reduce<B>,
    own: UpdateGradient<B>,
) -> Result<UpdateGradient<B>> {
    let UpdateGradient {
        loss,
        trajectory_loss,
        distillation_loss,
        gradients,
        mut flat,
        message_squares,
        dropped,
        positions,
    } = own;
    let mut sums = vec![loss, trajectory_loss, dropped[0] as f64, dropped[1] as f64, positions as f64];
    sums.extend([f64::from(distillation_loss.is_some()), distillation_loss.unwrap_or(0.0)]);
    let messages = sums.len();
    for squares in &message_squares {
        sums.extend([f64::from(squares.is_some()), squares.unwrap_or(0.0)]);
    }
    let present = sums.len();
    sums.extend(flat.reached().iter().map(|&reached| f64::from(reached)));
    reduce.numbers(&mut sums)?;

    // Parts of the tensor would keep it from being added to in place.
    drop(gradients);
    let reached: Vec<bool> = sums[present..].iter().map(|&processes| processes > 0.0).collect();
    if reached.contains(&true) {
        let sum = reduce.tensor(flat.sum())?;
        flat.replace(sum, reached);
    }
    let squares = sums[messages..present].chunks_exact(2);
    Ok(UpdateGradient {
        loss: sums[0],
        trajectory_loss: sums[1],
        distillation_loss: (sums[5] > 0.0).then_some(sums[6]),
        gradients: flat.by_name(),
        flat,
        message_squares: squares.map(|pair| (pair[0] > 0.0).then_some(pair[1])).collect(),
        dropped: [sums[2] as usize, sums[3] as usize],
        positions: sums[4] as usize,
    })
}
