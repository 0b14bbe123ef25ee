//! `diffmas run`

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use diffmas::agents::ChannelKind;
use diffmas::engine::{
    AnswerEvent, AnswerOptions, AnswerRequest, Engine, Part, RowAnswer, RunState, Session, TraceFile,
    check_output_file, jsonl, write_jsonl,
};
use diffmas::evaluation::{Checking, Control};
use diffmas::files::{follow, is_stream, open_stream};
use diffmas::text::{Answers, Sample, TokenizedSample};
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::generation::GenerationArgs;
use super::options::{Options, TeamArgs};
use super::progress::Progress;
use super::{chat, interrupt, output, session, verbosity};

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct RunCommand {
    /// Folder of a finished run, or its `adapter`: the trained team, with its model and its settings
    #[arg(value_name = "RUN", conflicts_with_all = ["adapter", "config"])]
    run: Option<PathBuf>,
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
    /// Go on with a stopped run: finished batches are kept in FILE.jsonl.part until all questions are answered
    #[arg(long, requires = "output", conflicts_with_all = ["save_trace", "load_trace"])]
    resume: bool,
    /// Replace the files of --output, --save-trace and --save-trajectories, and what a stopped run left
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    /// What the final agent reads: real, none, zero, shuffled, random, drop:ROLE
    #[arg(long, alias = "trace", default_value = "real")]
    control: Control,
    /// Write what the upstream agents leave, for --load-trace on another machine; --max-new-tokens 0 then only thinks
    #[arg(long, value_name = "FILE.safetensors", requires = "asked", conflicts_with = "load_trace")]
    save_trace: Option<PathBuf>,
    /// Let the final agent answer on a trace of --save-trace; the upstream agents do not think
    #[arg(long, value_name = "FILE.safetensors", requires = "asked")]
    load_trace: Option<PathBuf>,
    /// On the channel text: write what the agents wrote for questions that the team answered rightly, as training lines with
    /// `trajectories`
    #[arg(long, value_name = "FILE.jsonl", requires = "data")]
    save_trajectories: Option<PathBuf>,
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
    pub fn execute(mut self) -> Result<()> {
        self.check_files()?;
        let options = Options::of_team(&self.team, self.run.as_deref())?;
        let session = session::open(options.engine()?)?;
        let decode = self.generation.options(&session)?;
        let (stop, control) = (self.generation.stop.clone(), self.control.clone());
        let options = AnswerOptions { decode, stop, control };
        let Some(samples) = self.samples(&session)? else {
            self.control.validate(&session.team, 1)?;
            return chat::Chat::open(session, options)?.run();
        };
        self.control.validate(&session.team, samples.len())?;
        self.check_traces(samples.len(), session.config.batch_size(), session.team.channel.kind)?;
        let checking = self.checking(&session, &options, &samples)?;
        let engine = Engine::start(session)?;
        let work = AnswerAll { command: &self, engine: &engine, options, samples: &samples };
        let (answers, sink) = work.run()?;
        if let (Some(path), Some(checking)) = (&self.save_trajectories, checking) {
            let lines = trajectories(&checking, &samples, &answers)?;
            write_jsonl(path, &lines)?;
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
            *path = check_output_file(path, "output", replaced)?;
        }
        for (flag, path) in
            [("save-trace", &mut self.save_trace), ("save-trajectories", &mut self.save_trajectories)]
        {
            if let Some(path) = path {
                *path = check_output_file(path, flag, replaced)?;
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
        self.trace().is_some()
    }

    /// The trace file, if there is one.
    fn trace(&self) -> Option<TraceFile> {
        let load = self.load_trace.clone().map(TraceFile::Load);
        load.or(self.save_trace.clone().map(TraceFile::Save))
    }

    /// How right answers are told for --save-trajectories; refused where there can be none, or nobody writes.
    fn checking(
        &self,
        session: &Session,
        options: &AnswerOptions,
        samples: &[TokenizedSample],
    ) -> Result<Option<Checking>> {
        if self.save_trajectories.is_none() {
            return Ok(None);
        }
        if !session.team.channel.kind.text {
            return Err(Error::invalid(
                "--save-trajectories needs --channel text: only there do agents write",
            ));
        }
        let (options, tokenizer) = (options.decode.clone(), session.model.tokenizer.clone());
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
    engine: &'a Engine,
    options: AnswerOptions,
    samples: &'a [TokenizedSample],
}

impl AnswerAll<'_> {
    /// Answers all questions, or those that a stopped run left.
    fn run(&self) -> Result<(Vec<Answered>, Sink)> {
        let n = self.samples.len();
        let (mut sink, mut all) = self.sink()?;
        let mut request = AnswerRequest {
            sender_attention: self.command.json,
            trace: self.command.trace(),
            ..AnswerRequest::new(self.samples.to_vec(), self.options.clone())
        };
        let done = all.len();
        request.rows.drain(..done);
        let mut progress = (n > 1).then(|| Progress::new("answered", done, n));
        let mut shown = self.command.streaming().then(output::Stream::default);
        let mut batch = Vec::new();
        self.engine.answer(request)?.for_each_event(|event| {
            match event {
                AnswerEvent::Text { text, .. } => {
                    if let Some(shown) = &mut shown {
                        shown.push(&text);
                    }
                }
                AnswerEvent::Finished(answer) => {
                    let rows = answer.batch_size;
                    batch.push(self.answered(answer, done));
                    if batch.len() == rows {
                        shown.take().map_or(Ok(()), output::Stream::finish)?;
                        self.keep(&mut sink, &batch)?;
                        all.append(&mut batch);
                        if let Some(progress) = &mut progress {
                            progress.set(all.len(), "");
                        }
                    }
                }
                AnswerEvent::RolledOut(_) => {}
            }
            Ok(())
        })?;
        if let Some(progress) = progress {
            progress.finish();
        }
        Ok((all, sink))
    }

    /// An answer as it is written; its row is counted from sample `first` on.
    fn answered(&self, answer: RowAnswer, first: usize) -> Answered {
        let details = self.command.json.then(|| Details {
            stopped: answer.stopped,
            trace_positions: answer.received.positions,
            trace_bytes: answer.received.bytes,
            attention: answer.sender_attention.into_iter().map(|(name, w)| (name, Value::from(w))).collect(),
            batch_size: answer.batch_size,
            think_seconds: answer.rollout_seconds,
            decode_seconds: answer.decode_seconds,
        });
        let written = answer.received.written.into_iter();
        Answered {
            line: self.samples[first + answer.row].line,
            text: answer.text,
            token_ids: answer.token_ids,
            messages: written.map(|w| (w.sender, Value::from(w.text))).collect(),
            details,
        }
    }

    /// Opens what the answers go to; beside it, those of a stopped run.
    fn sink(&self) -> Result<(Sink, Vec<Answered>)> {
        let Some(path) = &self.command.output else { return Ok((Sink::Printed, Vec::new())) };
        if let Some(stream) = open_stream(path)? {
            return Ok((Sink::Stream(stream), Vec::new()));
        }
        let (batch_size, n) = (self.engine.session().config.batch_size(), self.samples.len());
        let run = self.engine.describe(self.samples, self.settings())?;
        let (part, done) = Part::open::<Answered>(path, self.command.state(), &run, [batch_size, n])?;
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
    fn settings(&self) -> Map<String, Value> {
        let RunCommand { control, json, .. } = self.command;
        let o = &self.options.decode;
        let settings = json!({
            "sampling": format!("{:?}", o.sampling),
            "repetition_penalty": o.repetition_penalty,
            "max_new_tokens": o.max_new_tokens,
            "stop_tokens": o.stop_tokens,
            "stop": self.options.stop,
            "seed": o.seed,
            "control": control.to_string(),
            "json": json,
        });
        settings.as_object().cloned().unwrap_or_default()
    }

    /// Hands on the answers of a batch.
    fn keep(&self, sink: &mut Sink, answers: &[Answered]) -> Result<()> {
        match sink {
            Sink::Part(part) => part.push(answers),
            Sink::Stream(stream) => {
                let path = self.command.output.as_deref().unwrap_or(Path::new("--output"));
                let text = jsonl(path, answers)?;
                stream
                    .write_all(text.as_bytes())
                    .map_err(|e| Error::file(path, format!("nothing can be written: {e}")))
            }
            Sink::Printed => self.command.print(answers),
        }
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
