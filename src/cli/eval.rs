//! `diffmas eval`

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use diffmas::engine::{
    Conditions, Engine, EngineConfig, EvaluateEvent, EvaluateRequest, OutputLock, Part, RunState, Scored,
    Session, run_of,
};
use diffmas::evaluation::{
    Asked, Checking, Control, ControlledScore, Evaluation, Gain, Paired, SampleScore, ScoredBatch,
};
use diffmas::files::{write_json, write_jsonl};
use diffmas::settings::{Rivals, Section};
use diffmas::text::{Answers, TokenizedSample, lines};
use diffmas::{Error, Result};
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::{Config, Flags, needs, required};
use super::flags::EvalFlags;
use super::progress::Progress;
use super::{fetch, interrupt, job, output, session, verbosity};

/// What is scored, on what, and where scores go.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct EvalCommand {
    control: Control,
    all_controls: bool,
    accuracy: bool,
    pub max_new_tokens: usize,
    pub seed: u64,
    data: Option<PathBuf>,
    limit: Option<NonZeroUsize>,
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
            limit: None,
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
        self.team.model.config.as_deref()
    }
}

impl EvalCommand {
    /// Scores the data and prints the result.
    pub fn execute(flags: &EvalFlags) -> Result<()> {
        let config = Config::read(flags)?;
        let mut command: Self = config.get()?;
        needs("resume", command.resume, &[("output", command.output.is_some())])?;
        if !job::is_first() {
            // All have the scores, and one keeps them.
            (command.output, command.resume, command.overwrite) = (None, false, false);
        }
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
        let source = fetch::data(data, session.config.offline)?.limited(self.limit);
        let samples = session.data(source, Answers::Required, room)?;
        let controls = self.controls(&session, &samples);
        for control in &controls {
            self.check(control, &session, &samples)?;
        }
        let lock = self.output.as_deref().map(|dir| self.lock(dir)).transpose()?;
        if let Some(lock) = lock.as_ref().filter(|_| self.overwrite) {
            lock.keep_inputs(
                session.config.inputs().chain([data.as_path()]).chain(self.eval_data.as_deref()),
            )?;
        }
        let checking = self.checking(&session, data, &samples)?;
        let engine = Engine::start(session)?;
        let (mut part, done) = self.part(&engine, &samples, &controls, checking.as_ref())?;
        let done = job::processes().of_first(done)?;
        let request = EvaluateRequest {
            samples: samples.clone(),
            controls,
            seed: self.seed,
            checking,
            done,
            ..EvaluateRequest::default()
        };
        let scored = score(&engine, request, |event| match &mut part {
            Some(part) => part.push(&[PartLine { control: event.control.to_string(), batch: event.batch }]),
            None => Ok(()),
        })?;
        if let (Some(dir), Some(lock)) = (&self.output, &lock) {
            let line = |s: &Scored, (score, sample): (&SampleScore, &TokenizedSample)| ControlledScore {
                control: s.evaluation.control.clone(),
                score: score.clone(),
                asked: Asked::of(sample),
            };
            let lines = scored.iter().flat_map(|s| s.scores.iter().zip(&samples).map(|of| line(s, of)));
            let lines: Vec<ControlledScore> = lines.collect();
            let inspection = engine.inspect(&samples, self.max_new_tokens)?;
            write_jsonl(&dir.join(SAMPLES), &lines)?;
            let inspected = inspection.is_some();
            inspection.map_or(Ok(()), |inspection| write_json(&dir.join(INSPECTION), &inspection))?;
            let conditions = engine.session().conditions()?;
            let all: Vec<Measured> =
                scored.iter().map(|s| Measured { result: &s.evaluation, conditions: &conditions }).collect();
            match &all[..] {
                [one] if !self.all_controls => write_json(&dir.join("results.json"), one)?,
                all => write_json(&dir.join("results.json"), &all)?,
            }
            // What is new stands before what is old goes, and what a stopped run would go on with goes last.
            let new = [SAMPLES, PART, "results.json", INSPECTION];
            lock.clear_but(&new[..if inspected { 4 } else { 3 }])?;
            part.map_or(Ok(()), Part::remove)?;
        }
        match &scored[..] {
            [one] if !self.all_controls => output::print(&describe(&one.evaluation)),
            all => output::print(&table(all)),
        }
    }

    /// Locks the output folder, for a new run or one to go on with.
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
    fn settings(&self, controls: &[Control], checking: Option<&Checking>) -> Map<String, Value> {
        let names: Vec<String> = controls.iter().map(Control::to_string).collect();
        let settings = json!({
            "controls": names,
            "seed": self.seed,
            "accuracy": checking.map(|checking| format!("{:?}", checking.options)),
        });
        settings.as_object().cloned().unwrap_or_default()
    }

    /// Opens what keeps the scores of finished batches, where there is an output folder; beside it, those of a stopped run.
    fn part(
        &self,
        engine: &Engine,
        samples: &[TokenizedSample],
        controls: &[Control],
        checking: Option<&Checking>,
    ) -> Result<(Option<Part>, Finished)> {
        let Some(dir) = &self.output else { return Ok((None, Vec::new())) };
        let run = engine.describe(samples, self.settings(controls, checking))?;
        // The folder is locked for it: what lies there may be replaced.
        let state = RunState::of(self.resume, true);
        let (part, done) = Part::open::<PartLine>(&dir.join(SAMPLES), state, &run, |found| found)?;
        if self.resume {
            let scored: usize = done.iter().map(|line| line.batch.scores.len()).sum();
            let total = samples.len() * controls.len();
            verbosity::note(format_args!("going on after {scored} of {total} scores"));
        }
        interrupt::set_words(format!(
            "stopped; finished scores are in {}. Go on with the same command and --resume",
            dir.join(PART).display()
        ));
        let done = done.into_iter().map(|line| Ok((line.control.parse()?, line.batch)));
        Ok((Some(part), done.collect::<Result<_>>()?))
    }

    /// The controls that are asked for: all that mean something for the team and the data, or one.
    fn controls(&self, session: &Session, samples: &[TokenizedSample]) -> Vec<Control> {
        if !self.all_controls {
            return vec![self.control.clone()];
        }
        let drops = session.team.upstream().iter().map(|agent| Control::Drop(agent.name.clone()));
        let all = [
            Control::Real,
            Control::None,
            Control::Zero,
            Control::Shuffled,
            Control::ShuffledImages,
            Control::Random,
            Control::SelfRollout,
        ];
        let mean = |c: &Control| self.check(c, session, samples).is_ok();
        all.into_iter().chain(drops).filter(mean).collect()
    }

    /// Refuses a control that cannot be applied to the team and its data.
    fn check(&self, control: &Control, session: &Session, samples: &[TokenizedSample]) -> Result<()> {
        control.validate(&session.team, lines(samples).len())?;
        let answer = if self.accuracy || self.all_controls { self.max_new_tokens } else { 0 };
        let room = session.model.config.max_position_embeddings;
        control.check_context(&session.team, samples, answer, room)
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
/// What was seen inside the team.
pub const INSPECTION: &str = "inspection.json";
/// The scores of finished batches, while there are more.
const PART: &str = "samples.jsonl.part";

/// Finished batches, each with its control.
type Finished = Vec<(Control, ScoredBatch)>;

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
        "control {}: loss {:.4}{}, perplexity {:.3}{accuracy} ({}, {} target tokens, {} per message)",
        e.control,
        e.loss,
        e.loss_interval.map_or(String::new(), |[low, high]| format!(" [{low:.4}, {high:.4}]")),
        e.perplexity,
        samples(e),
        e.target_tokens,
        HumanBytes(e.message_bytes as u64)
    )
}

/// How many samples were scored, and in how many lines where these have several questions.
fn samples(e: &Evaluation) -> String {
    e.clusters
        .map_or(format!("{} samples", e.samples), |lines| format!("{} samples in {lines} lines", e.samples))
}

/// All controls, one below the other, with 95 % intervals.
fn table(all: &[Scored]) -> String {
    let mut lines = vec![format!(
        "{:<16} {:>26} {:>28} {:>26} {:>14}",
        "control", "loss [95 %]", "loss - real, paired [95 %]", "accuracy % [95 %]", "bytes/message"
    )];
    for Scored { evaluation: e, .. } in all {
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
    let first = &all[0].evaluation;
    lines.extend(all.iter().flat_map(|scored| scored.evaluation.gains.named()).map(gain));
    lines.push(format!("{}, {} target tokens", samples(first), first.target_tokens));
    lines.join("\n")
}

/// What the real message is better by than a control, with 95 % intervals.
fn gain((name, control, gain): (&str, Control, Gain)) -> String {
    let interval = |i: Option<[f64; 2]>, digits: usize| {
        // Adding zero takes the sign of a negative zero away.
        i.map_or(String::new(), |[low, high]| format!(" [{:+.digits$}, {:+.digits$}]", low + 0.0, high + 0.0))
    };
    let percent = |i: Option<[f64; 2]>| i.map(|i| i.map(|x| 100.0 * x));
    let accuracy = gain.accuracy.map(|accuracy| {
        let interval = interval(percent(gain.accuracy_interval), 1);
        format!(", {:+.1}{interval} points of accuracy", 100.0 * accuracy)
    });
    format!(
        "{:<38} {:+.4}{} nats{}",
        format!("{name} (real over {control}):"),
        gain.loss,
        interval(gain.loss_interval, 4),
        accuracy.unwrap_or_default()
    )
}

/// Scores with progress; `keep` is told every batch.
fn score(
    engine: &Engine,
    request: EvaluateRequest,
    mut keep: impl FnMut(EvaluateEvent) -> Result<()>,
) -> Result<Vec<Scored>> {
    let total = request.samples.len();
    let mut done: Vec<(Control, usize)> = request.controls.iter().map(|c| (c.clone(), 0)).collect();
    for (control, batch) in &request.done {
        let own = done.iter_mut().find(|(own, _)| own == control);
        own.into_iter().for_each(|(_, scored)| *scored += batch.scores.len());
    }
    let mut shown: Option<(Control, Progress)> = None;
    let finish =
        |shown: Option<(Control, Progress)>| shown.into_iter().for_each(|(_, progress)| progress.finish());
    let scored = engine.evaluate(request).for_each_event(|event| {
        let (control, scored) =
            done.iter_mut().find(|(own, _)| *own == event.control).expect("one of those asked for");
        if shown.as_ref().is_none_or(|(shown, _)| shown != control) {
            finish(shown.replace((control.clone(), Progress::new("scored", *scored, total))));
        }
        *scored += event.batch.scores.len();
        let name = format!("control {control}");
        shown.iter_mut().for_each(|(_, progress)| progress.set(*scored, &name));
        keep(event)
    })?;
    finish(shown);
    Ok(scored)
}
