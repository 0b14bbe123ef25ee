//! Output folders and files that appear only when they are complete.

use std::fs;
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
