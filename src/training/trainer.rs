//! A run in progress: what it learns, where it stands, what it writes and takes up again.

use std::path::Path;
use std::sync::Arc;

use diffmas_backends::{Autodiff, ModelBackend};

use super::teacher::TeacherAnswers;
use super::{
    CheckpointState, CrossEntropy, DataMark, Distillation, FrozenTeacher, LastState, Optimizer, Phase,
    Recompute, RunSettings, Teacher, TrainConfig, phases, read_checkpoint,
};
use crate::agents::{AdapterScope, Base, Objective, Team, TeamModel};
use crate::backbone::{AdapterLayout, ParameterGroup, ParameterSpecs, Parameters};
use crate::checkpoint::target_modules::LM_HEAD;
use crate::error::{Error, Result};
use crate::inference::Writing;
use crate::processes::{OneProcess, Processes};
use crate::text::TokenizedSample;

/// A run in progress.
pub struct Trainer<B: ModelBackend> {
    pub(super) config: TrainConfig,
    pub(super) phase: Phase,
    pub(super) writing: Option<Writing>,
    pub(super) model: TeamModel<B>,
    pub(super) outer: TeamModel<Autodiff<B>>,
    /// The same two with the channel off, where a phase has it off.
    pub(super) silent: Option<(TeamModel<B>, TeamModel<Autodiff<B>>)>,
    /// What stands beside the adapters of a checkpoint.
    pub(super) base: Option<Base>,
    /// What everything in `parameters` is.
    pub(super) specs: ParameterSpecs,
    pub(super) parameters: Parameters<B>,
    pub(super) leaves: Parameters<Autodiff<B>>,
    pub(super) objective: Box<dyn Objective<Autodiff<B>>>,
    /// The targets of samples that have none, where there is a teacher.
    pub(super) answers: Option<TeacherAnswers<B>>,
    pub(super) processes: Arc<dyn Processes>,
    /// What keeps the state after each update, where anybody wants it.
    pub(super) last: Option<LastState>,
    pub(super) optimizer: Optimizer<B>,
    pub(super) step: usize,
    pub(super) skipped_in_a_row: usize,
    /// The most that the device's allocator had taken at the end of an update, in bytes.
    pub(super) peak_device_memory: Option<u64>,
    /// Settings that a resumed run changed, a sentence each.
    pub(super) changed: Vec<String>,
}

impl<B: ModelBackend> Trainer<B> {
    /// A run that starts from `parameters`.
    ///
    /// # Errors
    /// If a setting makes no sense, or nothing would learn.
    pub fn new(config: TrainConfig, model: TeamModel<B>, parameters: Parameters<B>) -> Result<Self> {
        config.validate()?;
        config.check_team(&model.layout.config)?;
        let drops_at_head =
            |a: &AdapterLayout| a.config.lora_dropout > 0.0 && a.modules.contains_key(LM_HEAD);
        if model.layout.adapters.adapters.values().any(drops_at_head) {
            return Err(Error::invalid(
                "lora_dropout is not supported where `lm_head` is among target_modules: set it to 0 to train such an adapter",
            ));
        }
        if model.layout.adapters.adapters.values().any(|a| !a.config.modules_to_save.is_empty()) {
            return Err(Error::invalid(
                "the field `modules_to_save` of adapter_config.json is set, but whole modules are not trained here: merge the adapter, and \
                 train on the merged model",
            ));
        }
        if parameters.is_empty() {
            return Err(Error::invalid(
                "there is nothing to train: no adapter, no learned feed, and nothing in the channel",
            ));
        }
        // Lengths do not matter to what a phase may learn.
        let phases = config.phases(1);
        let specs = model.parameter_specs();
        phases::check(&phases, &specs, &parameters)?;
        phases::check_inputs(&phases, &specs, &model.layout.config, config.trace_gradient)?;
        let silent = phases.iter().any(|p| !p.channel).then(|| {
            let silent = model.without_channel();
            let outer = silent.to_autodiff();
            (silent, outer)
        });
        let phase = phases.into_iter().next().expect("a run has a phase");
        let mut objective: Box<dyn Objective<Autodiff<B>>> = Box::new(CrossEntropy);
        let mut answers = None;
        if config.teacher == Teacher::AllEvidence {
            let teacher = FrozenTeacher::new(model.backbone.clone());
            answers = Some(TeacherAnswers::new(teacher.clone(), config.teacher_tokens));
            objective = Box::new(Distillation::new(teacher, config.distill_weight));
        }
        let optimizer = Optimizer::new(&config, &specs, &parameters)?;
        let parameters = optimizer.parameters();
        Ok(Self {
            outer: model.to_autodiff(),
            leaves: phase.leaves(&parameters, &specs),
            phase,
            writing: None,
            silent,
            objective,
            answers,
            processes: Arc::new(OneProcess),
            last: None,
            optimizer,
            config,
            model,
            base: None,
            specs,
            parameters,
            step: 0,
            skipped_in_a_row: 0,
            peak_device_memory: None,
            changed: Vec::new(),
        })
    }

    /// What the run is trained with.
    pub(super) fn settings(&self) -> RunSettings {
        let sha256 = self.base.as_ref().map(|base| base.base_model_sha256.as_str());
        RunSettings::new(&self.config, &self.model.layout.config, &self.model.layout.adapters, sha256)
            .with_precision(self.model.backbone.precision)
    }

    /// How it is trained.
    pub fn config(&self) -> &TrainConfig {
        &self.config
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

    /// The same run with messages of text, which the channel `text` needs: trajectories of the data where there are any, else generated
    /// with the parameters of the moment.
    pub fn with_writing(self, writing: Option<Writing>) -> Self {
        Self { writing: writing.map(Writing::teacher_forced), ..self }
    }

    /// The same run with a teacher, where it has one, whose answers end with one of `stop_tokens`; else they end where the model's
    /// configuration says.
    pub fn with_stop_tokens(self, stop_tokens: Vec<u32>) -> Self {
        Self { answers: self.answers.map(|answers| answers.with_stop_tokens(stop_tokens)), ..self }
    }

    /// The same run with another objective than its settings name.
    pub fn with_objective(self, objective: impl Objective<Autodiff<B>> + 'static) -> Self {
        Self { objective: Box::new(objective), ..self }
    }

    /// The same run in which `recompute` says which passes are run again for their gradient, and whether layer by layer.
    pub fn with_recompute(mut self, recompute: Recompute, activation_checkpointing: bool) -> Self {
        (self.config.recompute, self.config.activation_checkpointing) = (recompute, activation_checkpointing);
        self
    }

    /// The same run as that of several processes, each of which takes micro-batches in its turn.
    pub fn among(self, processes: Arc<dyn Processes>) -> Self {
        Self { processes, ..self }
    }

    /// The same run, which leaves its state after each update in `last`, for as long as it is not in a checkpoint.
    pub fn with_last_state(self, last: Option<LastState>) -> Self {
        Self { last, ..self }
    }

    /// Takes up the newest whole checkpoint below `output`; returns the updates it has done, or none where there is no checkpoint.
    ///
    /// # Errors
    /// If no checkpoint can be read, or it is of other data or settings than those that may change while a run goes on.
    pub fn resume(&mut self, output: &Path, samples: &[TokenizedSample]) -> Result<Option<usize>> {
        let (settings, data) = (self.settings(), DataMark::new(samples));
        let mut changed = Vec::new();
        // Where it may choose what is recomputed, it goes on as it began.
        let chooses = self.config.recompute == Recompute::Auto;
        let accept = |state: &CheckpointState| {
            let mut settings = settings.clone();
            if chooses {
                settings = settings.with_recompute(state.settings.recompute());
            }
            let [refused, applied] = state.settings.changes(&settings);
            changed = applied;
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
        let Some(state) = read else { return Ok(None) };
        self.parameters = self.optimizer.parameters();
        self.leaves = self.phase.leaves(&self.parameters, &self.specs);
        self.changed = changed;
        if chooses {
            self.config.recompute = state.settings.recompute();
        }
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

    /// Which agents the gradient goes through: those `trace_gradient` reaches, and upstream only where something learns there.
    pub(super) fn through(&self) -> Vec<bool> {
        let upstream = self.model.layout.config.agents.len() - 1;
        let learns = self.specs.iter().any(|spec| {
            let only_final = spec.group == ParameterGroup::LORA
                && self.model.layout.adapters.scope == AdapterScope::FinalOnly;
            self.phase.trains(spec) && !only_final
        });
        (0..upstream)
            .map(|j| learns && self.config.trace_gradient.reaches(j, upstream))
            .chain([true])
            .collect()
    }
}
