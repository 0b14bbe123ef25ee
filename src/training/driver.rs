//! The driver: differentiates a DAG of stages, with the memory of one stage where nothing is kept.
//!
//! Forward, a stage that is recomputed runs without gradients and only its message is kept; one whose graph is kept runs under autodiff.
//! Backward, stage by stage from the last, a graph that was not kept is made now, by running the stage again, seeded with
//! `Σ message · cotangent + loss`; the gradients of the messages it read are added to their cotangents. Each stage is a graph of its own,
//! kept or not, so that both give the same gradients. A message is a list of tensors: the driver knows neither KV caches nor topologies.

use std::collections::BTreeMap;

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend, autodiff, host_data};

use super::FlatGradient;
use crate::agents::{StageGraph, StageOutput};
use crate::backbone::Parameters;

/// What an update needs to know.
#[derive(Debug)]
pub struct Outcome<B: Backend> {
    /// Each stage's term of the loss, 0 where it has none.
    pub losses: Vec<f64>,
    /// The mean divergence from a teacher, where a stage has one.
    pub distillation: Option<f64>,
    /// Per stage that is told of, ∂loss/∂message, where there is one.
    pub cotangents: Vec<Option<Vec<Tensor<B, 4>>>>,
}

/// The graph of a stage that has not been differentiated yet.
struct Recorded<B: ModelBackend> {
    /// The messages that it read, one after another, as leaves.
    inputs: Vec<Tensor<Autodiff<B>, 4>>,
    output: StageOutput<Autodiff<B>>,
}

impl<B: ModelBackend> Recorded<B> {
    /// Runs `stage` under autodiff on the `messages` of all stages.
    fn new(
        outer: &impl StageGraph<Autodiff<B>>,
        stage: usize,
        leaves: &Parameters<Autodiff<B>>,
        messages: &[Vec<Tensor<B, 4>>],
    ) -> Self {
        let reads = outer.reads(stage);
        let values = reads.iter().flat_map(|&r| messages[r].iter().cloned()).collect();
        let (inputs, placed) = autodiff::inputs(values);
        let mut placed = placed.into_iter();
        let placed = reads.iter().map(|&r| placed.by_ref().take(messages[r].len()).collect()).collect();
        Self { inputs, output: outer.run(stage, leaves, placed) }
    }
}

/// Differentiates the loss of all stages, and adds its gradient to `gradient`; parameters that it does not depend on are missing there.
///
/// `inner` and `outer` are the same stages on `B` and on `Autodiff<B>`; `leaves` are `parameters` as leaves there. A stage of
/// which `through` is false is not differentiated: the gradient of its message is measured and goes no further. The graph of a stage of
/// which `keep` is true waits for its gradient; any other is run without one first, and again for it.
///
/// # Panics
/// If a stage reads itself or a later one.
pub fn recompute<B: ModelBackend>(
    inner: &impl StageGraph<B>,
    outer: &impl StageGraph<Autodiff<B>>,
    parameters: &Parameters<B>,
    leaves: &Parameters<Autodiff<B>>,
    through: &[bool],
    keep: &[bool],
    gradient: &mut FlatGradient<B>,
) -> Outcome<B> {
    let n = inner.len();
    let mut read = vec![false; n];
    for stage in 0..n {
        for &r in inner.reads(stage) {
            assert!(r < stage, "stage {stage} reads stage {r}");
            read[r] = true;
        }
    }
    // From the first graph on: another thread's backward pass could meet one that is being built.
    let _pass = keep.contains(&true).then(autodiff::one_pass);
    let mut messages: Vec<Vec<Tensor<B, 4>>> = vec![Vec::new(); n];
    let mut waiting: Vec<Option<(Recorded<B>, autodiff::Waiting)>> = (0..n).map(|_| None).collect();
    for stage in (0..n).filter(|&s| read[s]) {
        messages[stage] = if keep[stage] && through[stage] {
            let recorded = autodiff::waiting(|| Recorded::new(outer, stage, leaves, &messages));
            let message = recorded.0.output.message.iter().map(|m| m.clone().inner()).collect();
            waiting[stage] = Some(recorded);
            message
        } else {
            let inputs = inner.reads(stage).iter().map(|&r| messages[r].clone()).collect();
            inner.run(stage, parameters, inputs).message
        };
    }

    let (mut losses, mut distillation) = (vec![0.0; n], None);
    let mut arriving: Vec<Vec<Option<Tensor<B, 4>>>> = messages.iter().map(|m| vec![None; m.len()]).collect();
    let mut cotangents: Vec<Option<Vec<Tensor<B, 4>>>> = vec![None; n];
    let mut part = Part::default();
    for stage in (0..n).rev() {
        if stage + 1 < n && !outer.goes_on(stage + 1) {
            std::mem::take(&mut part).join(gradient, &mut arriving);
        }
        let cotangent = whole(std::mem::take(&mut arriving[stage]), &messages[stage]);
        if outer.is_told(stage) {
            cotangents[stage].clone_from(&cotangent);
        }
        // A stage that nobody reads has nothing but its loss; it is run for it whatever `through` says.
        if read[stage] && !through[stage] {
            continue;
        }
        let _pass = autodiff::one_pass();
        let recorded = match waiting[stage].take() {
            Some((recorded, _)) => recorded,
            None => Recorded::new(outer, stage, leaves, &messages),
        };
        let Recorded { inputs, output: StageOutput { message, loss: own, distillation: divergence } } =
            recorded;
        // Messages that only this stage and earlier ones held are not needed any more.
        messages[stage] = Vec::new();
        if let Some(own) = &own {
            losses[stage] = number(own);
        }
        distillation = divergence.as_ref().map(number).or(distillation);
        let seeded = message.into_iter().zip(cotangent.into_iter().flatten());
        let terms = seeded.map(|(m, c)| (m * Tensor::from_inner(c)).sum());
        let Some(objective) = terms.chain(own).reduce(|a, b| a + b) else { continue };
        if !autodiff::is_tracked(&objective) {
            continue;
        }
        let mut grads = objective.backward();
        part.gradients.add(
            leaves
                .iter()
                .filter_map(|(name, leaf)| Some((name.clone(), leaf.grad_remove(&mut grads)?)))
                .collect(),
        );
        let first = (0..=stage).rev().find(|&s| !outer.goes_on(s)).unwrap_or(0);
        let mut inputs = inputs.into_iter();
        for &r in outer.reads(stage) {
            let got =
                inputs.by_ref().take(messages[r].len()).map(|leaf| leaf.grad_remove(&mut grads)).collect();
            match r >= first {
                true => add(&mut arriving[r], got),
                false => add(part.arriving.entry(r).or_default(), got),
            }
        }
    }
    part.join(gradient, &mut arriving);
    Outcome { losses, distillation, cotangents }
}

/// Differentiates with plain autodiff over the whole DAG: every intermediate result of every stage is kept. The oracle that
/// [`recompute`] is tested against.
pub fn end_to_end<B: ModelBackend>(
    outer: &impl StageGraph<Autodiff<B>>,
    leaves: &Parameters<Autodiff<B>>,
    through: &[bool],
) -> (f64, Parameters<B>) {
    let _pass = autodiff::one_pass();
    let mut messages: Vec<Vec<Tensor<Autodiff<B>, 4>>> = Vec::new();
    let mut losses = Vec::new();
    for (stage, &through) in through.iter().enumerate() {
        let inputs = outer.reads(stage).iter().map(|&r| messages[r].clone()).collect();
        let out = outer.run(stage, leaves, inputs);
        losses.extend(out.loss);
        let cut = |t: Tensor<Autodiff<B>, 4>| Tensor::from_inner(t.inner());
        messages.push(if through { out.message } else { out.message.into_iter().map(cut).collect() });
    }
    let total = losses.into_iter().reduce(|a, b| a + b).expect("some stage has a loss");
    let loss = number(&total);
    let mut grads = total.backward();
    let gradients = leaves
        .iter()
        .filter_map(|(name, leaf)| Some((name.clone(), leaf.grad_remove(&mut grads)?)))
        .collect();
    (loss, gradients)
}

/// The number that a tensor of shape `[1]` holds.
fn number<B: ModelBackend>(tensor: &Tensor<Autodiff<B>, 1>) -> f64 {
    host_data(tensor.clone().inner()).iter::<f64>().sum()
}

/// What stages that go on from each other add to gradients.
struct Part<B: Backend> {
    gradients: Parameters<B>,
    /// What they add to the cotangents of other stages' messages.
    arriving: BTreeMap<usize, Vec<Option<Tensor<B, 4>>>>,
}

impl<B: Backend> Default for Part<B> {
    fn default() -> Self {
        Self { gradients: Parameters::default(), arriving: BTreeMap::new() }
    }
}

impl<B: ModelBackend> Part<B> {
    fn join(self, gradient: &mut FlatGradient<B>, arriving: &mut [Vec<Option<Tensor<B, 4>>>]) {
        gradient.add(&self.gradients);
        self.arriving.into_iter().for_each(|(r, got)| add(&mut arriving[r], got));
    }
}

/// Adds tensor by tensor; what is missing counts as zero.
fn add<B: Backend>(sum: &mut Vec<Option<Tensor<B, 4>>>, got: Vec<Option<Tensor<B, 4>>>) {
    sum.resize(got.len(), None);
    for (sum, got) in sum.iter_mut().zip(got) {
        *sum = match (sum.take(), got) {
            (Some(sum), Some(got)) => Some(sum + got),
            (sum, got) => sum.or(got),
        };
    }
}

/// The cotangent of a message, where something of it has arrived; what has not is zero.
fn whole<B: Backend>(
    arrived: Vec<Option<Tensor<B, 4>>>,
    message: &[Tensor<B, 4>],
) -> Option<Vec<Tensor<B, 4>>> {
    let any = arrived.iter().any(Option::is_some);
    let each = arrived.into_iter().zip(message).map(|(c, m)| c.unwrap_or_else(|| m.zeros_like()));
    any.then(|| each.collect())
}
