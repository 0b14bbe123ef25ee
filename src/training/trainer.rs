//! The training loop: draws samples, differentiates, clips, updates; stops and resumes without a trace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use diffmas_backends::{Autodiff, ModelBackend};

use super::{
    CheckpointState, DataMark, Optimizer, Phase, RunSettings, Sampler, StepMetrics, TrainConfig, Trainable,
    clip, competence, frobenius, learning_rate, peak_memory_bytes, phases, read_checkpoint, recompute,
    write_checkpoint,
};
use crate::agents::{
    AdapterScope, Base, ChannelKind, Dropout, LossWeights, Team, TeamBatch, TeamModel, TeamPlan, TeamStages,
};
use crate::backbone::Parameters;
use crate::error::{Error, Result};
use crate::inference::{Author, Writing, write_messages};
use crate::text::TokenizedSample;

/// Keeps the draws of communication dropout apart from those of the samples' order, which have the same seed.
const DROPOUT: u64 = 0x6472_6f70;

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

/// What one update's gradient is, and what is told of it.
#[derive(Debug)]
pub struct UpdateGradient<B: ModelBackend> {
    /// The loss of the update.
    pub loss: f64,
    /// The expert texts' share of it.
    pub trajectory_loss: f64,
    /// Gradients by parameter.
    pub gradients: Parameters<B>,
    /// Norm of ∂loss/∂message by upstream role.
    pub message_norms: BTreeMap<String, f64>,
    /// Messages that communication dropout hid as a whole, and single positions and vectors.
    pub dropped: [usize; 2],
}

/// A run in progress.
pub struct Trainer<B: ModelBackend> {
    config: TrainConfig,
    phase: Phase,
    writing: Option<Writing>,
    model: TeamModel<B>,
    outer: TeamModel<Autodiff<B>>,
    /// The same two with the channel off, where a phase has it off.
    silent: Option<(TeamModel<B>, TeamModel<Autodiff<B>>)>,
    /// What stands beside the adapters of a checkpoint.
    base: Option<Base>,
    parameters: Parameters<B>,
    leaves: Parameters<Autodiff<B>>,
    optimizer: Optimizer<B>,
    step: usize,
    skipped_in_a_row: usize,
    /// Settings that a resumed run changed, a sentence each.
    changed: Vec<String>,
}

impl<B: ModelBackend> Trainer<B> {
    /// A run that starts from `parameters`.
    ///
    /// # Errors
    /// If a setting makes no sense, or nothing would learn.
    pub fn new(config: TrainConfig, model: TeamModel<B>, parameters: Parameters<B>) -> Result<Self> {
        config.validate()?;
        if model.layout.adapters.adapters.values().any(|a| a.config.lora_dropout > 0.0) {
            return Err(Error::invalid(
                "lora_dropout is not supported: set it to 0 in adapter_config.json to train this adapter",
            ));
        }
        if parameters.is_empty() {
            return Err(Error::invalid(
                "there is nothing to train: no adapter, no learned feed, and nothing in the channel",
            ));
        }
        // Lengths do not matter to what a phase may learn.
        let phases = config.phases(1);
        phases::check(&phases, &parameters)?;
        let silent = phases.iter().any(|p| !p.channel).then(|| {
            let silent = model.without_channel();
            let outer = silent.to_autodiff();
            (silent, outer)
        });
        let phase = phases.into_iter().next().expect("a run has a phase");
        Ok(Self {
            outer: model.to_autodiff(),
            leaves: parameters.leaves(|name| phase.trains(name)),
            phase,
            writing: None,
            silent,
            optimizer: Optimizer::new(config.weight_decay, config.decay),
            config,
            model,
            base: None,
            parameters,
            step: 0,
            skipped_in_a_row: 0,
            changed: Vec::new(),
        })
    }

    /// What the run is trained with.
    fn settings(&self) -> RunSettings {
        let sha256 = self.base.as_ref().map(|base| base.base_model_sha256.as_str());
        RunSettings::new(&self.config, &self.model.layout.config, &self.model.layout.adapters, sha256)
            .with_precision(self.model.backbone.precision)
    }

    /// Settings that a resumed run has changed, a sentence each.
    pub fn changed(&self) -> &[String] {
        &self.changed
    }

    /// The same run on weights that are known by name and hash: what it writes says so, and it resumes on no others.
    pub fn with_base(self, base: Base) -> Self {
        Self { base: Some(base), ..self }
    }

    /// Writes all that was learned into `dir`: adapters, communication modules, and where they come from.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.model.write(dir, &self.parameters, self.base.as_ref())
    }

    /// The same run with upstream agents that write, which the channel `text` needs.
    pub fn with_writing(self, writing: Writing) -> Self {
        Self { writing: Some(writing), ..self }
    }

    /// Takes up the newest whole checkpoint below `output`; returns the updates it has done, or none where there is no checkpoint.
    ///
    /// # Errors
    /// If no checkpoint can be read, or it is of other data or settings than those that may change while a run goes on.
    pub fn resume(&mut self, output: &Path, samples: &[TokenizedSample]) -> Result<Option<usize>> {
        let (settings, data) = (self.settings(), DataMark::new(samples));
        let accept = |state: &CheckpointState| {
            let [refused, _] = state.settings.changes(&settings);
            if !refused.is_empty() {
                return Err(Error::file(
                    output,
                    format!(
                        "the run was trained with other settings: {}; go on with its own (leave the flags out), or begin another run",
                        refused.join(", ")
                    ),
                ));
            }
            if state.data == data {
                return Ok(());
            }
            let describe =
                |data: &DataMark| format!("{} samples (SHA-256 {:.12}…)", data.samples, data.sha256);
            Err(Error::file(
                output,
                format!(
                    "the checkpoint is of {}, but this run has {}; a resumed run needs the same data",
                    describe(&state.data),
                    describe(&data)
                ),
            ))
        };
        let read = read_checkpoint(output, &self.model, &mut self.optimizer, accept)?;
        let Some((parameters, state)) = read else { return Ok(None) };
        let [_, applied] = state.settings.changes(&settings);
        self.leaves = parameters.leaves(|name| self.phase.trains(name));
        self.parameters = parameters;
        self.changed = applied;
        self.step = state.step;
        self.skipped_in_a_row = state.skipped_in_a_row;
        Ok(Some(state.step))
    }

    /// The team as it is now.
    pub fn team(&self) -> Team<B> {
        self.model.bind(&self.parameters)
    }

    /// The team without values for what it learns.
    pub fn model(&self) -> &TeamModel<B> {
        &self.model
    }

    /// Everything that learns, as it is now.
    pub fn parameters(&self) -> &Parameters<B> {
        &self.parameters
    }

    /// The gradient of the present phase's loss over all `batches`: forward and backward of one update.
    pub fn gradients(&self, batches: &[TeamBatch]) -> UpdateGradient<B> {
        let weights = LossWeights::new(batches, self.phase.trajectory_weight);
        let (model, outer) = match &self.silent {
            Some((model, outer)) if !self.phase.channel => (model, outer),
            _ => (&self.model, &self.outer),
        };
        let through = self.through();
        let dropout =
            Dropout { senders: self.config.sender_dropout, positions: self.config.position_dropout };
        let mut all = UpdateGradient {
            loss: 0.0,
            trajectory_loss: 0.0,
            gradients: Parameters::default(),
            message_norms: BTreeMap::new(),
            dropped: [0; 2],
        };
        let mut rows = 0u64;
        for batch in batches {
            let batch = match self.phase.trajectory_weight {
                0.0 => &batch.clone().without_experts(),
                _ => batch,
            };
            let mut plan =
                TeamPlan::new(&model.layout.config, batch, |thought| model.channel.inner.layout(thought));
            if dropout != Dropout::default() {
                let streams: Vec<u64> =
                    (rows..).take(batch.rows()).map(|row| (self.step as u64) << 32 | row).collect();
                let hide = |message: &mut _, before: Option<&_>, dropped: &_| {
                    model.channel.inner.hide(message, before, dropped)
                };
                for dropped in plan.drop_messages(dropout, self.config.seed ^ DROPOUT, &streams, hide) {
                    all.dropped[0] += usize::from(dropped.all);
                    all.dropped[1] += dropped.positions;
                }
                rows += batch.rows() as u64;
            }
            let (plan, weights, through) = (&plan, &weights, &through[..]);
            let inner = TeamStages { model, batch, plan, weights, through };
            let outer = TeamStages { model: outer, batch, plan, weights, through };
            let outcome = recompute(&inner, &outer, &self.parameters, &self.leaves, &inner.reached());
            let (last, upstream) = outcome.losses.split_last().expect("the final agent is a stage");
            let trajectory_loss: f64 = upstream.iter().sum();
            all.loss += last + trajectory_loss;
            all.trajectory_loss += trajectory_loss;
            all.gradients.add(outcome.gradients);
            for (stage, cotangents) in outcome.cotangents.into_iter().enumerate() {
                for (j, tensors) in cotangents.map(|c| inner.split(stage, c)).into_iter().flatten() {
                    let name = model.layout.config.agents[j].name.clone();
                    *all.message_norms.entry(name).or_default() += frobenius(&tensors).powi(2);
                }
            }
        }
        all.message_norms.values_mut().for_each(|norm| *norm = norm.sqrt());
        all
    }

    /// Which agents the gradient goes through: those `trace_gradient` reaches, and upstream only where something learns there.
    fn through(&self) -> Vec<bool> {
        let upstream = self.model.layout.config.agents.len() - 1;
        let learns = self.parameters.iter().any(|(name, _)| {
            let only_final = Trainable::of(name) == Trainable::Lora
                && self.model.layout.adapters.scope == AdapterScope::FinalOnly;
            self.phase.trains(name) && !only_final
        });
        (0..upstream)
            .map(|j| learns && self.config.trace_gradient.reaches(j, upstream))
            .chain([true])
            .collect()
    }

    /// One update of the present phase with rate `lr`; skipped where loss or gradient is not finite.
    pub fn update(&mut self, batches: &[TeamBatch], lr: f64) -> StepMetrics {
        let start = Instant::now();
        let UpdateGradient { loss, trajectory_loss, gradients, message_norms, dropped } =
            self.gradients(batches);
        let norm = gradients.norm();
        let finite = loss.is_finite() && norm.is_finite();
        self.step += 1;
        let mut clip_factor = 1.0;
        if finite {
            self.skipped_in_a_row = 0;
            let (clipped, factor) = clip(gradients, norm, self.config.max_grad_norm);
            clip_factor = factor;
            self.parameters = self.optimizer.step(lr, &self.parameters, &clipped);
            self.leaves = self.parameters.leaves(|name| self.phase.trains(name));
        } else {
            self.skipped_in_a_row += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let latent = self.model.layout.config.total_steps();
        let tokens: usize = batches.iter().map(|b| b.tokens() + latent * b.rows()).sum();
        let drops = self.config.sender_dropout > 0.0 || self.config.position_dropout > 0.0;
        StepMetrics {
            step: self.step,
            phase: None,
            loss: loss.is_finite().then_some(loss),
            trajectory_loss: Some(trajectory_loss)
                .filter(|x| self.phase.trajectory_weight > 0.0 && x.is_finite()),
            learning_rate: lr,
            grad_norm: norm.is_finite().then_some(norm),
            clip_factor,
            competence: None,
            dropped_senders: drops.then_some(dropped[0]),
            dropped_positions: drops.then_some(dropped[1]),
            trace_grad_norm: message_norms.into_iter().filter(|(_, n)| n.is_finite()).collect(),
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
        let phases = c.phases(sampler.updates_per_epoch());
        let total: usize = phases.iter().map(|p| p.steps).sum();
        let difficulties = c.check_data(samples)?;
        let grown = c.curriculum_steps.unwrap_or(total.div_ceil(2));
        let data = DataMark::new(samples);
        let mut saved = self.step;
        while self.step < total {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let mut before = 0;
            let current = phases.iter().find(|p| {
                before += p.steps;
                self.step < before
            });
            let phase = current.expect("the phases make up the run").clone();
            let in_phase = self.step + phase.steps - before;
            self.enter(phase);
            let c = &self.config;
            let able = difficulties.as_ref().map(|d| (d, competence(self.step, grown, c.initial_competence)));
            let drawn = match &able {
                Some((difficulties, able)) => sampler.update_within(self.step, difficulties, *able),
                None => sampler.update(self.step),
            };
            let batches = self.batches(samples, &drawn)?;
            let (c, phase) = (&self.config, &self.phase);
            let lr = learning_rate(
                c.lr_scheduler_type,
                phase.learning_rate,
                in_phase,
                c.warmup_steps,
                phase.steps,
            );
            let mut metrics = self.update(&batches, lr);
            metrics.phase = (phases.len() > 1).then(|| self.phase.name.clone());
            metrics.competence = able.map(|(_, able)| able);
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

    /// Goes over to `phase`, if it is not the present one.
    fn enter(&mut self, phase: Phase) {
        if phase != self.phase {
            self.leaves = self.parameters.leaves(|name| phase.trains(name));
            self.phase = phase;
        }
    }

    /// The micro-batches of the samples `drawn`; on the channel `text`, with what upstream agents write now.
    fn batches(&self, samples: &[TokenizedSample], drawn: &[Vec<usize>]) -> Result<Vec<TeamBatch>> {
        let text = self.model.layout.config.channel == ChannelKind::Text && self.phase.channel;
        let writer = self.writing.as_ref().filter(|_| text).map(|w| (w, self.team()));
        drawn
            .iter()
            .map(|rows| {
                let rows: Vec<&TokenizedSample> = rows.iter().map(|&i| &samples[i]).collect();
                let Some((writing, team)) = &writer else { return Ok(TeamBatch::new(&rows)) };
                let own: Vec<TokenizedSample> = rows.into_iter().cloned().collect();
                let streams: Vec<u64> = own.iter().map(|s| s.line as u64).collect();
                let path = Path::new("training data");
                let (own, _) = write_messages(team, writing, path, &own, Author::Experts, &streams)?;
                Ok(TeamBatch::new(&own.iter().collect::<Vec<_>>()))
            })
            .collect()
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
            data: data.clone(),
            skipped_in_a_row: self.skipped_in_a_row,
            settings: self.settings(),
        };
        let keep = self.config.save_total_limit;
        let dir: PathBuf = write_checkpoint(output, |dir| self.write(dir), &self.optimizer, &state, keep)?;
        on_event(Event::Checkpoint(&dir))
    }
}
