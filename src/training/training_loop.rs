//! The loop: draws samples, enters phases, updates, writes checkpoints; can be stopped after every update.

use std::ops::Range;
use std::path::{Path, PathBuf};

use diffmas_backends::{ModelBackend, check_device, free_host_memory};

use super::{CheckpointState, DataMark, Phase, Sampler, StepMetrics, Trainer, competence, write_checkpoint};
use crate::agents::TeamBatch;
use crate::error::{Error, Result};
use crate::text::{TokenizedSample, lines};

/// What the loop reports while it runs.
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

impl<B: ModelBackend> Trainer<B> {
    /// Trains on `samples` from where the run stands to its end, or until `stop` says so: then the update in progress is finished first.
    ///
    /// Checkpoints go below `output` every `save_steps` updates, at the end and on a stop. `on_event` sees the run as it stands.
    ///
    /// # Errors
    /// If a checkpoint cannot be written, the device has failed, another process of the run cannot be reached, or too many updates in a row were not finite.
    pub fn train(
        &mut self,
        samples: &[TokenizedSample],
        output: Option<&Path>,
        stop: impl Fn() -> bool,
        mut on_event: impl FnMut(&Self, Event<'_>) -> Result<()>,
    ) -> Result<StopReason> {
        if samples.is_empty() {
            return Err(Error::invalid("there is no training sample"));
        }
        let device = self.model.backbone.device();
        self.choose_recompute(samples, || match B::device_memory(&device) {
            Some(_) => None,
            None => free_host_memory(),
        });
        let c = &self.config;
        let lines = lines(samples);
        let sampler = Sampler::new(lines.len(), c.batch_size, c.gradient_accumulation_steps, c.seed);
        let (shares, processes) = (sampler.micro_batches_per_update(), self.processes.count());
        if shares < processes && self.processes.is_first() {
            tracing::warn!(
                "an update has {shares} micro-batch{} for {processes} processes: the others wait; \
                 raise gradient_accumulation_steps, or lower batch_size",
                if shares == 1 { "" } else { "es" }
            );
        }
        let phases = c.phases(sampler.updates_per_epoch());
        let total: usize = phases.iter().map(|p| p.steps).sum();
        let difficulties = c.check_data(samples)?;
        let grown = c.curriculum_steps.unwrap_or(total.div_ceil(2));
        let data = DataMark::new(samples);
        let mut saved = self.step;
        while self.step < total {
            if self.processes.any(stop())? {
                break;
            }
            let (phase, in_phase) = phase_of(self.step, &phases);
            self.enter(phase.clone());
            let c = &self.config;
            let able = difficulties.as_ref().map(|d| (d, competence(self.step, grown, c.initial_competence)));
            let drawn = match &able {
                Some((difficulties, able)) => sampler.update_within(self.step, difficulties, *able),
                None => sampler.update(self.step),
            };
            let batches = self.batches(samples, &lines, &drawn)?;
            let lr = self.config.schedule().rate(phase.learning_rate, in_phase, phase.steps);
            let mut metrics = self.update(&batches, lr)?;
            metrics.phase = (phases.len() > 1).then(|| phase.name.clone());
            metrics.competence = able.map(|(_, able)| able);
            self.keep(output, &data);
            on_event(self, Event::Step { metrics: &metrics, total })?;
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
            self.leaves = phase.leaves(&self.parameters, &self.specs);
            self.phase = phase;
        }
    }

    /// Of the micro-batches of the `lines` of `samples` that are `drawn`, those of this process, with questions that are numbered through all of
    /// them; on the channel `text`, with messages of the present parameters; with a teacher, its answers for targets that are missing.
    fn batches(
        &mut self,
        samples: &[TokenizedSample],
        lines: &[Range<usize>],
        drawn: &[Vec<usize>],
    ) -> Result<Vec<TeamBatch>> {
        let writing = self.writing.as_ref().filter(|_| self.phase.channel).map(|w| (w, self.team()));
        let mut number = 0..;
        let numbered: Vec<(Vec<usize>, Vec<u64>)> = drawn
            .iter()
            .map(|drawn| {
                let places: Vec<usize> = drawn.iter().flat_map(|&line| lines[line].clone()).collect();
                let numbers = number.by_ref().take(places.len()).collect();
                (places, numbers)
            })
            .collect();
        self.processes
            .own(numbered)
            .map(|(places, numbers)| {
                if let Some(answers) = &mut self.answers {
                    let own = answers.complete(samples, &places)?;
                    let labelled = places.iter().map(|&i| samples[i].target.is_some()).collect();
                    return Ok(TeamBatch::new(&own.iter().collect::<Vec<_>>())
                        .numbered(numbers)
                        .labelled(labelled));
                }
                let rows: Vec<&TokenizedSample> = places.iter().map(|&i| &samples[i]).collect();
                let Some((writing, team)) = &writing else {
                    return Ok(TeamBatch::new(&rows).numbered(numbers));
                };
                let own: Vec<TokenizedSample> = rows.into_iter().cloned().collect();
                let sample_ids: Vec<u64> = own.iter().map(|s| s.line as u64).collect();
                let (own, _) = writing.write(team, &own, &sample_ids)?;
                Ok(TeamBatch::new(&own.iter().collect::<Vec<_>>()).numbered(numbers))
            })
            .collect()
    }

    fn save(
        &self,
        output: Option<&Path>,
        data: &DataMark,
        on_event: &mut impl FnMut(&Self, Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(output) = output else { return Ok(()) };
        check_device()?;
        let write = || {
            let (optimizer, keep) = (self.optimizer.to_host(), self.config.save_total_limit);
            write_checkpoint(output, |dir| self.write(dir), &optimizer, &self.state(data), keep)
        };
        let written = match &self.last {
            Some(last) => last.while_written(write),
            None => write(),
        };
        let dir: PathBuf = written?;
        on_event(self, Event::Checkpoint(&dir))
    }

    /// Leaves the state as it is now where somebody wants it; tensors that an update would have replaced in place stay for that.
    fn keep(&self, output: Option<&Path>, data: &DataMark) {
        let (Some(last), Some(output)) = (&self.last, output) else { return };
        let (model, parameters, base) = (self.model.clone(), self.parameters.clone(), self.base.clone());
        let (optimizer, state) = (self.optimizer.to_host(), self.state(data));
        let (output, keep) = (output.to_path_buf(), self.config.save_total_limit);
        last.keep(move || {
            let write = |dir: &Path| model.write(dir, &parameters, base.as_ref());
            write_checkpoint(&output, write, &optimizer, &state, keep)
        });
    }

    fn state(&self, data: &DataMark) -> CheckpointState {
        CheckpointState {
            step: self.step,
            data: data.clone(),
            skipped_in_a_row: self.skipped_in_a_row,
            settings: self.settings(),
        }
    }
}

/// The phase of update `step` (from 0), and the update's place in it.
fn phase_of(step: usize, phases: &[Phase]) -> (&Phase, usize) {
    let mut before = 0;
    let current = phases.iter().find(|p| {
        before += p.steps;
        step < before
    });
    let phase = current.expect("the phases make up the run");
    (phase, step + phase.steps - before)
}
