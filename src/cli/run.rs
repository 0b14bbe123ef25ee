//! `diffmas run`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use diffmas::agents::Team;
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::{Fingerprint, StoredTrace, TraceOwner};
use diffmas::evaluation::{Control, derangement};
use diffmas::inference::Answer;
use diffmas::text::{Answers, Sample, TokenizedSample};
use diffmas::{Error, Result};
use serde::Serialize;

use super::answer::Answering;
use super::generation::GenerationArgs;
use super::options::{Options, TeamArgs, flags};
use super::progress::Progress;
use super::session::Session;
use super::{chat, interrupt, output};

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct RunCommand {
    #[command(flatten)]
    team: TeamArgs,
    /// One question; without it and without --data, a chat
    #[arg(long, group = "asked", conflicts_with = "output")]
    question: Option<String>,
    /// Questions, JSONL
    #[arg(long, value_name = "FILE.jsonl", group = "asked")]
    data: Option<PathBuf>,
    /// File for the answers, one JSON object a line in the order of --data; without it they are printed
    #[arg(long, value_name = "FILE.jsonl", requires = "data")]
    output: Option<PathBuf>,
    /// Replace the files of --output and --save-trace
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    /// What the final agent reads: real, none, zero, shuffled, random, drop:ROLE
    #[arg(long, default_value = "real")]
    trace: Control,
    /// Write what the upstream agents leave, for --load-trace on another machine; --max-new-tokens 0 then only thinks
    #[arg(long, value_name = "FILE.safetensors", requires = "asked", conflicts_with = "load_trace")]
    save_trace: Option<PathBuf>,
    /// Let the final agent answer on a trace of --save-trace; the upstream agents do not think
    #[arg(long, value_name = "FILE.safetensors", requires = "asked")]
    load_trace: Option<PathBuf>,
    /// Print JSON, with trace positions and timings
    #[arg(long, requires = "asked")]
    json: bool,
}

/// The end of `run --help`.
pub const AFTER_HELP: &str = "\
Without --question and --data, each line of standard input is a turn of a chat (/help lists its commands). In a chat, {{ question }} in \
the agents' prompts is the turn, and every agent sees the earlier turns, as they were said, before its own prompt; an agent whose \
prompts use {{ messages }} writes the conversation itself. When the conversation no longer fits the model, its oldest turns are left \
out. Lines typed on a terminal are kept in $XDG_STATE_HOME/diffmas/history; one that starts with a space is not.

Example: diffmas run --model MODEL_DIR --adapter runs/first/adapter --question \"2 + 3?\" --greedy";

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
        let session = Session::open(Options::read(self.team.config.as_deref(), &[flags(&self.team)?])?)?;
        let options = self.generation.options(&session)?;
        let stop = &self.generation.stop;
        let answering = Answering { session: &session, options: &options, stop, control: &self.trace };
        let kind = session.options.backend()?;
        let Some(samples) = self.samples(&session)? else {
            self.trace.validate(&session.team, 1)?;
            let job = chat::Chat::new(answering)?;
            return kind.run(session.options.device_index, job).map_err(Error::invalid)?;
        };
        self.trace.validate(&session.team, samples.len())?;
        self.check_files(samples.len(), session.batch_size())?;
        let job = AnswerAll { command: &self, answering, samples: &samples };
        let answers = kind.run(session.options.device_index, job).map_err(Error::invalid)??;
        match &self.output {
            Some(path) => output::write_jsonl(path, &answers),
            None => self.print(&answers),
        }
    }

    /// The questions, unless they come in a chat.
    fn samples(&self, session: &Session) -> Result<Option<Vec<TokenizedSample>>> {
        let room = self.generation.max_new_tokens;
        match (&self.data, &self.question) {
            (Some(path), _) => session.data(path, Answers::Optional, room).map(Some),
            (None, Some(question)) if question.trim().is_empty() => {
                Err(Error::invalid("--question is empty; without it, a chat begins"))
            }
            (None, Some(question)) => {
                let sample = Sample::question(question.as_str());
                Ok(Some(vec![session.tokenize(Path::new("--question"), &sample, room)?]))
            }
            (None, None) => Ok(None),
        }
    }

    /// Refuses to replace files, and traces that are not those of one batch.
    fn check_files(&self, samples: usize, batch_size: usize) -> Result<()> {
        for (flag, path) in [("output", &self.output), ("save-trace", &self.save_trace)] {
            if let Some(path) = path {
                output::check_file(path, flag, self.overwrite)?;
            }
        }
        let traced = self.save_trace.is_some() || self.load_trace.is_some();
        if traced && samples > batch_size {
            return Err(Error::invalid(format!(
                "a trace file holds one batch, but there are {samples} questions; give --batch-size {samples}"
            )));
        }
        if traced && self.trace == Control::Shuffled {
            return Err(Error::invalid(
                "--trace shuffled cannot be combined with --save-trace or --load-trace",
            ));
        }
        Ok(())
    }

    /// Whether the one answer is shown while it is written.
    fn streams(&self) -> bool {
        self.question.is_some() && !self.json && std::io::stdout().is_terminal()
    }

    fn print(&self, answers: &[Answered]) -> Result<()> {
        for a in answers {
            match &a.text {
                Some(_) if self.streams() => {}
                Some(text) if self.question.is_some() && !self.json => output::print(text.trim())?,
                _ => output::print(&serde_json::to_string(a).map_err(Error::invalid)?)?,
            }
        }
        Ok(())
    }
}

struct AnswerAll<'a> {
    command: &'a RunCommand,
    answering: Answering<'a>,
    samples: &'a [TokenizedSample],
}

impl Job for AnswerAll<'_> {
    type Output = Result<Vec<Answered>>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let team = self.answering.session.trained_team::<B>(&device)?;
        let n = self.samples.len();
        let others =
            (self.command.trace == Control::Shuffled).then(|| derangement(n, self.command.generation.seed));
        let mut progress = (n > 1).then(|| Progress::new("answered", 0, n));
        let mut all = Vec::with_capacity(n);
        let indices: Vec<usize> = (0..n).collect();
        for rows in indices.chunks(self.answering.session.batch_size()) {
            all.extend(self.batch(&team, rows, others.as_deref(), &device)?);
            if interrupt::requested() {
                return Err(Error::Interrupted("interrupted; no answer was written".into()));
            }
            if let Some(progress) = &mut progress {
                progress.set(all.len(), "");
            }
        }
        if let Some(progress) = progress {
            progress.finish();
        }
        Ok(all)
    }
}

impl AnswerAll<'_> {
    fn batch<B: ModelBackend>(
        &self,
        team: &Team<B>,
        rows: &[usize],
        others: Option<&[usize]>,
        device: &B::Device,
    ) -> Result<Vec<Answered>> {
        let pick = |i: usize| self.samples[i].clone();
        let own: Vec<TokenizedSample> = rows.iter().map(|&i| pick(i)).collect();
        let streams: Vec<u64> = rows.iter().map(|&i| i as u64).collect();
        let clock = Instant::now();
        let left = match others {
            Some(others) => {
                let theirs: Vec<_> = rows.iter().map(|&i| pick(others[i])).collect();
                self.answering.think(team, &theirs)
            }
            None => self.left(team, &own, device)?,
        };
        let read = self.answering.controlled(team, left, &streams);
        let think_seconds = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let mut shown = output::Stream::default();
        let stream = self.command.streams();
        let answers = self.answering.answer(team, &own, &read, &streams, |text| {
            if stream {
                shown.push(text);
            }
        })?;
        if stream {
            shown.finish()?;
        }
        let decode_seconds = clock.elapsed().as_secs_f64();
        let answered = |(row, (&i, (answer, text))): (usize, (&usize, (Answer, Option<String>)))| {
            let details = self.command.json.then(|| Details {
                stopped: answer.stopped,
                trace_positions: read.trace.positions(row),
                trace_bytes: read.trace.bytes() / rows.len(),
                batch_size: rows.len(),
                think_seconds,
                decode_seconds,
            });
            Answered { line: self.samples[i].line, text, token_ids: answer.token_ids, details }
        };
        Ok(rows.iter().zip(answers).enumerate().map(answered).collect())
    }

    /// What the upstream agents leave for these samples, now or on the machine that wrote `--load-trace`.
    fn left<B: ModelBackend>(
        &self,
        team: &Team<B>,
        samples: &[TokenizedSample],
        device: &B::Device,
    ) -> Result<StoredTrace<B>> {
        let agents: Vec<&str> = team.config.agents.iter().map(|a| a.name.as_str()).collect();
        let fingerprint = Fingerprint::new(&team.roles, team.feed.learned.as_ref());
        let owner = TraceOwner {
            model: &self.answering.session.model.config,
            fingerprint: &fingerprint,
            agents: &agents,
        };
        if let Some(path) = &self.command.load_trace {
            let stored = StoredTrace::read(path, owner, device)?;
            self.check_loaded(path, &stored.start, samples)?;
            return Ok(stored);
        }
        let stored = self.answering.think(team, samples);
        if let Some(path) = &self.command.save_trace {
            stored.write(path, owner)?;
        }
        Ok(stored)
    }

    /// Refuses a trace of other rows, or one after which the final agent's positions do not fit the model.
    fn check_loaded(&self, path: &Path, start: &[u32], samples: &[TokenizedSample]) -> Result<()> {
        if start.len() != samples.len() {
            let (theirs, ours) = (start.len(), samples.len());
            return Err(Error::file(
                path,
                format!("the trace is of {theirs} questions, but there are {ours} here"),
            ));
        }
        let room = self.answering.session.model.config.max_position_embeddings;
        for (sample, &start) in samples.iter().zip(start) {
            let prompt = sample.prompts.last().map_or(0, Vec::len);
            let total = start as usize + prompt + self.answering.options.max_new_tokens;
            if total > room {
                return Err(Error::file(
                    path,
                    format!(
                        "line {}: the trace ends at position {start}, and {prompt} prompt tokens and \
                         --max-new-tokens make {total}, but the model has {room} (max_position_embeddings)",
                        sample.line
                    ),
                ));
            }
        }
        Ok(())
    }
}
