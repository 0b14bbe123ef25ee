//! Text on standard output.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use diffmas::{Error, Result};
use serde::Serialize;

use super::job;
use super::visible::{visible, visible_json};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Prints a line on standard output, once for all processes of a job.
///
/// # Errors
/// If nobody reads it any more.
pub fn print(line: &str) -> Result<()> {
    if !job::is_first() {
        return Ok(());
    }
    writeln!(io::stdout(), "{}", shown(line)).map_err(failed)
}

/// Prints one JSON object on a line of standard output, once for all processes of a job.
///
/// # Errors
/// If nobody reads it any more.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    if !job::is_first() {
        return Ok(());
    }
    let line = serde_json::to_string(value)?;
    writeln!(io::stdout(), "{}", visible_json(&line)).map_err(failed)
}

/// `text` as standard output takes it: a terminal, or what stands between it and this program, would obey the control characters in it; a
/// file gets them unchanged.
fn shown(text: &str) -> Cow<'_, str> {
    if is_file() { Cow::Borrowed(text) } else { visible(text) }
}

/// Whether standard output goes into a file.
fn is_file() -> bool {
    static IS_FILE: OnceLock<bool> = OnceLock::new();
    *IS_FILE.get_or_init(|| {
        #[cfg(unix)]
        let own = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned();
        #[cfg(windows)]
        let own = std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned();
        own.is_ok_and(|own| File::from(own).metadata().is_ok_and(|m| m.is_file()))
    })
}

/// Text on standard output as it comes, without white space at its ends.
#[derive(Default)]
pub struct Stream {
    started: bool,
    /// White space that is printed only before more text.
    held: String,
    failed: Option<io::Error>,
}

impl Stream {
    /// Prints `text` at once.
    pub fn push(&mut self, text: &str) {
        let text = if self.started { text } else { text.trim_start() };
        let end = text.trim_end().len();
        if end > 0 {
            self.started = true;
            let mut out = io::stdout();
            let written =
                write!(out, "{}{}", shown(&self.held), shown(&text[..end])).and_then(|()| out.flush());
            self.failed = self.failed.take().or(written.err());
            self.held.clear();
        }
        self.held.push_str(&text[end..]);
    }

    /// Ends the line.
    ///
    /// # Errors
    /// If nobody read the text.
    pub fn finish(self) -> Result<()> {
        match self.failed {
            Some(e) => Err(failed(e)),
            None => print(""),
        }
    }
}

/// Whether printing failed because nobody reads standard output any more: a reader like `head` has seen enough, and the command
/// may end without a word.
pub fn closed() -> bool {
    CLOSED.load(Ordering::SeqCst)
}

fn failed(e: io::Error) -> Error {
    CLOSED.store(e.kind() == io::ErrorKind::BrokenPipe, Ordering::SeqCst);
    Error::file("standard output", format!("nothing can be written: {e}"))
}
