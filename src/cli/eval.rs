//! `diffmas eval`

use std::path::{Path, PathBuf};

use diffmas::agents::Team;
use diffmas::backends::{Job, ModelBackend};
use diffmas::engine::{Conditions, EngineConfig, Session, run_of};
use diffmas::evaluation::{
    Checking, Control, Evaluation, Inspection, Paired, SampleScore, ScoredBatch, Scoring, evaluate_after,
};
use diffmas::settings::{Rivals, Section};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::{Error, Result};
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{Config, Flags, needs, required};
use super::flags::EvalFlags;
use super::output_lock::{OutputLock, RunState};
use super::part::{self, Part};
use super::progress::Progress;
use super::{inspection, interrupt, output, session, verbosity};

/// What is scored, on what, and where scores go.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct EvalCommand {
    control: Control,
    all_controls: bool,
    accuracy: bool,
    max_new_tokens: usize,
    seed: u64,
    data: Option<PathBuf>,
    /// The held-out data of a run, where `data` names none.
    eval_data: Option<PathBuf>,
    output: Option<PathBuf>,
    resume: bool,
    overwrite: bool,
}

impl Default for EvalCommand {
    fn default() -> Self {
        Self {
            control: Control::Real,
            all_controls: false,
            accuracy: false,
            max_new_tokens: 64,
            seed: 42,
            data: None,
            eval_data: None,
            output: None,
            resume: false,
            overwrite: false,
        }
    }
}

impl Flags for EvalFlags {
    const COMMAND: &'static str = "eval";
    const RIVALS: Rivals<'static> = &[("all_controls", &["control"]), ("resume", &["overwrite"])];

    fn sections() -> Vec<Section> {
        vec![Section::of::<EngineConfig>(), Section::of::<EvalCommand>()]
    }

    fn config(&self) -> Option<&Path> {
        self.model.config.as_deref()
    }
}

impl EvalCommand {
    /// Scores the data and prints the result.
    pub fn execute(flags: &EvalFlags) -> Result<()> {
        let config = Config::read(flags)?;
        let mut command: Self = config.get()?;
        needs("resume", command.resume, &[("output", command.output.is_some())])?;
        let mut engine = config.engine::<EvalFlags>()?;
        if let Some(dir) = &flags.run {
            engine = engine.of_run(dir)?;
            let run = engine.adapter.as_deref().and_then(run_of);
            command.eval_data = run.and_then(|run| run.eval_data);
        }
        command.score(engine)
    }

    fn score(&self, config: EngineConfig) -> Result<()> {
        let data = self.data.clone().or(self.eval_data.clone());
        let session = session::open(config)?;
        let data = required(&data, "data")?;
        let room = if self.accuracy { self.max_new_tokens } else { 0 };
        let samples = session.data(data, Answers::Required, room)?;
        let controls = self.controls(&session, samples.len());
        for control in &controls {
            control.validate(&session.team, samples.len())?;
        }
        let lock = self.output.as_deref().map(|dir| self.lock(dir)).transpose()?;
        if let Some(lock) = lock.as_ref().filter(|_| self.overwrite) {
            lock.keep_inputs(
                session.config.inputs().chain([data.as_path()]).chain(self.eval_data.as_deref()),
            )?;
        }
        let checking = self.checking(&session, data, &samples)?;
        let kind = session.config.backend()?;
        let inspected = lock.as_ref().map(|_| self.max_new_tokens);
        let job = Score {
            session: &session,
            samples: &samples,
            controls: &controls,
            seed: self.seed,
            checking,
            inspected,
            command: self,
        };
        let (scored, inspection, part) = kind.run(session.config.device_index, job)??;
        let (mut results, scores): (Vec<Evaluation>, Vec<Vec<SampleScore>>) = scored.into_iter().unzip();
        if let Some(real) = controls.iter().position(|control| *control == Control::Real) {
            for (i, result) in results.iter_mut().enumerate().filter(|(i, _)| *i != real) {
                result.against_real = Some(Paired::new(&scores[real], &scores[i]));
            }
        }
        if let (Some(dir), Some(lock)) = (&self.output, &lock) {
            let lines: Vec<ScoredLine> = results
                .iter()
                .zip(scores)
                .flat_map(|(e, scores)| {
                    scores.into_iter().map(|score| ScoredLine {
                        control: e.control.clone(),
                        trace: e.control.clone(),
                        score,
                    })
                })
                .collect();
            output::write_jsonl(&dir.join(SAMPLES), &lines)?;
            let inspected = inspection.is_some();
            inspection.map_or(Ok(()), |inspection| inspection::write(dir, &inspection))?;
            let conditions = session.conditions()?;
            let all: Vec<Measured> =
                results.iter().map(|result| Measured { result, conditions: &conditions }).collect();
            match &all[..] {
                [one] if !self.all_controls => output::write_json(&dir.join("results.json"), one)?,
                all => output::write_json(&dir.join("results.json"), &all)?,
            }
            // What is new stands before what is old goes, and what a stopped run would go on with goes last.
            let new = [SAMPLES, PART, "results.json", "inspection.json"];
            lock.clear_but(&new[..if inspected { 4 } else { 3 }])?;
            part.map_or(Ok(()), Part::remove)?;
        }
        match &results[..] {
            [one] if !self.all_controls => output::print(&describe(one)),
            all => output::print(&table(all)),
        }
    }

    /// Claims the output folder, for a new run or one to go on with.
    fn lock(&self, dir: &Path) -> Result<OutputLock> {
        let stopped = dir.join(PART).exists();
        if self.resume && stopped {
            return OutputLock::resumed(dir);
        }
        let hint = match (self.resume, stopped) {
            (true, _) => "there is nothing in it to resume; give another --output",
            (_, true) => {
                "a stopped run left samples.jsonl.part; go on with --resume, or begin anew with --overwrite"
            }
            _ => "give another --output, or --overwrite",
        };
        OutputLock::new_run(dir, self.overwrite, hint)
    }

    /// What scores depend on beside model, team and data.
    fn settings(&self, controls: &[Control], checking: Option<&Checking>) -> Value {
        let names: Vec<String> = controls.iter().map(Control::to_string).collect();
        json!({
            "controls": names,
            "seed": self.seed,
            "accuracy": checking.map(|checking| format!("{:?}", checking.options)),
        })
    }

    /// The controls that are asked for: all that mean something for the team and so many samples, or one.
    fn controls(&self, session: &Session, samples: usize) -> Vec<Control> {
        if !self.all_controls {
            return vec![self.control.clone()];
        }
        let drops = session.team.upstream().iter().map(|agent| Control::Drop(agent.name.clone()));
        let all = [Control::Real, Control::None, Control::Zero, Control::Shuffled, Control::Random];
        let mean = |c: &Control| c.validate(&session.team, samples).is_ok();
        all.into_iter().chain(drops).filter(mean).collect()
    }

    /// How answers are checked, where that is asked for.
    fn checking(
        &self,
        session: &Session,
        data: &Path,
        samples: &[TokenizedSample],
    ) -> Result<Option<Checking>> {
        let checking = session.checking(self.max_new_tokens);
        let applies = checking.applies(samples);
        if self.accuracy && !applies {
            return Err(Error::file(
                data,
                "--accuracy: no answer of this data can be checked; give lines a short field `gold`",
            ));
        }
        Ok(Some(checking).filter(|_| self.accuracy || (self.all_controls && applies)))
    }
}

/// The scores of every sample.
const SAMPLES: &str = "samples.jsonl";
/// Those of finished batches, while there are more.
const PART: &str = "samples.jsonl.part";

/// One line of `samples.jsonl`.
#[derive(Debug, Serialize)]
struct ScoredLine {
    control: String,
    /// Its name in version 0.1.
    trace: String,
    #[serde(flatten)]
    score: SampleScore,
}

/// A result as `results.json` holds it.
#[derive(Debug, Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    result: &'a Evaluation,
    #[serde(flatten)]
    conditions: &'a Conditions,
}

/// One line of `samples.jsonl.part`.
#[derive(Serialize, Deserialize)]
struct PartLine {
    control: String,
    #[serde(flatten)]
    batch: ScoredBatch,
}

/// A result for people.
fn describe(e: &Evaluation) -> String {
    let accuracy = e
        .accuracy
        .map_or(String::new(), |a| format!(", accuracy {} of {}", a.in_percent(1, " %"), a.checked));
    format!(
        "control {}: loss {:.4}{}, perplexity {:.3}{accuracy} ({} samples, {} target tokens, {} per message)",
        e.control,
        e.loss,
        e.loss_interval.map_or(String::new(), |[low, high]| format!(" [{low:.4}, {high:.4}]")),
        e.perplexity,
        e.samples,
        e.target_tokens,
        HumanBytes(e.message_bytes as u64)
    )
}

/// All controls, one below the other, with 95 % intervals.
fn table(all: &[Evaluation]) -> String {
    let mut lines = vec![format!(
        "{:<16} {:>26} {:>28} {:>26} {:>14}",
        "control", "loss [95 %]", "loss - real, paired [95 %]", "accuracy % [95 %]", "bytes/message"
    )];
    for e in all {
        let interval =
            |i: Option<[f64; 2]>| i.map_or(String::new(), |[low, high]| format!(" [{low:.4}, {high:.4}]"));
        let loss = format!("{:.4}{}", e.loss, interval(e.loss_interval));
        let paired = |p: Paired| format!("{:+.4}{}", p.loss_difference, interval(p.loss_interval));
        let paired = e.against_real.map_or("-".into(), paired);
        let accuracy = e.accuracy.map_or("-".into(), |a| a.in_percent(1, ""));
        lines.push(format!(
            "{:<16} {loss:>26} {paired:>28} {accuracy:>26} {:>14}",
            e.control, e.message_bytes
        ));
    }
    lines.push(format!("{} samples, {} target tokens", all[0].samples, all[0].target_tokens));
    lines.join("\n")
}

struct Score<'a> {
    session: &'a Session,
    samples: &'a [TokenizedSample],
    controls: &'a [Control],
    seed: u64,
    checking: Option<Checking>,
    /// Most tokens of an answer, where the team is looked into.
    inspected: Option<usize>,
    command: &'a EvalCommand,
}

/// Scores by control, what was seen inside the team, and the part that they were kept in.
type Scored = (Vec<(Evaluation, Vec<SampleScore>)>, Option<Inspection>, Option<Part>);

impl Job for Score<'_> {
    type Output = Result<Scored>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let team = self.session.trained_team::<B>(&device)?;
        let (mut part, done) = self.part(&team)?;
        let mut scores = Vec::new();
        for control in self.controls {
            let name = control.to_string();
            let done = done.iter().filter(|line| line.control == name).map(|line| line.batch.clone());
            let keep = |batch: &ScoredBatch| match &mut part {
                Some(part) => part.push(&[PartLine { control: name.clone(), batch: batch.clone() }]),
                None => Ok(()),
            };
            let checking = self.checking.as_ref();
            scores.push(score_after(
                self.session,
                &team,
                self.samples,
                (control, self.seed, checking),
                done.collect(),
                keep,
            )?);
        }
        let inspect = |tokens| inspection::of(self.session, &team, self.samples, tokens);
        Ok((scores, self.inspected.map(inspect).transpose()?.flatten(), part))
    }
}

impl Score<'_> {
    /// Opens what keeps the scores of finished batches, where there is an output folder; beside it, those of a stopped run.
    fn part<B: ModelBackend>(&self, team: &Team<B>) -> Result<(Option<Part>, Vec<PartLine>)> {
        let Some(dir) = &self.command.output else { return Ok((None, Vec::new())) };
        let settings = self.command.settings(self.controls, self.checking.as_ref());
        let run = part::describe(self.session, team, self.samples, settings)?;
        let state = match self.command.resume {
            true => RunState::Resume,
            false => RunState::New { overwrite: true }, // of a folder that was claimed for it
        };
        let (part, done) = Part::open::<PartLine>(&dir.join(SAMPLES), state, &run, [1, usize::MAX])?;
        if self.command.resume {
            let scored: usize = done.iter().map(|line| line.batch.scores.len()).sum();
            let total = self.samples.len() * self.controls.len();
            verbosity::note(format_args!("going on after {scored} of {total} scores"));
        }
        interrupt::set_words(format!(
            "stopped; finished scores are in {}. Go on with the same command and --resume",
            dir.join(PART).display()
        ));
        Ok((Some(part), done))
    }
}

/// Scores with progress.
pub fn score<B: ModelBackend>(
    session: &Session,
    team: &Team<B>,
    samples: &[TokenizedSample],
    control: &Control,
    seed: u64,
) -> Result<Evaluation> {
    score_after(session, team, samples, (control, seed, None), Vec::new(), |_| Ok(())).map(|(all, _)| all)
}

/// The same after batches that are `done`, with `keep` for the others; answers are checked where that is asked for.
fn score_after<B: ModelBackend>(
    session: &Session,
    team: &Team<B>,
    samples: &[TokenizedSample],
    (control, seed, checking): (&Control, u64, Option<&Checking>),
    done: Vec<ScoredBatch>,
    mut keep: impl FnMut(&ScoredBatch) -> Result<()>,
) -> Result<(Evaluation, Vec<SampleScore>)> {
    let mut scored = done.iter().map(|batch| batch.scores.len()).sum();
    let mut progress = Progress::new("scored", scored, samples.len());
    let writing = session.greedy_writing();
    let batch_size = session.config.batch_size();
    let scoring = Scoring { batch_size, control, seed, writing: writing.as_ref(), checking };
    let result = evaluate_after(team, samples, &scoring, done, |batch| {
        scored += batch.scores.len();
        progress.set(scored, "");
        keep(batch)
    })?;
    progress.finish();
    Ok(result)
}
