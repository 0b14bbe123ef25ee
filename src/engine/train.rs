//! Training: what a run is told to do, what it tells while it goes on, and the folder that it leaves.

use std::path::{Path, PathBuf};

use diffmas_backends::ModelBackend;
use serde_json::json;

use super::loaded::LoadedTeam;
use super::request::Request;
use super::run_log::RunLog;
use super::stream::{EventStream, Tell};
use super::{Cancel, OutputLock, Session};
use crate::agents::AdapterSet;
use crate::error::{Error, Result};
use crate::evaluation::{Control, Scoring, evaluate};
use crate::files::{remove_leftovers, write_atomic};
use crate::settings::{Layer, Merged};
use crate::text::{TokenizedSample, lines};
use crate::training::{
    ADAPTER, EvalMetrics, Event, LastState, LoraConfig, RecomputeChoice, Sampler, StepMetrics, StopReason,
    Teacher, TrainConfig, Trainer,
};

/// A run of training.
#[derive(Debug)]
pub struct TrainRequest {
    /// Settings of the loop.
    pub config: TrainConfig,
    /// Training data: all have a target or, where there is a teacher, a prompt of it ([`Session::training_data`]).
    pub samples: Vec<TokenizedSample>,
    /// Data that is scored before, during and after training.
    pub held_out: Option<Vec<TokenizedSample>>,
    /// The shape of a fresh adapter; a team that has learned something goes on with that.
    pub lora: LoraConfig,
    /// The folder of the run, to be filled or gone on with; without it nothing is written.
    pub output: Option<OutputLock>,
    /// What the run's `config.toml` holds beside the settings of engine, loop and adapter, for instance where its data lies.
    pub settings: Layer,
    /// Whether curves for TensorBoard are written.
    pub tensorboard: bool,
    /// Ends the run after the update in progress, with a checkpoint.
    pub cancel: Cancel,
    /// Gets the state after each update, for who cannot wait for the next.
    pub last_state: Option<LastState>,
}

impl TrainRequest {
    /// Trains on `samples` with default settings, and writes nothing.
    pub fn new(samples: Vec<TokenizedSample>) -> Self {
        Self {
            config: TrainConfig::default(),
            samples,
            held_out: None,
            lora: LoraConfig::default(),
            output: None,
            settings: Layer::default(),
            tensorboard: true,
            cancel: Cancel::new(),
            last_state: None,
        }
    }

    /// Refuses settings and data with which there is nothing to do.
    pub(super) fn check(&self) -> Result<()> {
        self.config.validate()?;
        self.config.check_data(&self.samples)?;
        let taught = self.config.teacher != Teacher::None;
        for s in &self.samples {
            let wrong = |what: &str| Err(Error::invalid(format!("line {}: {what}", s.line)));
            if taught && s.teacher.as_ref().is_none_or(Vec::is_empty) {
                return wrong(
                    "there is no prompt for the teacher; read the data with Session::training_data",
                );
            }
            if s.target.as_ref().map_or(!taught, Vec::is_empty) {
                return wrong("there is no answer to learn");
            }
        }
        match self.samples.is_empty() {
            true => Err(Error::invalid("there is no training sample")),
            false => Ok(()),
        }
    }
}

/// What is told while a team is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainEvent {
    /// The folder is ready, and it is known what will be done.
    Started(TrainStart),
    /// So many of the held-out samples are scored.
    Scored {
        /// Samples that are scored.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// Held-out data was scored.
    HeldOut(EvalMetrics),
    /// Updates begin: from here on to [`TrainEvent::Updated`], a cancellation leaves a checkpoint.
    Updating,
    /// An update is done (or was skipped).
    Step(StepMetrics),
    /// A checkpoint was written.
    Checkpoint(PathBuf),
    /// No update follows any more.
    Updated(StopReason),
}

/// A run that begins or goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainStart {
    /// Updates done in earlier sessions.
    pub done: usize,
    /// Updates of the whole run.
    pub total: usize,
    /// Numbers that learn.
    pub trainable: usize,
    /// Settings that a resumed run changed, a sentence each.
    pub changed: Vec<String>,
    /// What was chosen to be recomputed, where the run has just chosen.
    pub recompute: Option<RecomputeChoice>,
    /// What earlier sessions reported.
    pub steps: Vec<StepMetrics>,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Why it ended.
    pub reason: StopReason,
    /// Every update of the run, those of earlier sessions included.
    pub steps: Vec<StepMetrics>,
    /// Every score of the held-out data.
    pub scores: Vec<EvalMetrics>,
}

/// The events of a run of training. From then on, the engine answers with what was learned.
pub type TrainStream = EventStream<TrainEvent, Trained>;

impl Request for TrainRequest {
    type Event = TrainEvent;
    type Output = Trained;

    fn serve<B: ModelBackend>(
        self,
        team: &mut LoadedTeam<B>,
        tell: &Tell<TrainEvent, Trained>,
    ) -> Result<Trained> {
        let mut trainer = self.trainer(team)?;
        let (done, recompute) = self.begin(&team.session, &mut trainer)?;
        let processes = team.session.processes.clone();
        let dir = self.output.as_ref().map(OutputLock::dir).filter(|_| processes.is_first());
        let mut log = RunLog::open(dir, done, self.tensorboard)?;
        let c = &self.config;
        let lines = lines(&self.samples).len();
        let sampler = Sampler::new(lines, c.batch_size, c.gradient_accumulation_steps, c.seed);
        let total = c.total_steps(sampler.updates_per_epoch());
        tell.event(TrainEvent::Started(TrainStart {
            done,
            total,
            trainable: trainer.parameters().num_elements(),
            changed: trainer.changed().to_vec(),
            recompute,
            steps: log.steps().to_vec(),
        }));
        if self.is_scored_after(done) {
            self.score(&team.session, &trainer, &mut log, done, tell)?;
        }
        tell.event(TrainEvent::Updating);
        let reason = trainer.train(
            &self.samples,
            dir,
            || tell.is_cancelled(),
            |trainer, event| {
                match event {
                    Event::Step { metrics, .. } => {
                        log.step(metrics)?;
                        tell.event(TrainEvent::Step(metrics.clone()));
                        if metrics.step < total && self.is_scored_after(metrics.step) {
                            match self.score(&team.session, trainer, &mut log, metrics.step, tell) {
                                // Nothing is lost: the run ends with a checkpoint, from which it goes on with this score.
                                Err(Error::Interrupted(_)) if tell.is_cancelled() => {}
                                scored => scored?,
                            }
                        }
                    }
                    Event::Checkpoint(dir) => tell.event(TrainEvent::Checkpoint(dir.to_path_buf())),
                }
                Ok(())
            },
        )?;
        tell.event(TrainEvent::Updated(reason));
        if reason == StopReason::Finished {
            dir.map_or(Ok(()), |dir| trainer.write(&dir.join(ADAPTER)))?;
            self.score(&team.session, &trainer, &mut log, total, tell)?;
        }
        team.learn(trainer.model().clone(), trainer.parameters().clone());
        let (steps, scores) = log.into_lines();
        Ok(Trained { reason, steps, scores })
    }
}

impl TrainRequest {
    /// The run at its beginning: from what the team has learned, else from a fresh adapter.
    fn trainer<B: ModelBackend>(&self, team: &LoadedTeam<B>) -> Result<Trainer<B>> {
        let session = &team.session;
        let (mut model, mut parameters) = (team.model.clone(), team.parameters.clone());
        if !team.has_learned() {
            let scope = session.config.adapter_scope.unwrap_or_default();
            let shape = self.lora.adapter(session.base_name());
            model =
                model.with_adapters(AdapterSet::new(scope, &shape, &session.team, &session.model.config)?);
            parameters = model.init(self.config.seed);
        }
        let base = session.base(model.layout.adapters.scope)?;
        let trainer = Trainer::new(self.config.clone(), model, parameters)?;
        let trainer = trainer.with_base(base).with_stop_tokens(session.stop_tokens());
        let trainer = trainer.among(session.processes.clone()).with_last_state(self.last_state.clone());
        Ok(trainer.with_writing(session.greedy_writing()))
    }

    /// Makes the folder that of this run, and takes up the run that lies in it; returns the updates that it has done,
    /// and what it has chosen to recompute.
    fn begin<B: ModelBackend>(
        &self,
        session: &Session,
        trainer: &mut Trainer<B>,
    ) -> Result<(usize, Option<RecomputeChoice>)> {
        let mut done = 0;
        let processes = &*session.processes;
        let written = self.output.as_ref().filter(|_| processes.is_first());
        processes.meet()?;
        match written {
            Some(output) if output.is_resumed() => remove_leftovers(output.dir())?,
            // A folder that is emptied for it gets its settings.
            Some(output) => output.clear()?,
            None => {}
        }
        processes.meet()?;
        if let Some(output) = self.output.as_ref().filter(|output| output.is_resumed()) {
            done = trainer.resume(output.dir(), &self.samples)?.unwrap_or(0);
        }
        let (kind, index) = (session.config.backend()?, session.config.device);
        let taken = B::device_memory(&trainer.model().backbone.device());
        // One memory is that of all processes on the machine.
        let shares = if kind.is_cpu() { processes.on_machine().1 as u64 } else { 1 };
        let free = processes.of_first(kind.free_memory(index, taken))?.map(|bytes| bytes / shares);
        let recompute = trainer.choose_recompute(&self.samples, || free);
        if let Some(output) = written {
            let settings = self.resolved(session, output.dir(), trainer.config())?;
            write_atomic(&output.dir().join("config.toml"), settings.as_bytes())?;
        }
        Ok((done, recompute))
    }

    /// The `config.toml` of the run: every setting with its value, the team inside.
    fn resolved(&self, session: &Session, output: &Path, config: &TrainConfig) -> Result<String> {
        let engine = session.config.resolved(&session.team)?;
        let mut layers = vec![
            Layer::of(&engine)?,
            Layer::of(&json!({"output": output}))?,
            self.settings.clone(),
            Layer::of(config)?,
        ];
        if engine.adapter.is_none() {
            layers.push(Layer::of(&self.lora)?);
        }
        Merged::new(layers, &[])?.to_toml()
    }

    /// Whether held-out data is scored after update `step`, which is not the last.
    fn is_scored_after(&self, step: usize) -> bool {
        step == 0 || self.config.eval_steps.is_some_and(|every| step.is_multiple_of(every))
    }

    /// Scores the held-out data, where there is any and it has not been scored after this update in an earlier session.
    fn score<B: ModelBackend>(
        &self,
        session: &Session,
        trainer: &Trainer<B>,
        log: &mut RunLog,
        step: usize,
        tell: &Tell<TrainEvent, Trained>,
    ) -> Result<()> {
        let Some(samples) = &self.held_out else { return Ok(()) };
        let processes = &*session.processes;
        if processes.of_first(log.has_score(step))? {
            return Ok(());
        }
        let writing = session.greedy_writing();
        let longest = samples.iter().filter_map(|s| s.target.as_ref()).map(Vec::len).max().unwrap_or(0);
        let checking = self.config.eval_accuracy.then(|| session.checking(longest));
        let scoring = Scoring {
            batch_size: session.config.batch_size(),
            control: &Control::Real,
            seed: self.config.seed,
            writing: writing.as_ref(),
            checking: checking.as_ref(),
            processes,
        };
        let mut done = 0;
        let evaluation = evaluate(&trainer.team(), samples, &scoring, |batch| {
            done += batch.len();
            tell.event(TrainEvent::Scored { done, total: samples.len() });
            tell.check()
        })?;
        let metrics = EvalMetrics {
            step,
            eval_loss: Some(evaluation.loss).filter(|loss| loss.is_finite()),
            eval_accuracy: evaluation.accuracy.map(|a| a.accuracy),
        };
        log.score(&metrics)?;
        tell.event(TrainEvent::HeldOut(metrics));
        Ok(())
    }
}
