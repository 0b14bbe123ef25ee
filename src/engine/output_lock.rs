//! Output folders: one process at a time writes to one, and none is deleted by mistake.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{follow, open_own, remove_leftovers};

/// The file that a process locks while it writes to a folder. The system releases it when the process ends, however it ends.
const LOCK: &str = ".diffmas.lock";

/// What the output folder of an earlier run holds at least one of.
const TRACES_OF_A_RUN: [&str; 8] = [
    "config.toml",
    "checkpoints",
    "results.json",
    "samples.jsonl",
    "samples.jsonl.part",
    "demo.toml",
    "team.toml",
    "bench.json",
];

/// What a run finds in its output folder.
#[derive(Clone, Copy, Debug)]
pub enum RunState {
    /// Nothing, or an earlier run.
    New {
        /// Whether the earlier run may be replaced.
        overwrite: bool,
    },
    /// A run to go on with.
    Resume,
}

impl RunState {
    /// As the settings `resume` and `overwrite` say; resuming replaces nothing.
    pub fn of(resume: bool, overwrite: bool) -> Self {
        if resume { Self::Resume } else { Self::New { overwrite } }
    }
}

/// An output folder that no other process writes to.
#[derive(Debug)]
pub struct OutputLock {
    dir: PathBuf,
    made: bool,
    resumed: bool,
    _lock: Option<File>,
}

impl OutputLock {
    /// Locks `dir` for a new run: it must be absent or empty.
    ///
    /// # Errors
    /// As [`OutputLock::new_run`].
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        Self::new_run(dir.as_ref(), false, "give another folder")
    }

    /// Locks `dir` for a new run: it must be absent or empty, or be the output of an earlier run where `overwrite` is given. Nothing
    /// is deleted yet; `hint` says what to do about a folder that is not empty.
    ///
    /// # Errors
    /// If the folder holds something else, cannot be made, or another process writes to it.
    pub fn new_run(dir: &Path, overwrite: bool, hint: &str) -> Result<Self> {
        if dir.as_os_str().is_empty() {
            return Err(Error::invalid("output is empty; give the name of a folder"));
        }
        if dir.exists() && !dir.is_dir() {
            return Err(Error::file(dir, "the output must be a folder, but this is a file"));
        }
        let made = !dir.exists();
        if made {
            // A link whose target is lacking gets one.
            fs::create_dir_all(follow(dir)?)
                .map_err(|e| Error::file(dir, format!("the output folder cannot be made: {e}")))?;
        }
        // A run in progress is the better answer than a folder that is not empty; one that was killed as it began left nothing whole.
        let claimed = dir.join(LOCK).exists().then(|| lock(dir)).transpose()?;
        if claimed.is_some() {
            remove_leftovers(dir)?;
        }
        let holds = entries(dir)?;
        if !holds.is_empty() && !overwrite {
            return Err(Error::file(dir, format!("the output folder is not empty; {hint}")));
        }
        if !holds.is_empty() && !TRACES_OF_A_RUN.iter().any(|name| dir.join(name).exists()) {
            let why = "the folder is not empty and holds no earlier run (no config.toml, no results.json), so that --overwrite \
                       leaves it alone; give another --output";
            return Err(Error::file(dir, why));
        }
        let lock = claimed.map_or_else(|| lock(dir), Ok)?;
        Ok(Self { dir: dir.to_path_buf(), made, resumed: false, _lock: Some(lock) })
    }

    /// Locks the folder of an earlier run, to go on with it.
    ///
    /// # Errors
    /// If another process writes to it.
    pub fn resumed(dir: &Path) -> Result<Self> {
        Ok(Self { dir: dir.to_path_buf(), made: false, resumed: true, _lock: Some(lock(dir)?) })
    }

    /// The folder as a process sees it that does not write: the first one of its job has locked it.
    pub fn of_first_process(dir: &Path, state: RunState) -> Self {
        let resumed = matches!(state, RunState::Resume);
        Self { dir: dir.to_path_buf(), made: false, resumed, _lock: None }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether an earlier run goes on in it.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Refuses to delete any of `inputs`, which `--overwrite` would do with those inside the folder.
    ///
    /// # Errors
    /// Naming the input.
    pub fn keep_inputs<'a>(&self, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        let Ok(dir) = self.dir.canonicalize() else { return Ok(()) };
        match inputs.into_iter().find(|path| path.canonicalize().is_ok_and(|path| path.starts_with(&dir))) {
            Some(input) => {
                let why =
                    format!("--overwrite would delete this input, which lies in {}", self.dir.display());
                Err(Error::file(input, format!("{why}; give another --output")))
            }
            None => Ok(()),
        }
    }

    /// Deletes what the folder holds.
    ///
    /// # Errors
    /// If something cannot be deleted.
    pub fn clear(&self) -> Result<()> {
        self.clear_but(&[])
    }

    /// Deletes what the folder holds beside what is called one of `kept`.
    ///
    /// # Errors
    /// If something cannot be deleted.
    pub fn clear_but(&self, kept: &[&str]) -> Result<()> {
        let goes = |path: &PathBuf| !kept.iter().any(|&name| path.file_name().is_some_and(|own| own == name));
        for path in entries(&self.dir)?.into_iter().filter(goes) {
            let removed = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|e| Error::file(&path, format!("it cannot be deleted: {e}")))?;
        }
        Ok(())
    }
}

impl Drop for OutputLock {
    /// A folder that was made for a run which then wrote nothing goes again.
    fn drop(&mut self) {
        if self.made && entries(&self.dir).is_ok_and(|holds| holds.is_empty()) {
            let _ = fs::remove_file(self.dir.join(LOCK)).and_then(|()| fs::remove_dir(&self.dir));
        }
    }
}

/// What a folder holds beside the lock.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: io::Error| Error::file(dir, format!("the output folder cannot be read: {e}"));
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != LOCK {
            all.push(entry.path());
        }
    }
    Ok(all)
}

fn lock(dir: &Path) -> Result<File> {
    let file = open_own(&dir.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::file(
                dir,
                "another diffmas is writing to this folder; let it end, or give another --output",
            ));
        }
        // Some network file systems have no locks; a run there is worth more than the guard.
        Err(TryLockError::Error(e)) => tracing::warn!("{}: the folder cannot be locked: {e}", dir.display()),
    }
    Ok(file)
}
