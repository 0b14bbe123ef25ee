//! `diffmas run`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use diffmas::agents::{Team, TeamBatch, TeamPlan};
use diffmas::backends::{Job, ModelBackend};
use diffmas::evaluation::{Control, derangement};
use diffmas::inference::{DecodeOptions, Sampling, decode};
use diffmas::text::{Answers, Sample, TokenizedSample, Tokenizer};
use diffmas::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use super::options::{Options, TeamArgs, flags};
use super::progress::Progress;
use super::session::Session;
use super::{interrupt, output};

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct RunCommand {
    #[command(flatten)]
    team: TeamArgs,
    /// One question
    #[arg(long, conflicts_with_all = ["data", "output"], required_unless_present = "data")]
    question: Option<String>,
    /// Questions, JSONL
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    /// File for the answers, one JSON object a line in the order of --data; without it they are printed
    #[arg(long, value_name = "FILE.jsonl", requires = "data")]
    output: Option<PathBuf>,
    /// Replace the output file
    #[arg(long)]
    overwrite: bool,
    /// Take the best token always
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k"])]
    greedy: bool,
    /// Divides the scores before a draw
    #[arg(long, default_value_t = 0.6)]
    temperature: f64,
    /// Keep the fewest best tokens whose probabilities reach P
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f64,
    /// Keep the K best tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Seed of all draws
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// What the final agent reads: real, none, zero, shuffled, random, drop:ROLE
    #[arg(long, default_value = "real")]
    trace: Control,
    /// Print JSON, with trace positions and timings
    #[arg(long)]
    json: bool,
}

/// One answer as it is written.
#[derive(Debug, Serialize)]
struct Answered {
    line: usize,
    text: Option<String>,
    token_ids: Vec<u32>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// What `--json` adds; times are those of the answer's whole batch.
#[derive(Debug, Clone, Serialize)]
struct Details {
    stopped: bool,
    trace_positions: usize,
    trace_bytes: usize,
    batch_size: usize,
    think_seconds: f64,
    decode_seconds: f64,
}

impl RunCommand {
    /// Answers and prints or writes.
    pub fn execute(self) -> Result<()> {
        let sampling = self.sampling()?;
        let session = Session::open(Options::read(self.team.config.as_deref(), &[flags(&self.team)?])?)?;
        let samples = match (&self.data, &self.question) {
            (Some(path), _) => session.data(path, Answers::Optional, self.max_new_tokens)?,
            (None, Some(question)) => {
                let fields = Map::from_iter([("question".to_string(), Value::String(question.clone()))]);
                let sample = Sample { line: 1, fields, answer: None, ids: None };
                vec![session.tokenize(Path::new("--question"), &sample, self.max_new_tokens)?]
            }
            (None, None) => return Err(Error::invalid("--question or --data is required")),
        };
        self.trace.validate(&session.team, samples.len())?;
        if let Some(path) = &self.output {
            output::check_file(path, self.overwrite)?;
        }
        let options = DecodeOptions {
            sampling,
            max_new_tokens: self.max_new_tokens,
            stop_tokens: session.stop_tokens(),
            seed: self.seed,
        };
        let kind = session.options.backend()?;
        let job = AnswerAll { command: &self, session: &session, samples: &samples, options: &options };
        let answers = kind.run(session.options.device_index, job).map_err(Error::invalid)??;
        match &self.output {
            Some(path) => output::write_jsonl(path, &answers),
            None => self.print(&answers),
        }
    }

    fn sampling(&self) -> Result<Sampling> {
        if self.greedy {
            return Ok(Sampling::Greedy);
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::invalid(
                "--temperature must be a positive number; --greedy takes the best token always",
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::invalid("--top-p must be above 0 and at most 1"));
        }
        Ok(Sampling::Random { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p })
    }

    fn print(&self, answers: &[Answered]) -> Result<()> {
        for a in answers {
            match &a.text {
                Some(text) if self.question.is_some() && !self.json => println!("{}", text.trim()),
                _ => println!("{}", serde_json::to_string(a).map_err(Error::invalid)?),
            }
        }
        Ok(())
    }
}

struct AnswerAll<'a> {
    command: &'a RunCommand,
    session: &'a Session,
    samples: &'a [TokenizedSample],
    options: &'a DecodeOptions,
}

impl Job for AnswerAll<'_> {
    type Output = Result<Vec<Answered>>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let team = self.session.trained_team::<B>(&device)?;
        let n = self.samples.len();
        let others = (self.command.trace == Control::Shuffled).then(|| derangement(n, self.command.seed));
        let mut progress = Progress::new("answered", 0, n);
        let mut all = Vec::with_capacity(n);
        let indices: Vec<usize> = (0..n).collect();
        for rows in indices.chunks(self.session.options.batch_size.unwrap_or(8)) {
            if interrupt::requested() {
                return Err(Error::Interrupted("interrupted; nothing was written".into()));
            }
            all.extend(self.batch(&team, rows, others.as_deref())?);
            if n > 1 {
                progress.set(all.len(), "");
            }
        }
        progress.finish();
        Ok(all)
    }
}

impl AnswerAll<'_> {
    fn batch<B: ModelBackend>(
        &self,
        team: &Team<B>,
        rows: &[usize],
        others: Option<&[usize]>,
    ) -> Result<Vec<Answered>> {
        let pick =
            |i: usize| -> TokenizedSample { TokenizedSample { target: None, ..self.samples[i].clone() } };
        let own: Vec<_> = rows.iter().map(|&i| pick(i)).collect();
        let batch = TeamBatch::new(&own.iter().collect::<Vec<_>>());
        let upstream = match others {
            Some(others) => {
                let theirs: Vec<_> = rows.iter().map(|&i| pick(others[i])).collect();
                TeamBatch::new(&theirs.iter().collect::<Vec<_>>())
            }
            None => batch.clone(),
        };
        let last = team.config.agents.len() - 1;
        let streams: Vec<u64> = rows.iter().map(|&i| i as u64).collect();
        let clock = Instant::now();
        let plan = TeamPlan::new(&team.config, &upstream);
        let trace = team.think_all(&upstream, &plan);
        let (trace, start) = self.command.trace.apply(
            trace,
            &plan.stages[last].start,
            &team.config,
            self.command.seed,
            &streams,
        );
        let think_seconds = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let answers = decode(team, &batch.prompts[last], &trace, &start, self.options, &streams, |_, _| ());
        let decode_seconds = clock.elapsed().as_secs_f64();
        let text = |ids: &[u32]| -> Result<Option<String>> {
            self.session.model.tokenizer.as_deref().map(|t: &Tokenizer| t.decode(ids)).transpose()
        };
        rows.iter()
            .zip(answers)
            .enumerate()
            .map(|(row, (&i, answer))| {
                Ok(Answered {
                    line: self.samples[i].line,
                    text: text(&answer.token_ids)?,
                    details: self.command.json.then(|| Details {
                        stopped: answer.stopped,
                        trace_positions: trace.positions(row),
                        trace_bytes: trace.bytes() / rows.len(),
                        batch_size: rows.len(),
                        think_seconds,
                        decode_seconds,
                    }),
                    token_ids: answer.token_ids,
                })
            })
            .collect()
    }
}
