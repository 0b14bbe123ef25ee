//! `diffmas eval`

use std::path::{Path, PathBuf};

use clap::Args;
use diffmas::agents::Team;
use diffmas::backends::{Job, ModelBackend};
use diffmas::evaluation::{
    Checking, Control, Evaluation, Inspection, Paired, SampleScore, Scoring, evaluate,
};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::{Error, Result};
use indicatif::HumanBytes;

use super::claim::Claim;
use super::options::{Options, TeamArgs};
use super::progress::Progress;
use super::session::{Conditions, Session};
use super::{inspection, interrupt, output};

/// Flags of `eval`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct EvalCommand {
    /// Folder of a finished run, or its `adapter`: the trained team, with its model and its settings
    #[arg(value_name = "RUN", conflicts_with_all = ["adapter", "config"])]
    run: Option<PathBuf>,
    #[command(flatten)]
    team: TeamArgs,
    /// Data with answers, JSONL [the held-out data of RUN]
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    /// What the final agent reads: real, none, zero, shuffled, random, drop:ROLE
    #[arg(long, default_value = "real")]
    trace: Control,
    /// Score with every control, one line each: real, none, zero, shuffled, random, and without each upstream role
    #[arg(long, conflicts_with = "trace")]
    all_controls: bool,
    /// Let the final agent answer, too, and count right answers: those that say the line's `gold`, what follows `####` in its answer, or
    /// an answer of a few words. Numbers and fractions are compared as values, choices by letter or text, and of an answer that marks its
    /// result (`####`, `\boxed{}`, "the answer is") only that counts
    #[arg(long)]
    accuracy: bool,
    /// Most tokens of an answer that is checked
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// Seed of `shuffled` and `random`
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder for samples.jsonl, results.json and inspection.json, of which `diffmas report` makes a page
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace what the output folder holds
    #[arg(long)]
    overwrite: bool,
}

impl EvalCommand {
    /// Scores the data and prints the result.
    pub fn execute(self) -> Result<()> {
        let session = Session::open(Options::of_team(&self.team, self.run.as_deref())?)?;
        let data = self.data.clone().or(session.options.eval_data.clone());
        let data = Options::required(&data, "data")?;
        let room = if self.accuracy { self.max_new_tokens } else { 0 };
        let samples = session.data(data, Answers::Required, room)?;
        let controls = self.controls(&session, samples.len());
        for control in &controls {
            control.validate(&session.team, samples.len())?;
        }
        let claim =
            |dir: &PathBuf| Claim::new_run(dir, self.overwrite, "give another --output, or --overwrite");
        let claim = self.output.as_ref().map(claim).transpose()?;
        if let Some(claim) = claim.as_ref().filter(|_| self.overwrite) {
            claim.keep_inputs(session.options.inputs().chain([data.as_path()]))?;
        }
        let checking = self.checking(&session, data, &samples)?;
        let kind = session.options.backend()?;
        let inspected = claim.as_ref().map(|_| self.max_new_tokens);
        let job = Score {
            session: &session,
            samples: &samples,
            controls: &controls,
            seed: self.seed,
            checking,
            inspected,
        };
        let (scored, inspection) = kind.run(session.options.device_index, job).map_err(Error::invalid)??;
        let (mut results, scores): (Vec<Evaluation>, Vec<Vec<SampleScore>>) = scored.into_iter().unzip();
        if let Some(real) = controls.iter().position(|control| *control == Control::Real) {
            for (i, result) in results.iter_mut().enumerate().filter(|(i, _)| *i != real) {
                result.against_real = Some(Paired::new(&scores[real], &scores[i]));
            }
        }
        if let (Some(dir), Some(claim)) = (&self.output, &claim) {
            claim.clear()?;
            let lines: Vec<ScoredLine> = results
                .iter()
                .zip(scores)
                .flat_map(|(e, scores)| {
                    scores.into_iter().map(|score| ScoredLine { trace: e.trace.clone(), score })
                })
                .collect();
            output::write_jsonl(&dir.join("samples.jsonl"), &lines)?;
            inspection.map_or(Ok(()), |inspection| inspection::write(dir, &inspection))?;
            let conditions = session.conditions()?;
            let all: Vec<Measured> =
                results.iter().map(|result| Measured { result, conditions: &conditions }).collect();
            match &all[..] {
                [one] if !self.all_controls => output::write_json(&dir.join("results.json"), one)?,
                all => output::write_json(&dir.join("results.json"), &all)?,
            }
        }
        match &results[..] {
            [one] if !self.all_controls => output::print(&describe(one)),
            all => output::print(&table(all)),
        }
    }

    /// The controls that are asked for: all that mean something for the team and so many samples, or one.
    fn controls(&self, session: &Session, samples: usize) -> Vec<Control> {
        if !self.all_controls {
            return vec![self.trace.clone()];
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

/// One line of `samples.jsonl`.
#[derive(Debug, serde::Serialize)]
struct ScoredLine {
    trace: String,
    #[serde(flatten)]
    score: SampleScore,
}

/// A result as `results.json` holds it.
#[derive(Debug, serde::Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    result: &'a Evaluation,
    #[serde(flatten)]
    conditions: &'a Conditions,
}

/// A result for people.
fn describe(e: &Evaluation) -> String {
    let accuracy = e
        .accuracy
        .map_or(String::new(), |a| format!(", accuracy {} of {}", a.in_percent(1, " %"), a.checked));
    format!(
        "trace {}: loss {:.4}{}, perplexity {:.3}{accuracy} ({} samples, {} target tokens, {} per message)",
        e.trace,
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
        "trace", "loss [95 %]", "loss - real, paired [95 %]", "accuracy % [95 %]", "bytes/message"
    )];
    for e in all {
        let interval =
            |i: Option<[f64; 2]>| i.map_or(String::new(), |[low, high]| format!(" [{low:.4}, {high:.4}]"));
        let loss = format!("{:.4}{}", e.loss, interval(e.loss_interval));
        let paired = |p: Paired| format!("{:+.4}{}", p.loss_difference, interval(p.loss_interval));
        let paired = e.against_real.map_or("-".into(), paired);
        let accuracy = e.accuracy.map_or("-".into(), |a| a.in_percent(1, ""));
        lines.push(format!("{:<16} {loss:>26} {paired:>28} {accuracy:>26} {:>14}", e.trace, e.message_bytes));
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
}

impl Job for Score<'_> {
    type Output = Result<(Vec<(Evaluation, Vec<SampleScore>)>, Option<Inspection>)>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let team = self.session.trained_team::<B>(&device)?;
        let one =
            |control| score(self.session, &team, self.samples, control, self.seed, self.checking.as_ref());
        let scores = self.controls.iter().map(one).collect::<Result<_>>()?;
        let inspect = |tokens| inspection::of(self.session, &team, self.samples, tokens);
        Ok((scores, self.inspected.map(inspect).transpose()?.flatten()))
    }
}

/// Scores with progress; Ctrl-C stops between batches.
pub fn score<B: ModelBackend>(
    session: &Session,
    team: &Team<B>,
    samples: &[TokenizedSample],
    control: &Control,
    seed: u64,
    checking: Option<&Checking>,
) -> Result<(Evaluation, Vec<SampleScore>)> {
    let mut progress = Progress::new("scored", 0, samples.len());
    let mut scores = Vec::new();
    let writing = session.greedy_writing();
    let batch_size = session.batch_size();
    let scoring = Scoring { batch_size, control, seed, writing: Some(&writing), checking };
    let result = evaluate(team, samples, &scoring, |batch| {
        scores.extend_from_slice(batch);
        progress.set(scores.len(), "");
        if interrupt::requested() && scores.len() < samples.len() {
            return Err(Error::Interrupted("interrupted; nothing was written".into()));
        }
        Ok(())
    })?;
    progress.finish();
    Ok((result, scores))
}
