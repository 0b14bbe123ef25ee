//! `diffmas run`

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use diffmas::agents::{ChannelKind, SenderAttention, Team};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::{Fingerprint, ReceivedMessages, TraceOwner};
use diffmas::engine::{EngineConfig, Session};
use diffmas::evaluation::{Checking, Control};
use diffmas::files::{follow, is_stream, open_stream};
use diffmas::inference::{Answer, DecodeOptions, GenerationConfig, WrittenMessage};
use diffmas::settings::{Rivals, Section};
use diffmas::text::{Answers, Sample, TokenizedSample};
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::answer::{Answering, Left};
use super::config::{Config, Flags, needs};
use super::flags::RunFlags;
use super::output_lock::RunState;
use super::part::{self, Part};
use super::progress::Progress;
use super::{chat, interrupt, output, session, verbosity};

/// What is asked and where answers go; how they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RunCommand {
    question: Option<String>,
    data: Option<PathBuf>,
    output: Option<PathBuf>,
    resume: bool,
    overwrite: bool,
    control: Control,
    save_trace: Option<PathBuf>,
    load_trace: Option<PathBuf>,
    save_trajectories: Option<PathBuf>,
    json: bool,
    #[serde(skip)]
    generation: GenerationConfig,
}

impl Flags for RunFlags {
    const COMMAND: &'static str = "run";
    const RIVALS: Rivals<'static> = &[
        ("greedy", &["temperature", "top_k", "top_p", "min_p"]),
        ("question", &["data", "output", "resume", "save_trajectories"]),
        ("resume", &["overwrite", "save_trace", "load_trace"]),
        ("save_trace", &["load_trace"]),
    ];

    fn sections() -> Vec<Section> {
        vec![Section::of::<EngineConfig>(), Section::of::<GenerationConfig>(), Section::of::<RunCommand>()]
    }

    fn config(&self) -> Option<&Path> {
        self.model.config.as_deref()
    }
}

/// The end of `run --help`.
pub const AFTER_HELP: &str = "\
Without --question and --data, each line of standard input is a turn of a chat (/help lists its commands). In a chat, {{ question }} in \
the agents' prompts is the turn, and every agent sees the earlier turns, as they were said, before its own prompt; an agent whose \
prompts use {{ messages }} writes the conversation itself. When the conversation no longer fits the model, its oldest turns are left \
out. Lines typed on a terminal are kept in $XDG_STATE_HOME/diffmas/history; one that starts with a space is not.

Example: diffmas run runs/first --question \"2 + 3?\" --greedy";

/// One answer as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    line: usize,
    text: Option<String>,
    token_ids: Vec<u32>,
    /// What the upstream agents wrote, by role.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    messages: Map<String, Value>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// What `--json` adds; times are those of the answer's whole batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Details {
    stopped: bool,
    trace_positions: usize,
    trace_bytes: usize,
    /// How much the final agent listened to each sender of vectors, as a mean over layers and prompt positions.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    attention: Map<String, Value>,
    batch_size: usize,
    think_seconds: f64,
    decode_seconds: f64,
}

impl RunCommand {
    /// Answers and prints or writes.
    pub fn execute(flags: &RunFlags) -> Result<()> {
        let config = Config::read(flags)?;
        let mut command = Self { generation: config.get()?, ..config.get()? };
        command.check()?;
        command.check_files()?;
        let engine = config.engine::<RunFlags>()?;
        command.answer(match &flags.run {
            Some(dir) => engine.of_run(dir)?,
            None => engine,
        })
    }

    /// Refuses settings without those that they are about.
    fn check(&self) -> Result<()> {
        let (data, question) = (("data", self.data.is_some()), ("question", self.question.is_some()));
        needs("output", self.output.is_some(), &[data])?;
        needs("save-trajectories", self.save_trajectories.is_some(), &[data])?;
        needs("resume", self.resume, &[("output", self.output.is_some())])?;
        needs("save-trace", self.save_trace.is_some(), &[question, data])?;
        needs("load-trace", self.load_trace.is_some(), &[question, data])?;
        needs("json", self.json, &[question, data])
    }

    fn answer(&self, config: EngineConfig) -> Result<()> {
        let session = session::open(config)?;
        let decoding = self.decoding(&session)?;
        let stop = &self.generation.stop;
        let answering = Answering { session: &session, options: &decoding, stop, control: &self.control };
        let kind = session.config.backend()?;
        let Some(samples) = self.samples(&session)? else {
            self.control.validate(&session.team, 1)?;
            let job = chat::Chat::new(answering)?;
            return kind.run(session.config.device_index, job)?;
        };
        self.control.validate(&session.team, samples.len())?;
        self.check_traces(samples.len(), session.config.batch_size(), session.team.channel.kind)?;
        let checking = self.checking(&answering, &samples)?;
        let job = AnswerAll { command: self, answering, samples: &samples };
        let (answers, sink) = kind.run(session.config.device_index, job)??;
        if let (Some(path), Some(checking)) = (&self.save_trajectories, checking) {
            let lines = trajectories(&checking, &samples, &answers)?;
            output::write_jsonl(path, &lines)?;
            verbosity::note(format_args!(
                "{} of {} answers were right; their agents' texts are in {}",
                lines.len(),
                answers.len(),
                path.display()
            ));
        }
        match (sink, &self.output) {
            (Sink::Part(part), Some(path)) => part.finish(path),
            _ => Ok(()),
        }
    }

    /// The settings for decoding with the model of `session`.
    fn decoding(&self, session: &Session) -> Result<DecodeOptions> {
        let options = self.generation.decode_options(session.stop_tokens())?;
        if !self.generation.stop.is_empty() && session.model.tokenizer.is_none() {
            return Err(Error::invalid(
                "--stop needs text, but the model has no tokenizer (no tokenizer.json)",
            ));
        }
        Ok(options)
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

    /// How the answers begin.
    fn state(&self) -> RunState {
        if self.resume { RunState::Resume } else { RunState::New { overwrite: self.overwrite } }
    }

    /// Refuses to replace files, and follows links to them.
    fn check_files(&mut self) -> Result<()> {
        let (state, replaced) = (self.state(), self.overwrite || self.resume);
        if let Some(path) = &mut self.output {
            let file = follow(path)?;
            if is_stream(&file)? {
                if self.resume {
                    return Err(Error::file(
                        path,
                        "a device or a pipe keeps nothing to go on with; leave out --resume",
                    ));
                }
            } else {
                Part::check(&file, state)?;
            }
            *path = output::check_file(path, "output", replaced)?;
        }
        for (flag, path) in
            [("save-trace", &mut self.save_trace), ("save-trajectories", &mut self.save_trajectories)]
        {
            if let Some(path) = path {
                *path = output::check_file(path, flag, replaced)?;
            }
        }
        Ok(())
    }

    /// Refuses traces that are not those of one batch.
    fn check_traces(&self, samples: usize, batch_size: usize, channel: ChannelKind) -> Result<()> {
        let traced = self.traced();
        if traced && samples > batch_size {
            return Err(Error::invalid(format!(
                "a trace file holds one batch, but there are {samples} questions; give --batch-size {samples}"
            )));
        }
        if traced && channel.text {
            return Err(Error::invalid("on the channel `text` there is no trace to save or load"));
        }
        if traced && self.control == Control::Shuffled {
            return Err(Error::invalid(
                "--control shuffled cannot be combined with --save-trace or --load-trace",
            ));
        }
        Ok(())
    }

    /// Whether messages come out of a trace file or go into one.
    fn traced(&self) -> bool {
        self.save_trace.is_some() || self.load_trace.is_some()
    }

    /// How right answers are told for --save-trajectories; refused where there can be none, or nobody writes.
    fn checking(&self, answering: &Answering<'_>, samples: &[TokenizedSample]) -> Result<Option<Checking>> {
        if self.save_trajectories.is_none() {
            return Ok(None);
        }
        let session = answering.session;
        if !session.team.channel.kind.text {
            return Err(Error::invalid(
                "--save-trajectories needs --channel text: only there do agents write",
            ));
        }
        let (options, tokenizer) = (answering.options.clone(), session.model.tokenizer.clone());
        let checking = Checking { options, tokenizer };
        if checking.tokenizer.is_none() || !checking.applies(samples) {
            let path = self.data.as_deref().unwrap_or(Path::new("--data"));
            return Err(Error::file(
                path,
                "--save-trajectories: no answer of this data can be checked; give lines a short field `gold`",
            ));
        }
        Ok(Some(checking))
    }

    /// Whether the one answer is shown while it is written.
    fn streaming(&self) -> bool {
        self.question.is_some() && !self.json && std::io::stdout().is_terminal()
    }

    fn print(&self, answers: &[Answered]) -> Result<()> {
        for a in answers {
            match &a.text {
                Some(_) if self.streaming() => {}
                Some(text) if self.question.is_some() && !self.json => output::print(text.trim())?,
                _ => output::print_json(a)?,
            }
        }
        Ok(())
    }
}

/// Where answers go, batch by batch.
enum Sink {
    /// To a file that becomes the output when it is whole.
    Part(Part),
    /// To a device or a pipe.
    Stream(File),
    /// To standard output.
    Printed,
}

struct AnswerAll<'a> {
    command: &'a RunCommand,
    answering: Answering<'a>,
    samples: &'a [TokenizedSample],
}

impl Job for AnswerAll<'_> {
    type Output = Result<(Vec<Answered>, Sink)>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let team = self.answering.session.trained_team::<B>(&device)?;
        let n = self.samples.len();
        // A trace file holds the samples' own messages.
        let seed = self.command.generation.seed;
        let others = self.command.control.senders(n, seed).filter(|_| !self.command.traced());
        let (mut sink, mut all) = self.sink(&team)?;
        let mut progress = (n > 1).then(|| Progress::new("answered", all.len(), n));
        let indices: Vec<usize> = (all.len()..n).collect();
        for rows in indices.chunks(self.answering.session.config.batch_size()) {
            let batch = self.batch(&team, rows, others.as_deref(), &device)?;
            self.keep(&mut sink, &batch)?;
            all.extend(batch);
            if let Some(progress) = &mut progress {
                progress.set(all.len(), "");
            }
        }
        if let Some(progress) = progress {
            progress.finish();
        }
        Ok((all, sink))
    }
}

impl AnswerAll<'_> {
    /// Opens what the answers go to; beside it, those of a stopped run.
    fn sink<B: ModelBackend>(&self, team: &Team<B>) -> Result<(Sink, Vec<Answered>)> {
        let Some(path) = &self.command.output else { return Ok((Sink::Printed, Vec::new())) };
        if let Some(stream) = open_stream(path)? {
            return Ok((Sink::Stream(stream), Vec::new()));
        }
        let (session, n) = (self.answering.session, self.samples.len());
        let run = part::describe(session, team, self.samples, self.settings())?;
        let (part, done) =
            Part::open::<Answered>(path, self.command.state(), &run, [session.config.batch_size(), n])?;
        if self.command.resume {
            verbosity::note(format_args!("going on after {} of {n} answers", done.len()));
        }
        interrupt::set_words(format!(
            "stopped; finished answers are in {}. Go on with the same command and --resume",
            Part::path(path).display()
        ));
        Ok((Sink::Part(part), done))
    }

    /// What answers depend on beside model, team and data.
    fn settings(&self) -> Value {
        let RunCommand { control, json, .. } = self.command;
        let o = self.answering.options;
        json!({
            "sampling": format!("{:?}", o.sampling),
            "repetition_penalty": o.repetition_penalty,
            "max_new_tokens": o.max_new_tokens,
            "stop_tokens": o.stop_tokens,
            "stop": self.answering.stop,
            "seed": o.seed,
            "control": control.to_string(),
            "json": json,
        })
    }

    /// Hands on the answers of a batch.
    fn keep(&self, sink: &mut Sink, answers: &[Answered]) -> Result<()> {
        match sink {
            Sink::Part(part) => part.push(answers),
            Sink::Stream(stream) => {
                let path = self.command.output.as_deref().unwrap_or(Path::new("--output"));
                let text = output::jsonl(path, answers)?;
                stream
                    .write_all(text.as_bytes())
                    .map_err(|e| Error::file(path, format!("nothing can be written: {e}")))
            }
            Sink::Printed => self.command.print(answers),
        }
    }

    fn batch<B: ModelBackend>(
        &self,
        team: &Team<B>,
        rows: &[usize],
        others: Option<&[usize]>,
        device: &B::Device,
    ) -> Result<Vec<Answered>> {
        let pick = |i: usize| self.samples[i].clone();
        let own: Vec<TokenizedSample> = rows.iter().map(|&i| pick(i)).collect();
        let sample_ids: Vec<u64> = rows.iter().map(|&i| i as u64).collect();
        let clock = Instant::now();
        let left = match others {
            Some(others) => {
                let theirs: Vec<_> = rows.iter().map(|&i| pick(others[i])).collect();
                let left = self.answering.roll_out(team, &theirs, &sample_ids)?;
                Left { samples: own.clone(), ..left }
            }
            None => self.left(team, &own, &sample_ids, device)?,
        };
        let written: Vec<_> =
            left.written.iter().map(|row| self.messages(team, row)).collect::<Result<_>>()?;
        let received = self.answering.controlled(team, left.received, &sample_ids);
        let think_seconds = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let mut shown = output::Stream::default();
        let stream = self.command.streaming();
        let answers = self.answering.answer(team, &left.samples, &received, &sample_ids, |text| {
            if stream {
                shown.push(text);
            }
        })?;
        if stream {
            shown.finish()?;
        }
        let decode_seconds = clock.elapsed().as_secs_f64();
        let sender_attention = self
            .command
            .json
            .then(|| self.answering.sender_attention(team, &left.samples, &received))
            .flatten();
        let attention = |sender_attention: Option<&SenderAttention>, row: usize| {
            let Some(sender_attention) = sender_attention else { return Map::new() };
            let name = |&s: &usize| team.layout.config.agents[s].name.clone();
            sender_attention
                .senders
                .iter()
                .map(name)
                .zip(sender_attention.of_row(row).into_iter().map(Value::from))
                .collect()
        };
        let answered = |(row, (&i, (answer, text))): (usize, (&usize, (Answer, Option<String>)))| {
            let details = self.command.json.then(|| Details {
                stopped: answer.stopped,
                trace_positions: received.positions(row),
                trace_bytes: received.bytes(row),
                attention: attention(sender_attention.as_ref(), row),
                batch_size: rows.len(),
                think_seconds,
                decode_seconds,
            });
            let messages = written.get(row).cloned().unwrap_or_default();
            Answered { line: self.samples[i].line, text, token_ids: answer.token_ids, messages, details }
        };
        Ok(rows.iter().zip(answers).enumerate().map(answered).collect())
    }

    /// What upstream agents wrote for one sample, by role.
    fn messages<B: ModelBackend>(
        &self,
        team: &Team<B>,
        written: &[WrittenMessage],
    ) -> Result<Map<String, Value>> {
        let by_role =
            |(sender, text): (usize, String)| (team.layout.config.agents[sender].name.clone(), text.into());
        Ok(self.answering.texts(written)?.into_iter().map(by_role).collect())
    }

    /// What the upstream agents leave for these samples, now or on the machine that wrote `--load-trace`.
    fn left<B: ModelBackend>(
        &self,
        team: &Team<B>,
        samples: &[TokenizedSample],
        sample_ids: &[u64],
        device: &B::Device,
    ) -> Result<Left<B>> {
        if !self.command.traced() {
            return self.answering.roll_out(team, samples, sample_ids);
        }
        let agents: Vec<&str> = team.layout.config.agents.iter().map(|a| a.name.as_str()).collect();
        let fingerprint =
            Fingerprint { model: self.answering.session.model.sha256()?, adapter: team.learned_sha256() };
        let owner = TraceOwner {
            model: &self.answering.session.model.config,
            fingerprint: &fingerprint,
            agents: &agents,
            vectors: team.layout.config.vectors(),
        };
        if let Some(path) = &self.command.load_trace {
            let received = ReceivedMessages::read(path, owner, device)?;
            self.check_loaded(path, &received.start, samples)?;
            return Ok(Left { received, written: Vec::new(), samples: samples.to_vec() });
        }
        let left = self.answering.roll_out(team, samples, sample_ids)?;
        if let Some(path) = &self.command.save_trace {
            left.received.write(path, owner)?;
        }
        Ok(left)
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
            let total = (start as usize + prompt).saturating_add(self.answering.options.max_new_tokens);
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

/// The lines that were answered rightly, each with what its agents wrote, in the form of training data.
fn trajectories(
    checking: &Checking,
    samples: &[TokenizedSample],
    answers: &[Answered],
) -> Result<Vec<Map<String, Value>>> {
    let mut lines = Vec::new();
    for (sample, answered) in samples.iter().zip(answers) {
        let right = checking.is_correct(sample, &answered.token_ids)? == Some(true);
        let whole = answered.messages.values().all(|text| text.as_str().is_some_and(|t| !t.is_empty()));
        let Some(source) = sample.source.as_ref().filter(|_| right && whole) else { continue };
        // The line may have been in another form; its question and answer stand beside it.
        let other = ["messages", "prompt", "completion"];
        let mut line: Map<String, Value> = source
            .fields
            .iter()
            .filter(|(k, _)| !other.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        line.insert("trajectories".into(), Value::Object(answered.messages.clone()));
        lines.push(line);
    }
    Ok(lines)
}
