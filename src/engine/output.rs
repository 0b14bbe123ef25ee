//! Output files: checked before hours of work go into them, appended to, and written as JSON.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::files::{follow, is_stream, write_atomic};

/// Checks that `path`, given as `--flag`, can become an output file, before hours of work go into its content; returns where it lies,
/// which is elsewhere if it is a link.
///
/// # Errors
/// If it exists and is not to be replaced, or no file can be written there.
pub fn check_output_file(path: &Path, flag: &str, overwrite: bool) -> Result<PathBuf> {
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
pub(super) fn open_own(path: &Path) -> Result<File> {
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
///
/// # Errors
/// If it cannot be written.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened
        .and_then(|mut file| append_to(&mut file, bytes))
        .map_err(|e| Error::file(path, format!("the file cannot be written: {e}")))
}

/// The same for an open file that is at its end.
pub(super) fn append_to(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| drop(file.set_len(before)))
}

/// Writes one JSON object a line.
///
/// # Errors
/// If a line has no form in JSON, or the file cannot be written.
pub fn write_jsonl(path: &Path, lines: &[impl Serialize]) -> Result<()> {
    write_atomic(path, jsonl(path, lines)?.as_bytes())
}

/// One JSON object a line, for the file at `path`.
///
/// # Errors
/// If a line has no form in JSON.
pub fn jsonl(path: &Path, lines: &[impl Serialize]) -> Result<String> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line).map_err(|e| Error::file(path, e))?);
        text.push('\n');
    }
    Ok(text)
}

/// Writes one JSON object.
///
/// # Errors
/// If it has no form in JSON, or the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    write_atomic(path, format!("{text}\n").as_bytes())
}
