//! `diffmas train`

use std::path::Path;

use clap::Args;
use diffmas::checkpoint::target_modules::projection_names;
use diffmas::checkpoint::{AdapterConfig, TargetModules};
use diffmas::engine::{
    Engine, OutputLock, RunState, Session, TrainEvent, TrainRequest, TrainStart, write_json,
};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::training::{StepMetrics, StopReason};
use diffmas::{Error, Result};

use super::csv_log::Csv;
use super::options::{Options, TeamArgs, TrainArgs, flags};
use super::progress::Progress;
use super::summary::Summary;
use super::{eval, interrupt, output, session, verbosity};

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
        let session = session::open(options.engine()?)?;
        let request = request(&session, &options, state)?;
        train(&Engine::start(session)?, request, &options, Ending::Told)
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

/// What `options` ask of a team: settings and data are read, and the output folder is locked.
pub fn request(session: &Session, options: &Options, state: RunState) -> Result<TrainRequest> {
    let config = options.train_config()?;
    let dir = Options::required(&options.output, "output")?;
    let data = Options::required(&options.data, "data")?;
    let samples = session.data(data, Answers::Required, 0)?;
    config.check_data(&samples).map_err(|e| Error::file(data, e))?;
    let held_out = options.eval_data.as_ref().map(|p| session.data(p, Answers::Required, 0)).transpose()?;
    let resolved = options.clone().resolved(&session.team, &config, session.config.backend()?)?;
    let settings = toml::to_string(&resolved)?;
    let hint = "go on with --resume, or give --overwrite or another --output";
    let lock = match state {
        RunState::New { overwrite } => {
            let lock = OutputLock::new_run(dir, overwrite, hint)?;
            if overwrite {
                lock.keep_inputs(options.inputs())?;
            }
            lock
        }
        RunState::Resume => OutputLock::resumed(dir)?,
    };
    Ok(TrainRequest {
        config,
        held_out,
        adapter: fresh_adapter(options),
        output: Some(lock),
        settings: Some(settings),
        tensorboard: options.tensorboard.unwrap_or(true),
        cancel: interrupt::cancel().clone(),
        ..TrainRequest::new(samples)
    })
}

/// The shape of a fresh adapter.
fn fresh_adapter(o: &Options) -> AdapterConfig {
    // As in PEFT, which writes what the word stands for.
    let named = o.target_modules.clone().filter(|names| *names != ["all-linear"]);
    let targets = named.unwrap_or_else(|| projection_names().map(String::from).to_vec());
    let mut config =
        AdapterConfig::new(o.lora_r.unwrap_or(8), o.lora_alpha.unwrap_or(16.0), TargetModules::List(targets));
    config.use_rslora = o.use_rslora.unwrap_or(false);
    config
}

/// Trains the team of `engine`, with progress.
pub fn train(engine: &Engine, request: TrainRequest, options: &Options, ending: Ending) -> Result<()> {
    let dir = Options::required(&options.output, "output")?;
    let go_on = format!("Go on with: diffmas train --resume --output {}", dir.display());
    let resumed = request.output.as_ref().is_some_and(OutputLock::is_resumed);
    let (samples, held_out) = (request.samples.len(), request.held_out.clone());
    let mut shown = Shown::default();
    let trained = engine.train(request)?.for_each_event(|event| {
        if let TrainEvent::Started(start) = &event {
            begin(engine, start, samples, resumed);
            if ending == Ending::Told {
                interrupt::set_words(format!("stopped; what was trained is kept. {go_on}"));
            }
            if options.csv.unwrap_or(false) {
                shown.csv = Some(Csv::create(dir, &engine.session().team, &start.steps)?);
            }
        }
        shown.event(event)
    })?;
    if trained.reason == StopReason::Interrupted {
        return Err(Error::Interrupted(format!("stopped; a checkpoint was written. {go_on}")));
    }
    if ending == Ending::Silent {
        return Ok(());
    }
    let text = engine.session().model.tokenizer.is_some();
    let curves = options.tensorboard.unwrap_or(true);
    output::print(&Summary { dir, trained: &trained, curves, text }.to_string())?;
    held_out.map_or(Ok(()), |samples| look_inside(engine, dir, &samples))
}

/// Says what will be done.
fn begin(engine: &Engine, start: &TrainStart, samples: usize, resumed: bool) {
    start.changed.iter().for_each(verbosity::note);
    let TrainStart { done, total, trainable, .. } = start;
    if resumed {
        verbosity::note(format_args!("going on after update {done} of {total}"));
    }
    let team = &engine.session().team;
    verbosity::note(format_args!(
        "{} agents, {} latent steps, {samples} samples, {trainable} trainable numbers, {total} updates",
        team.agents.len(),
        team.total_steps(),
    ));
}

/// A run as people see it.
#[derive(Default)]
struct Shown {
    done: usize,
    total: usize,
    updates: Option<Progress>,
    scores: Option<Progress>,
    /// While updates go on, they are finished before the program ends.
    heard: Option<interrupt::Heard>,
    csv: Option<Csv>,
}

impl Shown {
    fn event(&mut self, event: TrainEvent) -> Result<()> {
        match event {
            TrainEvent::Started(start) => (self.done, self.total) = (start.done, start.total),
            TrainEvent::Scored { done, total } => {
                self.scores.get_or_insert_with(|| Progress::new("scored", 0, total)).set(done, "");
            }
            TrainEvent::EvalLoss(_) => self.scores.take().iter().for_each(Progress::finish),
            TrainEvent::Updating => {
                self.heard = Some(interrupt::Heard::start());
                self.updates = Some(Progress::new("update", self.done, self.total));
            }
            TrainEvent::Step(metrics) => {
                self.csv.as_ref().map_or(Ok(()), |csv| csv.append(&metrics))?;
                if metrics.skipped {
                    self.line(&format!("update {} skipped: loss or gradient is not finite", metrics.step));
                }
                self.updates.iter_mut().for_each(|progress| progress.set(metrics.step, &describe(&metrics)));
            }
            TrainEvent::Checkpoint(dir) => self.line(&format!("checkpoint in {}", dir.display())),
            TrainEvent::Updated(reason) => {
                self.updates.take().iter().for_each(Progress::finish);
                let heard = self.heard.take().filter(|_| reason == StopReason::Finished);
                heard.map_or(Ok(()), interrupt::Heard::finish)?;
            }
        }
        Ok(())
    }

    fn line(&self, text: &str) {
        self.updates.iter().for_each(|progress| progress.line(text));
    }
}

/// Looks into the trained team on held-out lines, where there is text to show, and shows how it answers the first.
fn look_inside(engine: &Engine, dir: &Path, samples: &[TokenizedSample]) -> Result<()> {
    let Some(inspection) = engine.inspect(samples, ANSWER_TOKENS)? else { return Ok(()) };
    write_json(&dir.join(eval::INSPECTION), &inspection)?;
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

/// A step in a few words.
fn describe(m: &StepMetrics) -> String {
    let number = |x: Option<f64>| x.map_or("not finite".into(), |x| format!("{x:.4}"));
    format!("loss {}  grad norm {}", number(m.loss), number(m.grad_norm))
}
