//! Output files, which appear only when they are complete; text on standard output.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use diffmas::files::{follow, is_stream, write_atomic};
use diffmas::{Error, Result};
use serde::Serialize;

use super::visible::{visible, visible_json};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Checks that `path`, given as `--flag`, can become an output file, before hours of work go into its content; returns where it lies,
/// which is elsewhere if it is a link.
pub fn check_file(path: &Path, flag: &str, overwrite: bool) -> Result<PathBuf> {
    let target = follow(path)?;
    if is_stream(&target)? {
        return Ok(target);
    }
    if target.exists() && !overwrite {
        return Err(Error::file(path, format!("the file exists; give another --{flag}, or --overwrite")));
    }
    // Missing folders are made when the file is written; the first that exists must take them.
    let mut folder =
        target.ancestors().skip(1).map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let folder = folder.find(|p| p.exists()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map_err(|e| {
        Error::file(path, format!("the output file cannot be written: {}: {e}", folder.display()))
    })?;
    Ok(target)
}

/// Opens a file that belongs to this program alone, made where it is lacking, to be locked, read and written. What it holds stays; a
/// link in its place could lead to anybody's file and is refused.
pub fn open_own(path: &Path) -> Result<File> {
    let failed = |e: io::Error| Error::file(path, format!("the file cannot be written: {e}"));
    let foreign = |what: &str| {
        Error::file(path, format!("this program keeps a file here, but it is {what}; delete it"))
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe without a reader would be waited for.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    }
    if path.is_symlink() {
        return Err(foreign("a symbolic link"));
    }
    if path.exists() && !path.is_file() {
        return Err(foreign("a folder, a device or a pipe"));
    }
    options.open(path).map_err(failed)
}

/// Adds `bytes` to the file at `path`; where that fails, as on a full disk, none of them stay.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened
        .and_then(|mut file| append_to(&mut file, bytes))
        .map_err(|e| Error::file(path, format!("the file cannot be written: {e}")))
}

/// The same for an open file that is at its end.
pub fn append_to(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| drop(file.set_len(before)))
}

/// Writes one JSON object a line.
pub fn write_jsonl(path: &Path, lines: &[impl Serialize]) -> Result<()> {
    write_atomic(path, jsonl(path, lines)?.as_bytes())
}

/// One JSON object a line, for the file at `path`.
pub fn jsonl(path: &Path, lines: &[impl Serialize]) -> Result<String> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line).map_err(|e| Error::file(path, e))?);
        text.push('\n');
    }
    Ok(text)
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
    writeln!(io::stdout(), "{}", shown(line)).map_err(failed)
}

/// Prints one JSON object on a line of standard output.
///
/// # Errors
/// If nobody reads it any more.
pub fn print_json(value: &impl Serialize) -> Result<()> {
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
