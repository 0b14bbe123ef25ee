//! `diffmas train`

use std::path::{Path, PathBuf};

use diffmas::agents::{AdapterSet, Team, TeamConfig, TeamModel};
use diffmas::backends::{Job, ModelBackend};
use diffmas::engine::{EngineConfig, Session};
use diffmas::evaluation::Control;
use diffmas::files::{remove_leftovers, write_atomic};
use diffmas::settings::{Layer, Merged, Rivals, Section};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::training::{ADAPTER, Event, LoraConfig, Sampler, StepMetrics, StopReason, TrainConfig, Trainer};
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::{Config, Flags, required};
use super::flags::TrainFlags;
use super::output_lock::{OutputLock, RunState};
use super::progress::Progress;
use super::run_log::RunLog;
use super::summary::Summary;
use super::{eval, inspection, interrupt, output, session, verbosity};

/// Most tokens of the answer that is shown in the end.
const ANSWER_TOKENS: usize = 64;

/// What a training run is told.
#[derive(Clone, Debug, Default)]
pub struct TrainCommand {
    /// Team, model and device.
    pub engine: EngineConfig,
    /// The loop.
    pub training: TrainConfig,
    /// The adapter that learns, where the engine has none to go on with.
    pub lora: LoraConfig,
    /// Data and output.
    pub files: TrainFiles,
}

/// What is learned from, and what is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainFiles {
    pub data: Option<PathBuf>,
    pub eval_data: Option<PathBuf>,
    pub output: Option<PathBuf>,
    #[serde(skip_serializing)]
    pub resume: bool,
    #[serde(skip_serializing)]
    pub overwrite: bool,
    pub tensorboard: bool,
    pub csv: bool,
}

impl Default for TrainFiles {
    fn default() -> Self {
        Self {
            data: None,
            eval_data: None,
            output: None,
            resume: false,
            overwrite: false,
            tensorboard: true,
            csv: false,
        }
    }
}

impl Flags for TrainFlags {
    const COMMAND: &'static str = "train";
    const RIVALS: Rivals<'static> = &[("resume", &["overwrite"])];

    fn sections() -> Vec<Section> {
        vec![
            Section::of::<EngineConfig>(),
            Section::of::<TrainConfig>(),
            Section::of::<LoraConfig>(),
            Section::of::<TrainFiles>(),
        ]
    }

    fn config(&self) -> Option<&Path> {
        self.model.config.as_deref()
    }
}

impl TrainCommand {
    /// Trains, or goes on training.
    pub fn execute(flags: &TrainFlags) -> Result<()> {
        let mut file = flags.config().map(Path::to_path_buf);
        if flags.data.resume == Some(true) && file.is_none() {
            let output = required(&flags.data.output, "output")?;
            let config = output.join("config.toml");
            if !config.exists() {
                return Err(Error::file(output, "there is nothing to resume: the folder has no config.toml"));
            }
            file = Some(config);
        }
        let config = Config::of_file(file.as_deref(), flags)?;
        let command = Self {
            engine: config.engine::<TrainFlags>()?,
            training: config.get()?,
            lora: config.get()?,
            files: config.get()?,
        };
        train(command, Ending::Told)
    }

    /// The `config.toml` of the run: every setting with its value, the team inside.
    fn resolved(&self, team: &TeamConfig) -> Result<String> {
        let mut files = self.files.clone();
        for path in [&mut files.data, &mut files.eval_data].into_iter().flatten().filter(|path| path.exists())
        {
            *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
        }
        let mut layers =
            vec![Layer::of(&self.engine.resolved(team)?)?, Layer::of(&files)?, Layer::of(&self.training)?];
        if self.engine.adapter.is_none() {
            layers.push(Layer::of(&self.lora)?);
        }
        Merged::new(layers, &[])?.to_toml()
    }

    /// The files and folders that are read.
    fn inputs(&self) -> impl Iterator<Item = &Path> {
        let data = [&self.files.data, &self.files.eval_data].into_iter().flatten();
        self.engine.inputs().chain(data.map(PathBuf::as_path))
    }

    /// How the run begins.
    fn state(&self) -> RunState {
        match self.files.resume {
            true => RunState::Resume,
            false => RunState::New { overwrite: self.files.overwrite },
        }
    }
}

/// What is printed of a finished run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What it gained and cost, and an answer.
    Told,
    /// Nothing: the caller tells.
    Silent,
}

/// Trains as `command` says.
pub fn train(command: TrainCommand, ending: Ending) -> Result<()> {
    let (config, state) = (command.training.clone(), command.state());
    config.validate()?;
    let dir = required(&command.files.output, "output")?.clone();
    let data = required(&command.files.data, "data")?.clone();
    let session = session::open(command.engine.clone())?;
    let samples = session.data(&data, Answers::Required, 0)?;
    config.check_data(&samples).map_err(|e| Error::file(&data, e))?;
    let eval_data = command.files.eval_data.as_ref();
    let held_out = eval_data.map(|p| session.data(p, Answers::Required, 0)).transpose()?;
    let backend = session.config.backend()?;
    let settings = command.resolved(&session.team)?;
    let hint = "go on with --resume, or give --overwrite or another --output";
    let lock = match state {
        RunState::New { overwrite } => {
            let lock = OutputLock::new_run(&dir, overwrite, hint)?;
            if overwrite {
                lock.keep_inputs(command.inputs())?;
            }
            lock
        }
        RunState::Resume => OutputLock::resumed(&dir)?,
    };
    let job = Train {
        session: &session,
        command: &command,
        config,
        samples,
        held_out,
        dir: &dir,
        lock: &lock,
        settings,
        state,
        ending,
    };
    backend.run(session.config.device_index, job)?
}

struct Train<'a> {
    session: &'a Session,
    command: &'a TrainCommand,
    config: TrainConfig,
    samples: Vec<TokenizedSample>,
    held_out: Option<Vec<TokenizedSample>>,
    dir: &'a Path,
    lock: &'a OutputLock,
    /// The run's `config.toml`.
    settings: String,
    state: RunState,
    ending: Ending,
}

impl Job for Train<'_> {
    type Output = Result<()>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Result<()> {
        let c = self.config.clone();
        let sampler = Sampler::new(self.samples.len(), c.batch_size, c.gradient_accumulation_steps, c.seed);
        let total = c.total_steps(sampler.updates_per_epoch());
        let mut trainer = self.setup::<B>(&device)?;
        let mut done = 0;
        match self.state {
            // A folder that is emptied for it gets its settings.
            RunState::New { .. } => {
                self.lock.clear()?;
                write_atomic(&self.dir.join("config.toml"), self.settings.as_bytes())?;
            }
            RunState::Resume => {
                remove_leftovers(self.dir)?;
                done = trainer.resume(self.dir, &self.samples)?.unwrap_or(0);
                for change in trainer.changed() {
                    verbosity::note(format_args!("{change}"));
                }
                write_atomic(&self.dir.join("config.toml"), self.settings.as_bytes())?;
                verbosity::note(format_args!("going on after update {done} of {total}"));
            }
        }
        let team = &self.session.team;
        verbosity::note(format_args!(
            "{} agents, {} latent steps, {} samples, {} trainable numbers, {total} updates",
            team.agents.len(),
            team.total_steps(),
            self.samples.len(),
            trainer.parameters().num_elements()
        ));
        let go_on = format!("Go on with: diffmas train --resume --output {}", self.dir.display());
        if self.ending == Ending::Told {
            interrupt::set_words(format!("stopped; what was trained is kept. {go_on}"));
        }
        let mut log = RunLog::open(self.dir, done, team, &self.command.files)?;
        if done == 0 {
            self.score(&trainer, &mut log, 0)?;
        }
        let reason = self.train_with_progress(&mut trainer, &mut log, done, total)?;
        if reason == StopReason::Interrupted {
            return Err(Error::Interrupted(format!("stopped; a checkpoint was written. {go_on}")));
        }
        trainer.write(&self.dir.join(ADAPTER))?;
        self.score(&trainer, &mut log, total)?;
        if self.ending == Ending::Silent {
            return Ok(());
        }
        let text = self.session.model.tokenizer.is_some();
        output::print(&Summary { dir: self.dir, log: &log, text }.to_string())?;
        self.look_inside(&trainer.team())
    }
}

impl Train<'_> {
    fn setup<B: ModelBackend>(&self, device: &B::Device) -> Result<Trainer<B>> {
        let (model, parameters) = match &self.session.config.adapter {
            Some(_) => self.session.team_model::<B>(device)?,
            None => {
                let backbone = self.session.backbone(device)?;
                let scope = self.session.config.adapter_scope.unwrap_or_default();
                let team = &self.session.team;
                let adapters = AdapterSet::new(
                    scope,
                    &self.command.lora.adapter(self.session.base_name()),
                    team,
                    &backbone.config,
                )?;
                let model = TeamModel::new(team.clone(), adapters, backbone);
                let parameters = model.init(self.config.seed);
                (model, parameters)
            }
        };
        let base = self.session.base(model.layout.adapters.scope)?;
        let trainer = Trainer::new(self.config.clone(), model, parameters)?.with_base(base);
        Ok(trainer.with_writing(self.session.greedy_writing()))
    }

    /// Looks into the trained team on held-out lines, where there is text to show, and shows how it answers the first.
    fn look_inside<B: ModelBackend>(&self, team: &Team<B>) -> Result<()> {
        let Some(samples) = &self.held_out else { return Ok(()) };
        let Some(inspection) = inspection::of(self.session, team, samples, ANSWER_TOKENS)? else {
            return Ok(());
        };
        inspection::write(self.dir, &inspection)?;
        let example = &inspection.example;
        output::print(&format!(
            "\nheld-out line {}, as {} reads it:\n{}\nexpected: {}\nanswered: {}",
            example.line,
            inspection.agents.last().map_or("", String::as_str),
            example.prompts.last().map_or("", String::as_str),
            example.expected.as_deref().unwrap_or_default(),
            example.answered.trim()
        ))
    }

    /// Scores the held-out data, where there is any and it has not been scored after this update in an earlier session.
    fn score<B: ModelBackend>(&self, trainer: &Trainer<B>, log: &mut RunLog, step: usize) -> Result<()> {
        let Some(samples) = self.held_out.as_ref().filter(|_| !log.has_eval_loss(step)) else {
            return Ok(());
        };
        let e = eval::score(self.session, &trainer.team(), samples, &Control::Real, self.config.seed)?;
        log.eval_loss(step, e.loss)
    }

    fn train_with_progress<B: ModelBackend>(
        &self,
        trainer: &mut Trainer<B>,
        log: &mut RunLog,
        done: usize,
        total: usize,
    ) -> Result<StopReason> {
        let mut progress = Progress::new("update", done, total);
        let heard = interrupt::Heard::start();
        let reason = trainer.train(&self.samples, Some(self.dir), interrupt::stop(), |event| {
            match event {
                Event::Step { metrics, .. } => {
                    log.step(metrics)?;
                    if metrics.skipped {
                        progress.line(&format!(
                            "update {} skipped: loss or gradient is not finite",
                            metrics.step
                        ));
                    }
                    progress.set(metrics.step, &describe(metrics));
                }
                Event::Checkpoint(dir) => progress.line(&format!("checkpoint in {}", dir.display())),
            }
            Ok(())
        });
        progress.finish();
        match reason? {
            StopReason::Finished => heard.finish().map(|()| StopReason::Finished),
            StopReason::Interrupted => Ok(StopReason::Interrupted),
        }
    }
}

/// A step in a few words.
fn describe(m: &StepMetrics) -> String {
    let number = |x: Option<f64>| x.map_or("not finite".into(), |x| format!("{x:.4}"));
    format!("loss {}  grad norm {}", number(m.loss), number(m.grad_norm))
}
