//! The one error type: sentences that name file, line and field, for people rather than for programs.

use std::path::{Path, PathBuf};

use diffmas_backends::DeviceError;

/// What can go wrong with anything a user hands in. Broken invariants of the program itself panic instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, or one field of it, is wrong, missing or unreadable.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and, where it can be said, what to do; names the field.
        message: String,
    },
    /// One line of a file is wrong.
    #[error("{}, line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong; names the field.
        message: String,
    },
    /// A setting, flag or combination of them is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The backend that was asked for cannot be used here.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The user stopped the work; the message says how to go on.
    #[error("{0}")]
    Interrupted(String),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A value that has no form in JSON.
impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::invalid(error)
    }
}

/// A value that has no form in TOML.
impl From<toml::ser::Error> for Error {
    fn from(error: toml::ser::Error) -> Self {
        Self::invalid(error)
    }
}

impl Error {
    /// An error about the file or folder at `path`.
    pub fn file(path: impl AsRef<Path>, message: impl ToString) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), message: message.to_string() }
    }

    /// An error about line `line` (from 1) of the file at `path`.
    pub fn line(path: impl AsRef<Path>, line: usize, message: impl ToString) -> Self {
        Self::Line { path: path.as_ref().to_path_buf(), line, message: message.to_string() }
    }

    /// The same error, with the agent in whose passes it arose.
    pub(crate) fn of_agent(self, name: &str) -> Self {
        Self::invalid(format!("agent `{name}`: {self}"))
    }

    /// An error about a setting or a combination of settings.
    pub fn invalid(message: impl ToString) -> Self {
        Self::Invalid(message.to_string())
    }
}
