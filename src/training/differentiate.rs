//! The gradient of an update's micro-batches, one after another.

use std::collections::BTreeSet;
use std::sync::Arc;

use diffmas_backends::{Autodiff, ModelBackend};

use super::{FlatGradient, FlatLayout, Recompute, TrainConfig, recompute};
use crate::agents::{
    Dropout, Dropped, FactorDraws, LossWeights, Objective, TeamBatch, TeamModel, TeamPlan, TeamStages,
};
use crate::backbone::{Parameters, frobenius};

/// Keeps the draws of communication dropout apart from those of the samples' order, which have the same seed.
const DROPOUT: u64 = 0x6472_6f70;
/// Keeps the draws of LoRA's dropout apart from both.
const LORA_DROPOUT: u64 = 0x6c6f_7261;

/// What the gradient of some of an update's rows is, and what is told of it.
#[derive(Debug)]
pub struct UpdateGradient<B: ModelBackend> {
    /// Their part of the update's loss.
    pub loss: f64,
    /// The trajectories' share of it.
    pub trajectory_loss: f64,
    /// Their part of the mean divergence from a teacher, where there is one.
    pub distillation_loss: Option<f64>,
    /// Gradients by parameter: parts of `flat`.
    pub gradients: Parameters<B>,
    /// All of them in one tensor.
    pub flat: FlatGradient<B>,
    /// By upstream agent, the squared norm of ∂loss/∂message, where a gradient reaches it.
    pub message_squares: Vec<Option<f64>>,
    /// Messages that communication dropout hid as a whole, and single positions and vectors.
    pub dropped: [usize; 2],
    /// Prompt, latent, target and trajectory positions.
    pub positions: usize,
}

impl<B: ModelBackend> UpdateGradient<B> {
    /// That of no rows.
    fn new(flat: FlatGradient<B>, senders: usize) -> Self {
        Self {
            loss: 0.0,
            trajectory_loss: 0.0,
            distillation_loss: None,
            gradients: Parameters::default(),
            flat,
            message_squares: vec![None; senders],
            dropped: [0; 2],
            positions: 0,
        }
    }

    /// Adds that of other rows, to everything but `gradients`: parts of the tensor would keep it from being added to in place.
    pub(super) fn add(&mut self, other: Self) {
        let add = |sum: &mut Option<f64>, other: Option<f64>| {
            if let Some(other) = other {
                *sum.get_or_insert(0.0) += other;
            }
        };
        self.loss += other.loss;
        self.trajectory_loss += other.trajectory_loss;
        add(&mut self.distillation_loss, other.distillation_loss);
        self.message_squares.iter_mut().zip(other.message_squares).for_each(|(sum, other)| add(sum, other));
        self.dropped.iter_mut().zip(other.dropped).for_each(|(sum, other)| *sum += other);
        self.positions += other.positions;
        drop(other.gradients);
        self.flat.join(other.flat);
    }

    /// The same with `gradients`.
    pub(super) fn by_name(mut self) -> Self {
        self.gradients = self.flat.by_name();
        self
    }

    /// By upstream agent, the norm of ∂loss/∂message, where a gradient reaches it.
    pub fn message_norms(&self) -> Vec<Option<f64>> {
        self.message_squares.iter().map(|squares| squares.map(f64::sqrt)).collect()
    }
}

/// The draws of communication dropout and of LoRA's in one update.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws {
    dropout: Dropout,
    seed: u64,
    step: usize,
}

impl Draws {
    /// Those of update `step` (from 0).
    pub(super) fn new(config: &TrainConfig, step: usize) -> Self {
        let dropout = Dropout { senders: config.sender_dropout, positions: config.position_dropout };
        Self { dropout, seed: config.seed, step }
    }

    /// The plan of `model` on `batch`, and what is hidden in it: for each row by its number, whatever rows stand beside it.
    pub(super) fn plan<B: ModelBackend>(
        &self,
        model: &TeamModel<B>,
        batch: &TeamBatch,
    ) -> (TeamPlan, Vec<Dropped>) {
        let mut plan =
            TeamPlan::new(&model.layout.config, batch, |rollout| model.channel.inner.layout(rollout));
        let in_run =
            |numbers: &[u64]| -> Vec<u64> { numbers.iter().map(|n| (self.step as u64) << 32 | n).collect() };
        let sample_ids = in_run(&batch.message_numbers());
        if model.layout.adapters.adapters.values().any(|adapter| adapter.config.lora_dropout > 0.0) {
            let (messages, questions) = (sample_ids.clone(), in_run(&batch.numbers));
            plan.factor_draws = Some(FactorDraws { seed: self.seed ^ LORA_DROPOUT, messages, questions });
        }
        if self.dropout == Dropout::default() {
            return (plan, Vec::new());
        }
        let hide = |message: &mut _, before: Option<&_>, dropped: &_| {
            model.channel.inner.hide(message, before, dropped)
        };
        let dropped = plan.drop_messages(self.dropout, self.seed ^ DROPOUT, &sample_ids, hide);
        (plan, dropped)
    }
}

/// What an update differentiates.
pub(super) struct Differentiation<'a, B: ModelBackend> {
    pub model: &'a TeamModel<B>,
    pub outer: &'a TeamModel<Autodiff<B>>,
    pub parameters: &'a Parameters<B>,
    pub leaves: &'a Parameters<Autodiff<B>>,
    /// Where what learns lies.
    pub layout: &'a Arc<FlatLayout>,
    pub objective: &'a dyn Objective<Autodiff<B>>,
    /// Agents that the gradient goes through.
    pub through: &'a [bool],
    pub draws: Draws,
    pub recompute: Recompute,
    pub activation_checkpointing: bool,
}

impl<B: ModelBackend> Differentiation<'_, B> {
    /// The gradient of no micro-batch.
    pub fn nothing(&self) -> UpdateGradient<B> {
        let flat = FlatGradient::new(self.layout.clone(), &self.model.backbone.device());
        UpdateGradient::new(flat, self.model.layout.config.agents.len() - 1)
    }

    /// The gradients of the terms of `batches`, weighed by `weights`, one after another.
    ///
    /// # Panics
    /// If two questions have the same number: what is drawn for one would be drawn for the other.
    pub fn gradients<'a>(
        &'a self,
        batches: &'a [TeamBatch],
        weights: &'a LossWeights,
    ) -> impl Iterator<Item = UpdateGradient<B>> + use<'a, B> {
        let rows = batches.iter().map(TeamBatch::rows).sum::<usize>();
        let numbers: BTreeSet<u64> = batches.iter().flat_map(|b| b.numbers.iter().copied()).collect();
        assert_eq!(numbers.len(), rows, "every question of an update has a number of its own");
        batches.iter().map(move |batch| self.of_batch(batch, weights))
    }

    /// The gradient of one micro-batch.
    fn of_batch(&self, batch: &TeamBatch, weights: &LossWeights) -> UpdateGradient<B> {
        let mut all = self.nothing();
        all.positions = batch.tokens() + self.model.layout.config.total_steps() * batch.message_rows();
        let (plan, dropped) = self.draws.plan(self.model, batch);
        let (plan, keep) =
            &self.recompute.divide(plan, self.model.backbone.layers.len(), self.activation_checkpointing);
        for dropped in dropped {
            all.dropped[0] += usize::from(dropped.all);
            all.dropped[1] += dropped.positions;
        }
        let through = self.through;
        let inner = TeamStages { model: self.model, batch, plan, objective: None, weights, through };
        let objective = Some(self.objective);
        let outer = TeamStages { model: self.outer, batch, plan, objective, weights, through };
        let (parameters, leaves, reached) = (self.parameters, self.leaves, inner.reached());
        let outcome = recompute(&inner, &outer, parameters, leaves, &reached, keep, &mut all.flat);
        let (last, upstream) = outcome.losses.split_last().expect("the final agent is a stage");
        let trajectory_loss: f64 = upstream.iter().sum();
        all.loss += last + trajectory_loss;
        all.trajectory_loss += trajectory_loss;
        if let Some(divergence) = outcome.distillation {
            *all.distillation_loss.get_or_insert(0.0) += divergence;
        }
        for (stage, cotangents) in outcome.cotangents.into_iter().enumerate() {
            for (j, tensors) in cotangents.map(|c| inner.split(stage, c)).into_iter().flatten() {
                *all.message_squares[j].get_or_insert(0.0) += frobenius(&tensors).powi(2);
            }
        }
        all
    }
}
