//! `NAME.part` beside an output: what is finished of it, kept batch by batch until it is whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::RunState;
use crate::error::{Error, Result};
use crate::files::{append_to, jsonl, open_own, write_with};

/// The field of the first line, which says what run the others are of.
const RUN: &str = "part_of";

/// A file that grows by whole batches. The first line describes the run; the others are the output's.
pub struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// The name of the part of `output`.
    pub fn path(output: &Path) -> PathBuf {
        let mut name = output.as_os_str().to_owned();
        name.push(".part");
        name.into()
    }

    /// Refuses to lose the part of an earlier run, or to go on with one that is not there.
    ///
    /// # Errors
    /// If that would happen.
    pub fn check(output: &Path, state: RunState) -> Result<()> {
        let path = Self::path(output);
        match state {
            RunState::New { overwrite: false } if path.exists() => Err(Error::file(
                path,
                "an earlier run was stopped and left this; go on with it (--resume), or begin anew (--overwrite)",
            )),
            RunState::Resume if !path.exists() && output.exists() => {
                Err(Error::file(output, "there is nothing to resume: the file is complete"))
            }
            _ => Ok(()),
        }
    }

    /// Opens the part of `output` for the run that `run` describes, and returns the lines of an earlier, stopped one to go on with: of so many
    /// as there are, those of whole batches, which `whole` counts.
    ///
    /// # Errors
    /// If the part is of another run, naming a setting that differs, or another process is writing it.
    pub fn open<T: DeserializeOwned>(
        output: &Path,
        state: RunState,
        run: &Map<String, Value>,
        whole: impl Fn(usize) -> usize,
    ) -> Result<(Self, Vec<T>)> {
        let path = Self::path(output);
        let failed = |e: io::Error| Error::file(&path, format!("the file cannot be written: {e}"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = open_own(&path)?;
        match file.try_lock() {
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::file(
                    &path,
                    "another diffmas is writing this file; let it end, or give another --output",
                ));
            }
        }
        let (mut lines, mut end) = (Vec::new(), 0);
        if let RunState::Resume = state {
            let (found, ends) = read(&path, &file, run)?;
            let whole = whole(found.len());
            (lines, end) = (found, ends.get(whole).copied().unwrap_or(0));
            lines.truncate(whole);
        }
        // What comes after belongs to a batch that is done again.
        file.set_len(end).map_err(failed)?;
        let mut part = Self { path: path.clone(), file };
        part.file.seek(SeekFrom::End(0)).map_err(failed)?;
        if end == 0 {
            part.push(&[json!({ RUN: run })])?;
        }
        Ok((part, lines))
    }

    /// Adds the lines of a batch.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn push(&mut self, lines: &[impl Serialize]) -> Result<()> {
        let text = jsonl(&self.path, lines)?;
        append_to(&mut self.file, text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|e| Error::file(&self.path, format!("the file cannot be written: {e}")))
    }

    /// Gives `output` the lines; the part goes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self, output: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::file(&self.path, format!("the file cannot be read: {e}"));
        self.file.rewind().map_err(failed)?;
        let mut lines = BufReader::new(&self.file);
        lines.skip_until(b'\n').map_err(failed)?;
        write_with(output, |file| io::copy(&mut lines, file).map(drop))?;
        self.remove()
    }

    /// Removes the part.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|e| Error::file(&self.path, format!("it cannot be deleted: {e}")))
    }
}

/// The whole lines of a part, the first left out, and where the part ends before each of them and after the last; nothing where not even
/// the first is whole.
fn read<T: DeserializeOwned>(
    path: &Path,
    mut file: &File,
    run: &Map<String, Value>,
) -> Result<(Vec<T>, Vec<u64>)> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| Error::file(path, format!("the file cannot be read: {e}")))?;
    let mut lines = bytes.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n"));
    let Some(first) = lines.next() else { return Ok((Vec::new(), Vec::new())) };
    let theirs =
        serde_json::from_slice::<Value>(first).ok().and_then(|line| line.get(RUN)?.as_object().cloned());
    let Some(theirs) = theirs else {
        return Err(Error::line(
            path,
            1,
            "this is not what a stopped run left; give another --output, or --overwrite",
        ));
    };
    let differs = |name: &&String| theirs.get(*name) != run.get(*name);
    if let Some(name) = run.keys().chain(theirs.keys()).find(differs) {
        let told = |run: &Map<String, Value>| run.get(name).unwrap_or(&Value::Null).to_string();
        let (theirs, ours) = (told(&theirs), told(run));
        let values =
            if theirs.len() + ours.len() < 200 { format!(": {theirs}, here {ours}") } else { String::new() };
        return Err(Error::file(
            path,
            format!(
                "this is of another run, which differs in `{name}`{values}; go on with the settings of that run, or give --overwrite or \
                 another --output"
            ),
        ));
    }
    let mut end = first.len() as u64;
    let (mut found, mut ends) = (Vec::new(), vec![end]);
    for line in lines {
        // A line that is not whole, as after a loss of power, and what comes after it is done again.
        let Ok(line_found) = serde_json::from_slice(line) else { break };
        end += line.len() as u64;
        found.push(line_found);
        ends.push(end);
    }
    Ok((found, ends))
}
