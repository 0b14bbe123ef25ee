//! The training loop: draws samples, differentiates, clips, updates; stops and resumes without a trace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use diffmas_backends::{Autodiff, ModelBackend};

use super::{
    CheckpointState, DataMark, Optimizer, Parameters, Sampler, StepMetrics, TrainConfig, clip, learning_rate,
    peak_memory_bytes, read_checkpoint, recompute, write_checkpoint,
};
use crate::agents::{AdapterScope, AdapterSet, Team, TeamBatch, TeamModel, TeamPlan, TeamStages};
use crate::error::{Error, Result};
use crate::text::TokenizedSample;

/// What the loop tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// An update is done (or was skipped).
    Step {
        /// What it reports.
        metrics: &'a StepMetrics,
        /// Updates of the whole run.
        total: usize,
    },
    /// A checkpoint was written.
    Checkpoint(&'a Path),
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// All updates are done.
    Finished,
    /// The caller asked to stop; a checkpoint was written where there is an output folder.
    Interrupted,
}

/// A run in progress.
pub struct Trainer<B: ModelBackend> {
    config: TrainConfig,
    model: TeamModel<B>,
    outer: TeamModel<Autodiff<B>>,
    adapters: AdapterSet<B>,
    parameters: Parameters<B>,
    leaves: Parameters<Autodiff<B>>,
    optimizer: Optimizer<B>,
    step: usize,
    skipped_in_a_row: usize,
}

impl<B: ModelBackend> Trainer<B> {
    /// A run that starts from `adapters`.
    ///
    /// # Errors
    /// If a setting makes no sense, or nothing would learn.
    pub fn new(config: TrainConfig, model: TeamModel<B>, adapters: AdapterSet<B>) -> Result<Self> {
        config.validate()?;
        let parameters = model.parameters(&adapters);
        if adapters.adapters.values().any(|a| a.config.lora_dropout > 0.0) {
            return Err(Error::invalid(
                "lora_dropout is not supported: set it to 0 in adapter_config.json to train this adapter",
            ));
        }
        if parameters.is_empty() {
            return Err(Error::invalid("there is nothing to train: no adapter and no learned feed"));
        }
        Ok(Self {
            outer: model.to_autodiff(),
            leaves: parameters.leaves(),
            optimizer: Optimizer::new(config.weight_decay),
            config,
            model,
            adapters,
            parameters,
            step: 0,
            skipped_in_a_row: 0,
        })
    }

    /// Takes up the newest whole checkpoint below `output`; returns the updates it has done, or none where there is no checkpoint.
    ///
    /// # Errors
    /// If no checkpoint can be read, or it is of other data or another seed.
    pub fn resume(&mut self, output: &Path, samples: &[TokenizedSample]) -> Result<Option<usize>> {
        let Some((parameters, state)) =
            read_checkpoint(output, &self.model, &self.adapters, &mut self.optimizer)?
        else {
            return Ok(None);
        };
        let data = DataMark::new(samples);
        if state.seed != self.config.seed || state.data != data {
            let describe = |seed: u64, data: &DataMark| {
                format!("seed {seed} and {} samples (SHA-256 {:.12}…)", data.samples, data.sha256)
            };
            let (theirs, ours) = (describe(state.seed, &state.data), describe(self.config.seed, &data));
            return Err(Error::file(
                output,
                format!(
                    "the checkpoint is of {theirs}, but this run has {ours}; a resumed run needs the same data, \
                     prompts and settings"
                ),
            ));
        }
        self.leaves = parameters.leaves();
        self.parameters = parameters;
        self.step = state.step;
        self.skipped_in_a_row = state.skipped_in_a_row;
        Ok(Some(state.step))
    }

    /// The team as it is now.
    pub fn team(&self) -> Team<B> {
        self.model.bind(&self.adapters, &self.parameters)
    }

    /// The adapters as they are now.
    pub fn adapters(&self) -> AdapterSet<B> {
        self.adapters.bind(&self.parameters)
    }

    /// The team without values for what it learns.
    pub fn model(&self) -> &TeamModel<B> {
        &self.model
    }

    /// Everything that learns, as it is now.
    pub fn parameters(&self) -> &Parameters<B> {
        &self.parameters
    }

    /// The gradient of the mean NLL over all target tokens of `batches`, with loss and norms: forward and backward of one update.
    pub fn gradients(&self, batches: &[TeamBatch]) -> (f64, Parameters<B>, BTreeMap<String, f64>) {
        let target_tokens = batches.iter().map(TeamBatch::target_tokens).sum();
        let through = self.through();
        let mut loss = 0.0;
        let mut gradients = Parameters::default();
        let mut squares: BTreeMap<String, f64> = BTreeMap::new();
        for batch in batches {
            let plan = TeamPlan::new(&self.model.config, batch);
            let adapters = &self.adapters;
            let inner = TeamStages { model: &self.model, adapters, batch, plan: &plan, target_tokens };
            let outer = TeamStages { model: &self.outer, adapters, batch, plan: &plan, target_tokens };
            let outcome = recompute(&inner, &outer, &self.parameters, &self.leaves, &through);
            loss += outcome.loss;
            gradients.add(outcome.gradients);
            for (agent, norm) in self.model.config.agents.iter().zip(outcome.message_grad_norms) {
                if let Some(norm) = norm {
                    *squares.entry(agent.name.clone()).or_default() += norm * norm;
                }
            }
        }
        let norms = squares.into_iter().map(|(name, s)| (name, s.sqrt())).collect();
        (loss, gradients, norms)
    }

    /// Which stages the gradient goes through: those `trace_gradient` reaches, and upstream only where something learns there.
    fn through(&self) -> Vec<bool> {
        let upstream = self.model.config.agents.len() - 1;
        let learns = self.adapters.scope != AdapterScope::FinalOnly || self.model.feed.learned.is_some();
        (0..upstream)
            .map(|j| learns && self.config.trace_gradient.reaches(j, upstream))
            .chain([true])
            .collect()
    }

    /// One update with rate `lr`; skipped where loss or gradient is not finite.
    pub fn update(&mut self, batches: &[TeamBatch], lr: f64) -> StepMetrics {
        let start = Instant::now();
        let (loss, gradients, trace_grad_norm) = self.gradients(batches);
        let norm = gradients.norm();
        let finite = loss.is_finite() && norm.is_finite();
        self.step += 1;
        if finite {
            self.skipped_in_a_row = 0;
            let clipped = clip(gradients, norm, self.config.max_grad_norm);
            self.parameters = self.optimizer.step(lr, &self.parameters, &clipped);
            self.leaves = self.parameters.leaves();
        } else {
            self.skipped_in_a_row += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let latent: usize = (0..self.model.config.agents.len()).map(|j| self.model.config.steps(j)).sum();
        let tokens: usize = batches.iter().map(|b| b.tokens() + latent * b.rows()).sum();
        StepMetrics {
            step: self.step,
            loss: loss.is_finite().then_some(loss),
            learning_rate: lr,
            grad_norm: norm.is_finite().then_some(norm),
            trace_grad_norm: trace_grad_norm.into_iter().filter(|(_, n)| n.is_finite()).collect(),
            tokens_per_second: tokens as f64 / seconds,
            step_seconds: seconds,
            peak_memory_bytes: peak_memory_bytes(),
            skipped: !finite,
        }
    }

    /// Trains on `samples` from where the run stands to its end, or until `stop` is set: then the update in progress is finished first.
    ///
    /// Checkpoints go below `output` every `save_steps` updates, at the end and on a stop.
    ///
    /// # Errors
    /// If a checkpoint cannot be written, or too many updates in a row were not finite.
    pub fn train(
        &mut self,
        samples: &[TokenizedSample],
        output: Option<&Path>,
        stop: &AtomicBool,
        mut on_event: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<StopReason> {
        if samples.is_empty() {
            return Err(Error::invalid("there is no training sample"));
        }
        let c = &self.config;
        let sampler = Sampler::new(samples.len(), c.batch_size, c.gradient_accumulation_steps, c.seed);
        let total = c.total_steps(sampler.updates_per_epoch());
        let data = DataMark::new(samples);
        let mut saved = self.step;
        while self.step < total {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let batches: Vec<TeamBatch> = sampler
                .update(self.step)
                .iter()
                .map(|rows| TeamBatch::new(&rows.iter().map(|&i| &samples[i]).collect::<Vec<_>>()))
                .collect();
            let c = &self.config;
            let lr = learning_rate(c.lr_scheduler_type, c.learning_rate, self.step, c.warmup_steps, total);
            let metrics = self.update(&batches, lr);
            on_event(Event::Step { metrics: &metrics, total })?;
            let hopeless = self.skipped_in_a_row >= self.config.max_skipped_updates;
            if hopeless || self.step.is_multiple_of(self.config.save_steps) {
                saved = self.step;
                self.save(output, &data, &mut on_event)?;
            }
            if hopeless {
                return Err(Error::invalid(format!(
                    "loss or gradient was not finite in {} updates in a row (up to update {}): training stopped; \
                     try a lower learning_rate, or look at the data of these updates",
                    self.skipped_in_a_row, self.step
                )));
            }
        }
        if saved != self.step {
            self.save(output, &data, &mut on_event)?;
        }
        Ok(if self.step < total { StopReason::Interrupted } else { StopReason::Finished })
    }

    fn save(
        &self,
        output: Option<&Path>,
        data: &DataMark,
        on_event: &mut impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(output) = output else { return Ok(()) };
        let state = CheckpointState {
            step: self.step,
            seed: self.config.seed,
            data: data.clone(),
            skipped_in_a_row: self.skipped_in_a_row,
        };
        let keep = self.config.save_total_limit;
        let dir: PathBuf = write_checkpoint(
            output,
            &self.model,
            &self.adapters,
            &self.parameters,
            &self.optimizer,
            &state,
            keep,
        )?;
        on_event(Event::Checkpoint(&dir))
    }
}
