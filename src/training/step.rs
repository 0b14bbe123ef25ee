//! An update: differentiate, reduce, clip, step.

use std::borrow::Cow;
use std::time::Instant;

use diffmas_backends::{Autodiff, ModelBackend};

use super::differentiate::{Differentiation, Draws};
use super::reduce::{all_gradients, all_tokens};
use super::{StepMetrics, Trainer, UpdateGradient, clip_factor, peak_memory_bytes};
use crate::agents::{LossWeights, TeamBatch, TeamModel, TeamPlan, TokenCounts};
use crate::error::Result;
use crate::processes::{OneProcess, Processes};

impl<B: ModelBackend> Trainer<B> {
    /// One update of the present phase with rate `lr`, on micro-batches of which `batches` are those of this process; skipped where loss or
    /// gradient is not finite.
    ///
    /// # Errors
    /// If another process of the run cannot be reached.
    ///
    /// # Panics
    /// As [`Trainer::gradients`].
    pub fn update(&mut self, batches: &[TeamBatch], lr: f64) -> Result<StepMetrics> {
        let start = Instant::now();
        let batches = &self.learned(batches);
        let tokens = all_tokens(&*self.processes, &self.tokens(batches))?;
        let update = self.differentiate(batches, &tokens, &*self.processes)?;

        let (norm, message_norms) = (update.flat.norm(), update.message_norms());
        let finite = update.loss.is_finite() && norm.is_finite();
        self.step += 1;
        let mut factor = 1.0;
        if finite {
            self.skipped_in_a_row = 0;
            factor = clip_factor(norm, self.config.max_grad_norm);
            // While somebody holds parts of what learns, an update is not one in place.
            (self.parameters, self.leaves) = Default::default();
            self.optimizer.step(lr, &update.flat, factor);
            self.parameters = self.optimizer.parameters();
            self.leaves = self.phase.leaves(&self.parameters, &self.specs);
        } else {
            self.skipped_in_a_row += 1;
        }

        let seconds = start.elapsed().as_secs_f64();
        let reserved = B::device_memory(&self.model.backbone.device()).map(|memory| memory.reserved);
        self.peak_device_memory = self.peak_device_memory.max(reserved);
        let drops = self.config.sender_dropout > 0.0 || self.config.position_dropout > 0.0;
        let names = self.model.layout.config.agents.iter().map(|agent| agent.name.clone());
        let message_norms = names.zip(message_norms);
        let finite_norm = |(name, norm): (String, Option<f64>)| Some((name, norm.filter(|n| n.is_finite())?));
        Ok(StepMetrics {
            step: self.step,
            phase: None,
            loss: update.loss.is_finite().then_some(update.loss),
            trajectory_loss: Some(update.trajectory_loss)
                .filter(|x| self.phase.trajectory_weight > 0.0 && x.is_finite()),
            distillation_loss: update.distillation_loss.filter(|x| x.is_finite()),
            learning_rate: lr,
            grad_norm: norm.is_finite().then_some(norm),
            clip_factor: factor,
            competence: None,
            dropped_senders: drops.then_some(update.dropped[0]),
            dropped_positions: drops.then_some(update.dropped[1]),
            trace_grad_norm: message_norms.filter_map(finite_norm).collect(),
            tokens_per_second: update.positions as f64 / seconds,
            step_seconds: seconds,
            peak_memory_bytes: peak_memory_bytes(),
            peak_device_memory_bytes: self.peak_device_memory,
            skipped: !finite,
        })
    }

    /// The gradient of the present phase's loss over all `batches`, as an update of these alone has it.
    ///
    /// # Panics
    /// If two questions have the same number.
    pub fn gradients(&self, batches: &[TeamBatch]) -> UpdateGradient<B> {
        let batches = &self.learned(batches);
        let alone = self.differentiate(batches, &self.tokens(batches), &OneProcess);
        alone.expect("a process reaches itself")
    }

    /// The plan of `batch` in the next update, in which communication dropout has hidden what it hides then.
    pub fn plan(&self, batch: &TeamBatch) -> TeamPlan {
        Draws::new(&self.config, self.step).plan(self.models().0, batch).0
    }

    /// The team in the present phase, and the same for autodiff.
    fn models(&self) -> (&TeamModel<B>, &TeamModel<Autodiff<B>>) {
        match &self.silent {
            Some((model, outer)) if !self.phase.channel => (model, outer),
            _ => (&self.model, &self.outer),
        }
    }

    fn differentiate(
        &self,
        batches: &[TeamBatch],
        tokens: &TokenCounts,
        processes: &dyn Processes,
    ) -> Result<UpdateGradient<B>> {
        let (model, outer) = self.models();
        let differentiation = Differentiation {
            model,
            outer,
            parameters: &self.parameters,
            leaves: &self.leaves,
            layout: self.optimizer.layout(),
            objective: &*self.objective,
            through: &self.through(),
            draws: Draws::new(&self.config, self.step),
            recompute: self.config.recompute,
            activation_checkpointing: self.config.activation_checkpointing,
        };
        let weights = LossWeights::new(tokens, self.phase.trajectory_weight);
        all_gradients(processes, differentiation.nothing(), differentiation.gradients(batches, &weights))
    }

    fn tokens(&self, batches: &[TeamBatch]) -> TokenCounts {
        TokenCounts::new(batches, self.model.layout.config.agents.len() - 1)
    }

    /// `batches` without texts that the present phase does not learn.
    fn learned<'a>(&self, batches: &'a [TeamBatch]) -> Cow<'a, [TeamBatch]> {
        match self.phase.trajectory_weight {
            0.0 => batches.iter().map(|b| b.clone().without_trajectories()).collect(),
            _ => Cow::Borrowed(batches),
        }
    }
}
