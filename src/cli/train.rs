//! `diffmas train`

use std::path::Path;

use clap::Args;
use diffmas::agents::{AdapterSet, Team, TeamModel};
use diffmas::backends::{Job, ModelBackend};
use diffmas::checkpoint::target_modules::projection_names;
use diffmas::checkpoint::{AdapterConfig, TargetModules};
use diffmas::engine::Session;
use diffmas::evaluation::Control;
use diffmas::files::{remove_leftovers, write_atomic};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::training::{ADAPTER, Event, Sampler, StepMetrics, StopReason, TrainConfig, Trainer};
use diffmas::{Error, Result};

use super::options::{Options, TeamArgs, TrainArgs, flags};
use super::output_lock::{OutputLock, RunState};
use super::progress::Progress;
use super::run_log::RunLog;
use super::summary::Summary;
use super::{eval, inspection, interrupt, output, session, verbosity};

/// Most tokens of the answer that is shown in the end.
const ANSWER_TOKENS: usize = 64;

/// Flags of `train`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct TrainCommand {
    #[command(flatten)]
    team: TeamArgs,
    #[command(flatten)]
    train: TrainArgs,
    /// Go on from the newest checkpoint in --output, with the settings of its config.toml
    #[arg(long)]
    resume: bool,
    /// Replace what the output folder holds
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
}

impl TrainCommand {
    /// Trains, or goes on training.
    pub fn execute(self) -> Result<()> {
        let flags = [flags(&self.team)?, flags(&self.train)?];
        let mut file = self.team.config.clone();
        if self.resume && file.is_none() {
            let output = Options::required(&self.train.output, "output")?;
            let config = output.join("config.toml");
            if !config.exists() {
                return Err(Error::file(output, "there is nothing to resume: the folder has no config.toml"));
            }
            file = Some(config);
        }
        let options = Options::read(file.as_deref(), &flags)?;
        let state = if self.resume { RunState::Resume } else { RunState::New { overwrite: self.overwrite } };
        train(options, state, Ending::Told)
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

/// Trains as `options` say.
pub fn train(options: Options, state: RunState, ending: Ending) -> Result<()> {
    let config = options.train_config()?;
    let dir = Options::required(&options.output, "output")?.clone();
    let data = Options::required(&options.data, "data")?.clone();
    let session = session::open(options.engine()?)?;
    let samples = session.data(&data, Answers::Required, 0)?;
    config.check_data(&samples).map_err(|e| Error::file(&data, e))?;
    let eval_data = options.eval_data.as_ref();
    let held_out = eval_data.map(|p| session.data(p, Answers::Required, 0)).transpose()?;
    let backend = session.config.backend()?;
    let resolved = options.clone().resolved(&session.team, &config, backend)?;
    let settings = toml::to_string(&resolved)?;
    let hint = "go on with --resume, or give --overwrite or another --output";
    let lock = match state {
        RunState::New { overwrite } => {
            let lock = OutputLock::new_run(&dir, overwrite, hint)?;
            if overwrite {
                lock.keep_inputs(options.inputs())?;
            }
            lock
        }
        RunState::Resume => OutputLock::resumed(&dir)?,
    };
    let job = Train {
        session: &session,
        options: &options,
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
    options: &'a Options,
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
        let mut log = RunLog::open(self.dir, done, team, self.options)?;
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
                let adapters = AdapterSet::new(scope, &self.fresh_adapter(), team, &backbone.config)?;
                let model = TeamModel::new(team.clone(), adapters, backbone);
                let parameters = model.init(self.config.seed);
                (model, parameters)
            }
        };
        let base = self.session.base(model.layout.adapters.scope)?;
        let trainer = Trainer::new(self.config.clone(), model, parameters)?.with_base(base);
        Ok(trainer.with_writing(self.session.greedy_writing()))
    }

    /// The shape of a fresh adapter.
    fn fresh_adapter(&self) -> AdapterConfig {
        let o = self.options;
        // As in PEFT, which writes what the word stands for.
        let named = o.target_modules.clone().filter(|names| *names != ["all-linear"]);
        let targets = named.unwrap_or_else(|| projection_names().map(String::from).to_vec());
        let mut config = AdapterConfig::new(
            o.lora_r.unwrap_or(8),
            o.lora_alpha.unwrap_or(16.0),
            TargetModules::List(targets),
        );
        config.use_rslora = o.use_rslora.unwrap_or(false);
        config.base_model_name_or_path = Some(self.session.base_name());
        config
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
