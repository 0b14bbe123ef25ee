//! Lines of standard input: edited and remembered on a terminal, plain elsewhere.

use std::io::{IsTerminal, stdin, stdout};
use std::path::PathBuf;

use diffmas::files::read_line;
use diffmas::{Error, Result};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

/// What the user typed.
pub enum Line {
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of a file.
    End,
}

/// Where lines come from.
pub struct Lines {
    /// On a terminal.
    editor: Option<DefaultEditor>,
}

impl Lines {
    /// Opens standard input, and the lines remembered from earlier chats.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn open() -> Result<Self> {
        if !(stdin().is_terminal() && stdout().is_terminal()) {
            return Ok(Self { editor: None });
        }
        let config = Config::builder().auto_add_history(true).history_ignore_space(true).build();
        let mut editor = DefaultEditor::with_config(config).map_err(failed)?;
        if let Some(path) = history().filter(|path| path.exists())
            && let Err(e) = editor.load_history(&path)
        {
            tracing::warn!("{}: earlier lines cannot be read: {e}", path.display());
        }
        Ok(Self { editor: Some(editor) })
    }

    /// Whether a person types.
    pub fn is_terminal(&self) -> bool {
        self.editor.is_some()
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// If standard input cannot be read or is not UTF-8.
    pub fn read(&mut self) -> Result<Line> {
        let Some(editor) = &mut self.editor else {
            let mut line = Vec::new();
            if !read_line(&mut stdin().lock(), &mut line).map_err(failed)? {
                return Ok(Line::End);
            }
            return String::from_utf8(line).map(Line::Text).map_err(failed);
        };
        match editor.readline("> ") {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(e) => Err(failed(e)),
        }
    }
}

impl Drop for Lines {
    /// Remembers what was typed.
    fn drop(&mut self) {
        let (Some(editor), Some(path)) = (&mut self.editor, history()) else { return };
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let saved = folder.map_err(ReadlineError::from).and_then(|()| editor.append_history(&path));
        if let Err(e) = saved {
            tracing::warn!("{}: the lines of this chat cannot be kept: {e}", path.display());
        }
    }
}

/// The file of remembered lines; none without a home.
fn history() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).and_then(absolute);
    let state = state.or_else(|| Some(std::env::home_dir().and_then(absolute)?.join(".local/state")))?;
    Some(state.join("diffmas/history"))
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::file("standard input", format!("the line cannot be read: {e}"))
}
