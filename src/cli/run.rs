//! `diffmas run`

mod answered;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};

use diffmas::agents::ChannelKind;
use diffmas::engine::{
    AnswerEvent, AnswerOptions, AnswerRequest, Engine, EngineConfig, Part, RowAnswer, RunState, Session,
    TraceFile,
};
use diffmas::evaluation::{Asked, Checking, Control};
use diffmas::files::{check_output_file, follow, is_stream, jsonl, open_stream, write_jsonl};
use diffmas::inference::{GENERATION_CONFIG, GenerationConfig, model_defaults};
use diffmas::settings::{Rivals, Section};
use diffmas::text::{Answers, Sample, TokenizedSample, lines};
use diffmas::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::{Config, Flags, needs};
use super::fields::{fields, with_hint};
use super::flags::RunFlags;
use super::progress::Progress;
use super::{chat, fetch, interrupt, job, output, session, verbosity};
use answered::{Answered, Details, trajectories};

/// What is asked and where answers go; how they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RunCommand {
    question: Option<String>,
    field: Vec<String>,
    data: Option<PathBuf>,
    limit: Option<NonZeroUsize>,
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
        ("question", &["data", "limit", "output", "resume", "save_trajectories"]),
        ("field", &["data"]),
        ("resume", &["overwrite", "save_trace", "load_trace"]),
        ("save_trace", &["load_trace"]),
    ];

    fn sections() -> Vec<Section> {
        vec![Section::of::<EngineConfig>(), Section::of::<GenerationConfig>(), Section::of::<RunCommand>()]
    }

    fn config(&self) -> Option<&Path> {
        self.team.model.config.as_deref()
    }
}

/// The end of `run --help`.
pub const AFTER_HELP: &str = "\
Without --question and --data, each line of standard input is a turn of a chat (/help lists its commands). In a chat, {{ question }} in \
the agents' prompts is the turn, and every agent sees the earlier turns, as they were said, before its own prompt; an agent whose \
prompts use {{ messages }} writes the conversation itself. When the conversation no longer fits the model, its oldest turns are left \
out. Lines typed on a terminal are kept in $XDG_STATE_HOME/diffmas/history; one that starts with a space is not.

Example: diffmas run runs/first --question \"2 + 3?\" --greedy";

impl RunCommand {
    /// Answers and prints or writes.
    pub fn execute(flags: &RunFlags) -> Result<()> {
        let config = Config::read(flags)?;
        let mut command = Self::of(&config)?;
        command.check()?;
        if !job::is_first() {
            // All have the answers, and one keeps them; a trace is that of one batch, which is the first one's.
            command = Self {
                output: None,
                resume: false,
                overwrite: false,
                save_trace: None,
                load_trace: None,
                ..command
            };
        }
        command.check_files()?;
        let engine = config.engine::<RunFlags>()?;
        let session = session::open(match &flags.run {
            Some(dir) => engine.of_run(dir)?,
            None => engine,
        })?;
        command.generation = generation(&config, &session)?;
        command.answer(session)
    }

    /// What the settings say.
    pub fn of(config: &Config) -> Result<Self> {
        Ok(Self { generation: config.get()?, ..config.get()? })
    }

    /// Refuses settings without those that they are about.
    fn check(&self) -> Result<()> {
        let (data, question) = (("data", self.data.is_some()), ("question", self.question.is_some()));
        self.generation.validate()?;
        needs("output", self.output.is_some(), &[data])?;
        needs("limit", self.limit.is_some(), &[data])?;
        needs("save-trajectories", self.save_trajectories.is_some(), &[data])?;
        needs("resume", self.resume, &[("output", self.output.is_some())])?;
        needs("save-trace", self.save_trace.is_some(), &[question, data])?;
        needs("load-trace", self.load_trace.is_some(), &[question, data])?;
        needs("json", self.json, &[question, data])
    }

    fn answer(&self, session: Session) -> Result<()> {
        let decode = self.generation.decode_options(session.stop_tokens())?;
        let (stop, control) = (self.generation.stop.clone(), self.control.clone());
        let options = AnswerOptions { decode, stop, control };
        options.validate(&session)?;
        let Some(samples) = self.samples(&session)? else {
            if job::is_shared() {
                return Err(Error::invalid(
                    "a chat is with one process; give --question or --data, or start one alone",
                ));
            }
            self.control.validate(&session.team, 1)?;
            return chat::Chat::open(session, options, self.generation.clone(), &self.field)?.run();
        };
        self.control.validate(&session.team, lines(&samples).len())?;
        self.check_traces(&samples, session.config.batch_size(), session.team.channel.kind)?;
        let checking = self.checking(&session, &options, &samples)?;
        let engine = Engine::start(session)?;
        let work = AnswerAll { command: self, engine: &engine, options, samples: &samples };
        let (answers, sink) = work.run()?;
        if let (Some(path), Some(checking), true) = (&self.save_trajectories, checking, job::is_first()) {
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
            (Some(path), _) => {
                let source = fetch::data(path, session.config.offline)?.limited(self.limit);
                session.data(source, Answers::Optional, room).map(Some)
            }
            (None, Some(question)) if question.trim().is_empty() => {
                Err(Error::invalid("--question is empty; without it, a chat begins"))
            }
            (None, Some(question)) => {
                let mut sample = Sample::question(question.as_str());
                sample.fields.extend(fields(&self.field)?);
                let sample = session.tokenize(Path::new("--question"), &sample, room);
                Ok(Some(vec![sample.map_err(|e| with_hint(e, "--field NAME=VALUE gives it"))?]))
            }
            (None, None) => Ok(None),
        }
    }

    /// How the answers begin.
    fn state(&self) -> RunState {
        RunState::of(self.resume, self.overwrite)
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
    fn check_traces(
        &self,
        samples: &[TokenizedSample],
        batch_size: usize,
        channel: ChannelKind,
    ) -> Result<()> {
        let (traced, count) = (self.traced(), lines(samples).len());
        if traced && count > batch_size {
            let what = if count < samples.len() { "lines" } else { "questions" };
            return Err(Error::invalid(format!(
                "a trace file holds one batch, but there are {count} {what}; give --batch-size {count}"
            )));
        }
        if traced && channel.text {
            return Err(Error::invalid("on the channel `text` there is no trace to save or load"));
        }
        if traced
            && [Control::Shuffled, Control::ShuffledImages, Control::SelfRollout].contains(&self.control)
        {
            return Err(Error::invalid(format!(
                "--control {} cannot be combined with --save-trace or --load-trace",
                self.control
            )));
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

/// How answers are drawn: as told, else as the model's own file says, which is noted.
fn generation(config: &Config, session: &Session) -> Result<GenerationConfig> {
    let (generation, taken) = config.get_over(model_defaults(&session.model.path)?, RunFlags::RIVALS)?;
    if !taken.is_empty() {
        let taken: Vec<String> = taken.iter().map(|(name, value)| format!("{name} {value}")).collect();
        verbosity::note(format_args!("as the model's {GENERATION_CONFIG} says: {}", taken.join(", ")));
    }
    Ok(generation)
}

/// Where answers go, batch by batch.
enum Sink {
    /// To a file that becomes the output when it is whole.
    Part(Part),
    /// To a device or a pipe.
    Stream(File),
    /// To standard output.
    Printed,
    /// Nowhere: another process has the same answers.
    Elsewhere,
}

struct AnswerAll<'a> {
    command: &'a RunCommand,
    engine: &'a Engine,
    options: AnswerOptions,
    samples: &'a [TokenizedSample],
}

impl AnswerAll<'_> {
    /// Answers all questions, or those that a stopped run left. The processes of a job answer batches in turn, and all get all answers.
    fn run(&self) -> Result<(Vec<Answered>, Sink)> {
        let n = self.samples.len();
        let processes = job::processes();
        let (mut sink, all) = if processes.is_first() { self.sink()? } else { (Sink::Elsewhere, Vec::new()) };
        let mut all = processes.of_first(all)?;
        let mut request = AnswerRequest {
            sender_attention: self.command.json,
            trace: self.command.trace(),
            ..AnswerRequest::new(self.samples.to_vec(), self.options.clone())
        };
        let done = all.len();
        let batch_size = self.engine.session().config.batch_size();
        let open: Vec<Range<usize>> =
            lines(self.samples).into_iter().filter(|line| line.start >= done).collect();
        let batches: Vec<Range<usize>> =
            open.chunks(batch_size).map(|lines| lines[0].start..lines[lines.len() - 1].end).collect();
        let mut rounds = batches.len().div_ceil(processes.count());
        let places: Vec<usize> = processes.own(batches).flatten().collect();
        let mut rows: Vec<_> = request.rows.into_iter().map(Some).collect();
        request.rows = places.iter().filter_map(|&place| rows[place].take()).collect();
        let mut progress = (n > 1).then(|| Progress::new("answered", done, n));
        let mut shown = self.command.streaming().then(output::Stream::default);
        let mut batch = Vec::new();
        let mut share = |own: Vec<Answered>| {
            for answered in processes.all(own)? {
                self.keep(&mut sink, &answered)?;
                all.extend(answered);
                if let Some(progress) = &mut progress {
                    progress.set(all.len(), "");
                }
            }
            Ok::<_, Error>(())
        };
        self.engine.answer(request)?.for_each_event(|event| {
            match event {
                AnswerEvent::Text { text, .. } => {
                    if let Some(shown) = &mut shown {
                        shown.push(&text);
                    }
                }
                AnswerEvent::Finished(answer) => {
                    let rows = answer.batch_size;
                    batch.push(answer);
                    if batch.len() == rows {
                        shown.take().map_or(Ok(()), output::Stream::finish)?;
                        rounds -= 1;
                        share(self.answered(std::mem::take(&mut batch), &places))?;
                    }
                }
                AnswerEvent::RolledOut(_) => {}
            }
            Ok(())
        })?;
        if rounds > 0 {
            // The last round has batches for some.
            share(Vec::new())?;
        }
        if let Some(progress) = progress {
            progress.finish();
        }
        Ok((all, sink))
    }

    /// The answers of a batch as they are written, in the order of the data; `places` says which samples the rows are.
    fn answered(&self, mut batch: Vec<RowAnswer>, places: &[usize]) -> Vec<Answered> {
        batch.sort_by_key(|answer| answer.row);
        let decode_seconds = batch.iter().map(|answer| answer.decode_seconds).fold(0.0, f64::max);
        let dtype = self.engine.session().team.message_dtype;
        let answered = |answer: RowAnswer| Answered {
            details: self.command.json.then(|| Details::of(&answer, dtype, decode_seconds)),
            line: self.samples[places[answer.row]].line,
            question_index: self.question_index(places[answer.row]),
            asked: Asked::of(&self.samples[places[answer.row]]),
            text: answer.text,
            token_ids: answer.token_ids,
            messages: answer.received.written.into_iter().map(|w| (w.sender, Value::from(w.text))).collect(),
        };
        batch.into_iter().map(answered).collect()
    }

    /// The question of its line that sample `index` is, where the line has several.
    fn question_index(&self, index: usize) -> Option<usize> {
        let with_next = &self.samples[index..self.samples.len().min(index + 2)];
        let question = with_next[0].question;
        (question > 1 || lines(with_next)[0].len() > 1).then_some(question)
    }

    /// Opens what the answers go to; beside it, those of a stopped run.
    fn sink(&self) -> Result<(Sink, Vec<Answered>)> {
        let Some(path) = &self.command.output else { return Ok((Sink::Printed, Vec::new())) };
        if let Some(stream) = open_stream(path)? {
            return Ok((Sink::Stream(stream), Vec::new()));
        }
        let (batch_size, n) = (self.engine.session().config.batch_size(), self.samples.len());
        let run = self.engine.describe(self.samples, self.settings())?;
        let lines = lines(self.samples);
        let ends: Vec<usize> = lines.chunks(batch_size).flat_map(<[_]>::last).map(|line| line.end).collect();
        let whole = |found| ends.iter().copied().take_while(|&end| end <= found).last().unwrap_or(0);
        let (part, done) = Part::open::<Answered>(path, self.command.state(), &run, whole)?;
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
            Sink::Elsewhere => Ok(()),
        }
    }
}
