//! The chat of `diffmas run`: one loaded team, a conversation, commands that start with `/`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffmas::agents::{Team, TeamConfig};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::{Message, ReceivedMessages};
use diffmas::files::{follow, is_stream, write_atomic};
use diffmas::text::{ChatMessage, Sample, TokenizedSample};
use diffmas::{Error, Result};
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Map, json};

use super::answer::Answering;
use super::lines::{Line, Lines};
use super::visible::visible;
use super::{interrupt, output, verbosity};

const HELP: &str = "\
/trace        who left how many positions and bytes for the last answer
/agents       the team
/save FILE    write the conversation as one line of JSONL, {\"messages\": [...]}
/help         this list
/quit         end; so does Ctrl-D. Ctrl-C stops an answer; twice at the prompt, it ends";

/// A conversation with a team.
pub struct Chat<'a> {
    answering: Answering<'a>,
    messages: Vec<ChatMessage>,
    /// Leading messages that no longer fit the model.
    forgotten: usize,
    /// Questions asked, which number the streams of draws.
    turns: u64,
    /// What each upstream agent left for the last answer.
    received: Option<String>,
    /// The file of the last `/save`, which the next one may replace.
    saved: Option<PathBuf>,
}

impl<'a> Chat<'a> {
    /// A conversation that has not begun.
    ///
    /// # Errors
    /// If the model has no tokenizer.
    pub fn new(answering: Answering<'a>) -> Result<Self> {
        if answering.session.model.tokenizer.is_none() {
            return Err(Error::file(
                &answering.session.model.path,
                "a chat needs text, but the model has no tokenizer (no tokenizer.json beside its weights); answer \
                 pre-tokenised lines with --data",
            ));
        }
        Ok(Self { answering, messages: Vec::new(), forgotten: 0, turns: 0, received: None, saved: None })
    }
}

impl Job for Chat<'_> {
    type Output = Result<()>;

    fn run<B: ModelBackend>(mut self, device: B::Device) -> Result<()> {
        interrupt::silence();
        let team = self.answering.session.trained_team::<B>(&device)?;
        let mut lines = Lines::open()?;
        if lines.is_terminal() {
            let names: Vec<&str> = team.layout.config.agents.iter().map(|a| a.name.as_str()).collect();
            verbosity::note(format_args!("{}; /help lists commands, Ctrl-D ends", names.join(" → ")));
        }
        let mut interrupted = false;
        loop {
            let line = lines.read()?;
            if matches!(line, Line::Interrupted) {
                if interrupted {
                    return Err(Error::Interrupted("interrupted".into()));
                }
                verbosity::note("Ctrl-C again or Ctrl-D ends");
            }
            interrupted = matches!(line, Line::Interrupted);
            match line {
                Line::End => return Ok(()),
                Line::Interrupted => {}
                Line::Text(text) if text.trim().is_empty() => {}
                Line::Text(text) => match text.trim().strip_prefix('/') {
                    Some(command) => {
                        if self.command(command, &team.layout.config)? {
                            return Ok(());
                        }
                    }
                    None => self.turn(&team, text.trim())?,
                },
            }
        }
    }
}

impl Chat<'_> {
    /// Obeys a command, given without its `/`; whether it ends the chat.
    fn command(&mut self, command: &str, team: &TeamConfig) -> Result<bool> {
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, argument.trim()) {
            ("quit", "") => return Ok(true),
            ("help", "") => output::print(HELP)?,
            ("agents", "") => output::print(&describe_team(team))?,
            ("trace", "") => output::print(self.received.as_deref().unwrap_or("there is no answer yet"))?,
            ("save", "") => output::print("/save needs the name of a file")?,
            ("save", path) => match self.save(Path::new(path)) {
                Ok(()) => output::print(&format!("{} messages in {path}", self.messages.len()))?,
                Err(e) => output::print(&e.to_string())?,
            },
            _ => output::print(&format!("there is no command `/{command}`; /help lists the commands"))?,
        }
        Ok(false)
    }

    /// Lets the team answer, and remembers what was said. What is wrong with a question does not end the chat.
    fn turn<B: ModelBackend>(&mut self, team: &Team<B>, question: &str) -> Result<()> {
        let before = self.messages.len();
        self.messages.push(ChatMessage::new("user", question));
        let samples = match self.fitting(question) {
            Ok(sample) => [sample],
            Err(e) => {
                self.messages.truncate(before);
                return output::print(&visible(&format!("error: {e}")));
            }
        };
        // The lines before this one are not lost with it.
        let _heard = interrupt::Heard::start();
        let sample_ids = [self.turns];
        self.turns += 1;
        let spinner = spinner();
        let left = self.answering.roll_out(team, &samples, &sample_ids)?;
        let received = self.answering.controlled(team, left.received, &sample_ids);
        let written = self.answering.texts(&left.written.concat())?;
        self.received = Some(describe_trace(&received, &team.layout.config, written));
        let mut shown = output::Stream::default();
        let answers = self.answering.answer(team, &left.samples, &received, &sample_ids, |text| {
            if !spinner.is_finished() {
                spinner.finish_and_clear();
            }
            shown.push(text);
        })?;
        spinner.finish_and_clear();
        shown.finish()?;
        let text = answers.into_iter().find_map(|(_, text)| text).unwrap_or_default();
        if interrupt::take() && text.trim().is_empty() {
            self.messages.truncate(before);
        } else {
            self.messages.push(ChatMessage::new("assistant", text.trim()));
        }
        Ok(())
    }

    /// The prompts of the turn, with as many earlier turns as the model has room for.
    fn fitting(&mut self, question: &str) -> Result<TokenizedSample> {
        let first = self.forgotten;
        loop {
            let messages = json!(self.messages[self.forgotten..]);
            let fields = [("question".to_string(), json!(question)), ("messages".to_string(), messages)];
            let line = self.turns as usize + 1;
            let sample = Sample { line, fields: Map::from_iter(fields), ..Sample::default() };
            let room = self.answering.options.max_new_tokens;
            match self.answering.session.tokenize(Path::new("the conversation"), &sample, room) {
                Err(_) if self.forgotten + 2 < self.messages.len() => self.forgotten += 2,
                Err(e) => {
                    self.forgotten = first;
                    return Err(e);
                }
                Ok(sample) => {
                    if self.forgotten > first {
                        verbosity::note("the oldest turns no longer fit the model and are left out");
                    }
                    return Ok(sample);
                }
            }
        }
    }

    /// Writes the whole conversation, replacing only what an earlier `/save` wrote.
    fn save(&mut self, path: &Path) -> Result<()> {
        if self.messages.is_empty() {
            return Err(Error::invalid("there is nothing to save yet"));
        }
        let file = follow(path)?;
        if !is_stream(&file)? && file.exists() && self.saved.as_ref() != Some(&file) {
            return Err(Error::file(path, "the file exists; give another name"));
        }
        write_atomic(&file, format!("{}\n", json!({"messages": self.messages})).as_bytes())?;
        self.saved = Some(file);
        Ok(())
    }
}

/// Shows on a terminal that the team thinks.
fn spinner() -> ProgressBar {
    if verbosity::quiet() || !std::io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message("the team thinks");
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

/// One line an agent: what it does and what it leaves.
fn describe_team(team: &TeamConfig) -> String {
    let last = team.agents.len() - 1;
    let describe = |j: usize| {
        let name = &team.agents[j].name;
        if j == last {
            return format!("{name}: answers");
        }
        let channel = team.channel.kind;
        if channel.text {
            return format!("{name}: writes at most {} tokens", team.message_tokens(j));
        }
        let (steps, transmit, feed) = (team.steps(j), team.transmit(j), team.feed(j));
        let segment = channel.segments.then(|| format!("{transmit} in the trace"));
        let state = if channel.replaces { "a new state of " } else { "" };
        let vectors = team.vectors().map(|[m, _]| format!("{state}{m} vectors"));
        let leaves: Vec<String> = segment.into_iter().chain(vectors).collect();
        let leaves =
            if leaves.is_empty() { format!("`{channel}`: {}", channel.about) } else { leaves.join(" and ") };
        format!("{name}: {steps} latent steps, feed {feed}, leaves {leaves}")
    };
    (0..=last).map(describe).collect::<Vec<_>>().join("\n")
}

/// One line a message, and their sum; on the channel `text`, what was `written`.
fn describe_trace<B: ModelBackend>(
    received: &ReceivedMessages<B>,
    team: &TeamConfig,
    written: Vec<(usize, String)>,
) -> String {
    let name = |sender: usize| &team.agents[sender].name;
    if !written.is_empty() {
        let lines = written.into_iter().map(|(sender, text)| format!("{} wrote: {text}", name(sender)));
        return lines.collect::<Vec<_>>().join("\n");
    }
    let describe = |message: &Message<B>| {
        let segment = message.segment.as_ref().map(|s| {
            let (prompt, all) = (s.prompt_len, s.kv.len());
            format!("{all} positions ({prompt} prompt, {} latent)", all - prompt)
        });
        let vectors = message.vectors.as_ref().map(|v| {
            let [_, m, c] = v.values.dims();
            format!("{m} vectors of {c} numbers")
        });
        let parts: Vec<String> = segment.into_iter().chain(vectors).collect();
        let bytes = HumanBytes(message.bytes(0) as u64);
        format!("{}: {}, {bytes}", name(message.sender), parts.join(" and "))
    };
    let mut lines: Vec<String> = received.messages.iter().map(describe).collect();
    let (positions, bytes) = (received.positions(0), HumanBytes(received.bytes(0) as u64));
    lines.push(format!("the final agent read {positions} positions, {bytes}"));
    lines.join("\n")
}
