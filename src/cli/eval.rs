//! `diffmas eval`

use std::path::PathBuf;

use clap::Args;
use diffmas::backends::{Job, ModelBackend};
use diffmas::evaluation::{Control, Evaluation, SampleScore, evaluate};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::{Error, Result};

use super::claim::Claim;
use super::options::{Options, TeamArgs, flags};
use super::progress::Progress;
use super::session::Session;
use super::{interrupt, output};

/// Flags of `eval`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct EvalCommand {
    #[command(flatten)]
    team: TeamArgs,
    /// Data with answers, JSONL
    #[arg(long, value_name = "FILE.jsonl")]
    data: PathBuf,
    /// What the final agent reads: real, none, zero, shuffled, random, drop:ROLE
    #[arg(long, default_value = "real")]
    trace: Control,
    /// Seed of `shuffled` and `random`
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder for samples.jsonl and results.json
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace what the output folder holds
    #[arg(long)]
    overwrite: bool,
}

impl EvalCommand {
    /// Scores the data and prints the result.
    pub fn execute(self) -> Result<()> {
        let session = Session::open(Options::read(self.team.config.as_deref(), &[flags(&self.team)?])?)?;
        let samples = session.data(&self.data, Answers::Required, 0)?;
        self.trace.validate(&session.team, samples.len())?;
        let claim =
            |dir: &PathBuf| Claim::new_run(dir, self.overwrite, "give another --output, or --overwrite");
        let claim = self.output.as_ref().map(claim).transpose()?;
        if let Some(claim) = claim.as_ref().filter(|_| self.overwrite) {
            claim.keep_inputs(session.options.inputs().chain([self.data.as_path()]))?;
        }
        let kind = session.options.backend()?;
        let job = Score { session: &session, samples: &samples, control: &self.trace, seed: self.seed };
        let (result, scores) = kind.run(session.options.device_index, job).map_err(Error::invalid)??;
        if let (Some(dir), Some(claim)) = (&self.output, &claim) {
            claim.clear()?;
            output::write_jsonl(&dir.join("samples.jsonl"), &scores)?;
            output::write_json(&dir.join("results.json"), &result)?;
        }
        output::print(&describe(&result))
    }
}

/// A result for people.
fn describe(e: &Evaluation) -> String {
    format!(
        "trace {}: loss {:.4}, perplexity {:.3} ({} samples, {} target tokens)",
        e.trace, e.loss, e.perplexity, e.samples, e.target_tokens
    )
}

struct Score<'a> {
    session: &'a Session,
    samples: &'a [TokenizedSample],
    control: &'a Control,
    seed: u64,
}

impl Job for Score<'_> {
    type Output = Result<(Evaluation, Vec<SampleScore>)>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let team = self.session.trained_team::<B>(&device)?;
        score(&team, self.samples, self.session.batch_size(), self.control, self.seed)
    }
}

/// Scores with progress; Ctrl-C stops between batches.
pub fn score<B: ModelBackend>(
    team: &diffmas::agents::Team<B>,
    samples: &[TokenizedSample],
    batch_size: usize,
    control: &Control,
    seed: u64,
) -> Result<(Evaluation, Vec<SampleScore>)> {
    let mut progress = Progress::new("scored", 0, samples.len());
    let mut scores = Vec::new();
    let result = evaluate(team, samples, batch_size, control, seed, |batch| {
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
