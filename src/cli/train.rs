//! `diffmas train`

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use diffmas::engine::{
    Engine, EngineConfig, OutputLock, RunState, Session, TrainEvent, TrainRequest, TrainStart,
};
use diffmas::files::{from_root, write_json};
use diffmas::settings::{Layer, Rivals, Section};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::training::{EvalMetrics, LoraConfig, StepMetrics, StopReason, TrainConfig};
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::{Config, Flags, required};
use super::csv_log::Csv;
use super::fields::OWN;
use super::flags::TrainFlags;
use super::progress::Progress;
use super::summary::Summary;
use super::{eval, fetch, interrupt, job, output, session, verbosity};

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
    pub limit: Option<NonZeroUsize>,
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
            limit: None,
            output: None,
            resume: false,
            overwrite: false,
            tensorboard: true,
            csv: false,
        }
    }
}

impl TrainFiles {
    /// The same with paths from the root, as the `config.toml` of a run holds them.
    fn with_paths_from_root(&self) -> Self {
        let [data, eval_data] = [&self.data, &self.eval_data].map(|path| path.as_deref().map(from_root));
        Self { data, eval_data, ..self.clone() }
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
        self.team.model.config.as_deref()
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
        let command = Self::of(&config)?;
        command.check()?;
        let session = session::open(command.engine.clone())?;
        let request = request(&session, &command)?;
        train(&Engine::start(session)?, request, &command.files, Ending::Told)
    }

    /// What the settings say.
    pub fn of(config: &Config) -> Result<Self> {
        let engine = config.engine::<TrainFlags>()?;
        Ok(Self { engine, training: config.get()?, lora: config.get()?, files: config.get()? })
    }

    /// Refuses settings with which there is nothing to do, before anything is read.
    fn check(&self) -> Result<()> {
        self.training.validate()?;
        required(&self.files.output, "output")?;
        required(&self.files.data, "data").map(drop)
    }

    /// The files and folders that are read.
    fn inputs(&self) -> impl Iterator<Item = &Path> {
        let data = [&self.files.data, &self.files.eval_data].into_iter().flatten();
        self.engine.inputs().chain(data.map(PathBuf::as_path))
    }

    /// How the run begins.
    fn state(&self) -> RunState {
        RunState::of(self.files.resume, self.files.overwrite)
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

/// What `command` asks of a team: data is read, and the output folder is locked.
pub fn request(session: &Session, command: &TrainCommand) -> Result<TrainRequest> {
    let TrainCommand { training: config, lora, files, .. } = command;
    let (dir, data) = (required(&files.output, "output")?, required(&files.data, "data")?);
    let source =
        |path: &PathBuf| Ok::<_, Error>(fetch::data(path, session.config.offline)?.limited(files.limit));
    let samples = session.training_data(source(data)?, config)?;
    let held_out = files.eval_data.as_ref().map(|path| session.data(source(path)?, Answers::Required, 0));
    let held_out = held_out.transpose()?;
    let hint = "go on with --resume, or give --overwrite or another --output";
    let lock = match command.state() {
        state if !job::is_first() => OutputLock::of_first_process(dir, state),
        RunState::New { overwrite } => {
            let lock = OutputLock::new_run(dir, overwrite, hint)?;
            if overwrite {
                lock.keep_inputs(command.inputs())?;
            }
            lock
        }
        RunState::Resume => OutputLock::resumed(dir)?,
    };
    Ok(TrainRequest {
        config: config.clone(),
        held_out,
        lora: lora.clone(),
        output: Some(lock),
        settings: Layer::of(&files.with_paths_from_root())?,
        tensorboard: files.tensorboard,
        last_state: (job::is_shared() && job::is_first()).then(interrupt::last_state),
        cancel: interrupt::cancel().clone(),
        ..TrainRequest::new(samples)
    })
}

/// Trains the team of `engine`, with progress.
pub fn train(engine: &Engine, request: TrainRequest, files: &TrainFiles, ending: Ending) -> Result<()> {
    let dir = required(&files.output, "output")?;
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
            if files.csv && job::is_first() {
                shown.csv = Some(Csv::create(dir, &engine.session().team, &start.steps)?);
            }
        }
        shown.event(event)
    })?;
    if trained.reason == StopReason::Interrupted {
        return Err(Error::Interrupted(format!("stopped; a checkpoint was written. {go_on}")));
    }
    if ending == Ending::Silent || !job::is_first() {
        return Ok(());
    }
    let (quoted, run) = (quoted(dir), how_to_run(engine.session(), files, dir));
    let curves = files.tensorboard;
    output::print(&Summary { dir: &quoted, trained: &trained, curves, run }.to_string())?;
    held_out.map_or(Ok(()), |samples| look_inside(engine, dir, &samples))
}

/// The command that runs what was trained: on a question, where the team's prompts read nothing else of a line.
fn how_to_run(session: &Session, files: &TrainFiles, dir: &Path) -> String {
    let asked = |field: &str| OWN.contains(&field.split('.').next().unwrap_or_default());
    let text = session.model.tokenizer.is_some();
    let data = files
        .eval_data
        .as_ref()
        .or(files.data.as_ref())
        .filter(|_| !text || !session.prompt_fields().all(asked));
    let dir = quoted(dir);
    match data {
        Some(data) => format!("diffmas run {dir} --data {} --limit 1 --greedy", quoted(data)),
        None => format!("diffmas run {dir} --question \"…\" --greedy"),
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Says what will be done.
fn begin(engine: &Engine, start: &TrainStart, samples: usize, resumed: bool) {
    start.changed.iter().for_each(verbosity::note);
    let TrainStart { done, total, trainable, recompute, .. } = start;
    if resumed {
        verbosity::note(format_args!("going on after update {done} of {total}"));
    }
    let team = &engine.session().team;
    verbosity::note(format_args!(
        "{} agents, {} latent steps, {samples} samples, {trainable} trainable numbers, {total} updates",
        team.agents.len(),
        team.total_steps(),
    ));
    // Where all modes are one, nothing was chosen.
    recompute.iter().filter(|choice| choice.memory.never > choice.memory.always).for_each(verbosity::note);
}

/// A run as people see it.
#[derive(Default)]
struct Shown {
    done: usize,
    total: usize,
    updates: Option<Progress>,
    scores: Option<Progress>,
    /// The latest score of held-out data.
    held_out: Option<EvalMetrics>,
    /// While updates go on, they are finished before the program ends.
    heard: Option<interrupt::Heard>,
    csv: Option<Csv>,
}

impl Shown {
    fn event(&mut self, event: TrainEvent) -> Result<()> {
        match event {
            TrainEvent::Started(start) => (self.done, self.total) = (start.done, start.total),
            // A score between updates has no progress of its own.
            TrainEvent::Scored { .. } if self.updates.is_some() => {}
            TrainEvent::Scored { done, total } => {
                self.scores.get_or_insert_with(|| Progress::new("scored", 0, total)).set(done, "");
            }
            TrainEvent::HeldOut(metrics) => {
                self.scores.take().iter().for_each(Progress::finish);
                let said = format!("held out after update {}: {}", metrics.step, held_out(&metrics));
                match &self.updates {
                    Some(updates) => updates.line(&said),
                    None if metrics.eval_accuracy.is_some() => verbosity::note(&said),
                    None => {}
                }
                self.held_out = Some(metrics);
            }
            TrainEvent::Updating => {
                self.heard = Some(interrupt::Heard::start());
                self.updates = Some(Progress::new("update", self.done, self.total));
            }
            TrainEvent::Step(metrics) => {
                self.csv.as_ref().map_or(Ok(()), |csv| csv.append(&metrics))?;
                if metrics.skipped {
                    self.line(&format!("update {} skipped: loss or gradient is not finite", metrics.step));
                }
                let mut said = describe(&metrics);
                if let Some(accuracy) = self.held_out.as_ref().and_then(|m| m.eval_accuracy) {
                    said += &format!("  held out {:.1} % right", 100.0 * accuracy);
                }
                self.updates.iter_mut().for_each(|progress| progress.set(metrics.step, &said));
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
    format!("loss {}  grad norm {}", number(m.loss), number(m.grad_norm))
}

/// A score of held-out data in a few words.
fn held_out(m: &EvalMetrics) -> String {
    let right = m.eval_accuracy.map_or(String::new(), |x| format!("  {:.1} % right", 100.0 * x));
    format!("loss {}{right}", number(m.eval_loss))
}

fn number(x: Option<f64>) -> String {
    x.map_or("not finite".into(), |x| format!("{x:.4}"))
}
