//! The chat of `diffmas run`: one loaded team, a conversation, commands that start with `/`.

mod describe;
mod settings;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffmas::agents::TeamConfig;
use diffmas::engine::{AnswerEvent, AnswerOptions, AnswerRequest, AnswerRow, Engine, Session};
use diffmas::files::{follow, is_stream, write_atomic};
use diffmas::inference::GenerationConfig;
use diffmas::text::{ChatMessage, TokenizedSample};
use diffmas::{Error, Result};
use indicatif::ProgressBar;
use serde_json::json;

use super::fields::with_hint;
use super::lines::{Line, Lines};
use super::visible::visible;
use super::{interrupt, output, verbosity};
use describe::{describe_latents, describe_received, describe_team};
use settings::Settings;

const HELP: &str = "\
/trace        who left how many positions and bytes for the last answer
/lens         which tokens each latent position of the last answer is near to
/agents       the team
/retry        another answer to the last question
/reset        forget the conversation
/set          how answers are drawn; /set NAME VALUE changes it, /set field.NAME VALUE gives the prompts a field
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
    /// What was asked last.
    asked: Option<TokenizedSample>,
    settings: Settings,
    /// The file of the last `/save`, which the next one may replace.
    saved: Option<PathBuf>,
}

impl Chat {
    /// A conversation that has not begun; its prompts see the fields of `pairs`, `NAME=VALUE`.
    ///
    /// # Errors
    /// If the model has no tokenizer, or cannot be loaded.
    pub fn open(
        session: Session,
        options: AnswerOptions,
        generation: GenerationConfig,
        pairs: &[String],
    ) -> Result<Self> {
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
            asked: None,
            settings: Settings::new(generation, pairs)?,
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
            ("lens", "") => output::print(&self.lens()?)?,
            ("retry", "") => self.retry()?,
            ("reset", "") => {
                self.messages.clear();
                (self.forgotten, self.received, self.asked) = (0, None, None);
                output::print("the conversation is forgotten")?;
            }
            ("set", "") => output::print(&self.settings.describe()?)?,
            ("set", pair) => {
                let (name, value) = pair.split_once([' ', '=']).unwrap_or((pair, ""));
                if let Err(e) = self.set(name, value.trim()) {
                    output::print(&e.to_string())?;
                }
            }
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

    /// Changes how answers are drawn, or a field.
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.settings.set(name, value)?;
        let generation = &self.settings.generation;
        self.options.decode = generation.decode_options(self.engine.session().stop_tokens())?;
        let options = AnswerOptions { stop: generation.stop.clone(), ..self.options.clone() };
        options.validate(self.engine.session())?;
        self.options = options;
        Ok(())
    }

    /// Asks the last question again, in place of its answer.
    fn retry(&mut self) -> Result<()> {
        let Some(last) = self.messages.iter().rposition(|message| message.role == "user") else {
            return output::print("there is no question yet");
        };
        let question = self.messages.split_off(last).swap_remove(0).content;
        self.forgotten = self.forgotten.min(last);
        self.turn(&question)
    }

    /// The latent positions of the last question through the logit lens.
    fn lens(&self) -> Result<String> {
        let Some(asked) = &self.asked else { return Ok("there is no answer yet".into()) };
        let seen = self.engine.inspect(std::slice::from_ref(asked), 1)?;
        Ok(describe_latents(seen.as_ref().map_or(&[], |seen| &seen.latents)))
    }

    /// Lets the team answer, and remembers what was said. What is wrong with a question does not end the chat.
    fn turn(&mut self, question: &str) -> Result<()> {
        let before = self.messages.len();
        self.messages.push(ChatMessage::new("user", question));
        let (line, room) = (self.turns as usize + 1, self.options.decode.max_new_tokens);
        let conversation = &self.messages[self.forgotten..];
        let sample = match self.engine.session().conversation(conversation, &self.settings.fields, line, room)
        {
            Ok((sample, left_out)) => {
                if left_out > 0 {
                    verbosity::note("the oldest turns no longer fit the model and are left out");
                }
                self.forgotten += left_out;
                sample
            }
            Err(e) => {
                self.messages.truncate(before);
                let e = with_hint(e, "/set field.NAME VALUE gives it");
                return output::print(&visible(&format!("error: {e}")));
            }
        };
        // The lines before this one are not lost with it.
        let _heard = interrupt::Heard::start();
        self.asked = Some(sample.clone());
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
