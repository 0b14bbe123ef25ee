//! The chat of `diffmas run`: one loaded team, a conversation, commands that start with `/`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffmas::agents::{MessageDtype, TeamConfig};
use diffmas::engine::{
    AnswerEvent, AnswerOptions, AnswerRequest, AnswerRow, Engine, MessageSize, Received, Session,
};
use diffmas::files::{follow, is_stream, write_atomic};
use diffmas::text::ChatMessage;
use diffmas::{Error, Result};
use indicatif::{HumanBytes, ProgressBar};
use serde_json::json;

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
pub struct Chat {
    engine: Engine,
    options: AnswerOptions,
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

impl Chat {
    /// A conversation that has not begun.
    ///
    /// # Errors
    /// If the model has no tokenizer, or cannot be loaded.
    pub fn open(session: Session, options: AnswerOptions) -> Result<Self> {
        if session.model.tokenizer.is_none() {
            return Err(Error::file(
                &session.model.path,
                "a chat needs text, but the model has no tokenizer (no tokenizer.json beside its weights); answer \
                 pre-tokenised lines with --data",
            ));
        }
        interrupt::silence();
        let engine = Engine::start(session)?;
        Ok(Self {
            engine,
            options,
            messages: Vec::new(),
            forgotten: 0,
            turns: 0,
            received: None,
            saved: None,
        })
    }

    /// Reads lines and answers them, up to the end of standard input.
    pub fn run(mut self) -> Result<()> {
        let mut lines = Lines::open()?;
        if lines.is_terminal() {
            let names: Vec<&str> = self.team().agents.iter().map(|a| a.name.as_str()).collect();
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
                        if self.command(command)? {
                            return Ok(());
                        }
                    }
                    None => self.turn(text.trim())?,
                },
            }
        }
    }

    fn team(&self) -> &TeamConfig {
        &self.engine.session().team
    }

    /// Obeys a command, given without its `/`; whether it ends the chat.
    fn command(&mut self, command: &str) -> Result<bool> {
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, argument.trim()) {
            ("quit", "") => return Ok(true),
            ("help", "") => output::print(HELP)?,
            ("agents", "") => output::print(&describe_team(self.team()))?,
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
    fn turn(&mut self, question: &str) -> Result<()> {
        let before = self.messages.len();
        self.messages.push(ChatMessage::new("user", question));
        let (line, room) = (self.turns as usize + 1, self.options.decode.max_new_tokens);
        let conversation = &self.messages[self.forgotten..];
        let sample = match self.engine.session().conversation(conversation, line, room) {
            Ok((sample, left_out)) => {
                if left_out > 0 {
                    verbosity::note("the oldest turns no longer fit the model and are left out");
                }
                self.forgotten += left_out;
                sample
            }
            Err(e) => {
                self.messages.truncate(before);
                return output::print(&visible(&format!("error: {e}")));
            }
        };
        // The lines before this one are not lost with it.
        let _heard = interrupt::Heard::start();
        let row = AnswerRow { sample, upstream: None, sample_id: self.turns, options: self.options.clone() };
        self.turns += 1;
        let cancel = interrupt::cancel().clone();
        let spinner = spinner();
        let mut stream =
            self.engine.answer(AnswerRequest { rows: vec![row], cancel, ..Default::default() })?;
        let (mut shown, mut text) = (output::Stream::default(), String::new());
        for event in &mut stream {
            match event {
                AnswerEvent::RolledOut(rolled_out) => {
                    self.received = rolled_out.received.first().map(describe_received);
                }
                AnswerEvent::Text { text, .. } => {
                    if !spinner.is_finished() {
                        spinner.finish_and_clear();
                    }
                    shown.push(&text);
                }
                AnswerEvent::Finished(answer) => text = answer.text.unwrap_or_default(),
            }
        }
        spinner.finish_and_clear();
        match stream.finish() {
            Err(Error::Interrupted(_)) => {}
            done => done?,
        }
        shown.finish()?;
        if interrupt::cancel().take() && text.trim().is_empty() {
            self.messages.truncate(before);
        } else {
            self.messages.push(ChatMessage::new("assistant", text.trim()));
        }
        Ok(())
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
        let rounded = match team.message_dtype {
            MessageDtype::F32 => String::new(),
            dtype => format!(" as {dtype}"),
        };
        format!("{name}: {steps} latent steps, feed {feed}, leaves {leaves}{rounded}")
    };
    (0..=last).map(describe).collect::<Vec<_>>().join("\n")
}

/// One line a message, and their sum; on the channel `text`, what was written.
fn describe_received(received: &Received) -> String {
    if !received.written.is_empty() {
        let lines = received.written.iter().map(|w| format!("{} wrote: {}", w.sender, w.text));
        return lines.collect::<Vec<_>>().join("\n");
    }
    let describe = |message: &MessageSize| {
        let segment = message
            .segment
            .map(|[prompt, all]| format!("{all} positions ({prompt} prompt, {} latent)", all - prompt));
        let vectors = message.vectors.map(|[m, c]| format!("{m} vectors of {c} numbers"));
        let parts: Vec<String> = segment.into_iter().chain(vectors).collect();
        format!("{}: {}, {}", message.sender, parts.join(" and "), HumanBytes(message.bytes as u64))
    };
    let mut lines: Vec<String> = received.messages.iter().map(describe).collect();
    let (positions, bytes) = (received.positions, HumanBytes(received.bytes as u64));
    lines.push(format!("the final agent read {positions} positions, {bytes}"));
    lines.join("\n")
}
