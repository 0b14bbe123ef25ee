//! Output folders and files that appear only when they are complete; text on standard output.

use std::fs;
use std::io::Write;
use std::path::Path;

use diffmas::checkpoint::write_atomic;
use diffmas::{Error, Result};
use serde::Serialize;

/// Makes `dir` ready for a new run: absent or empty, or emptied where `overwrite` says so.
pub fn prepare(dir: &Path, overwrite: bool, hint: &str) -> Result<()> {
    if dir.is_file() {
        return Err(Error::file(dir, "the output must be a folder, but this is a file"));
    }
    let occupied = dir.exists() && fs::read_dir(dir).map_err(|e| Error::file(dir, e))?.next().is_some();
    if occupied && !overwrite {
        return Err(Error::file(dir, format!("the output folder is not empty; {hint}")));
    }
    if occupied {
        fs::remove_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    }
    fs::create_dir_all(dir).map_err(|e| Error::file(dir, format!("the output folder cannot be made: {e}")))
}

/// Writes one JSON object a line.
pub fn write_jsonl(path: &Path, lines: &[impl Serialize]) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line).map_err(|e| Error::file(path, e))?);
        text.push('\n');
    }
    write_atomic(path, text.as_bytes())
}

/// Writes one JSON object.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write_atomic(path, format!("{text}\n").as_bytes())
}

/// Prints a line on standard output.
///
/// # Errors
/// If nobody reads it any more.
pub fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").map_err(failed)
}

/// Text on standard output as it comes, without white space at its ends.
#[derive(Default)]
pub struct Stream {
    started: bool,
    /// White space that is printed only before more text.
    held: String,
    failed: Option<std::io::Error>,
}

impl Stream {
    /// Prints `text` at once.
    pub fn push(&mut self, text: &str) {
        let text = if self.started { text } else { text.trim_start() };
        let end = text.trim_end().len();
        if end > 0 {
            self.started = true;
            let mut out = std::io::stdout();
            let written = write!(out, "{}{}", self.held, &text[..end]).and_then(|()| out.flush());
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

fn failed(e: std::io::Error) -> Error {
    Error::file("standard output", format!("nothing can be written: {e}"))
}
