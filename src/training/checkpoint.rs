//! Checkpoints of a run: adapters, communication modules, optimiser, place in the data. Each appears only when it is complete.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Optimizer, RunSettings};
use crate::agents::TeamModel;
use crate::checkpoint::hash::sha256_of;
use crate::checkpoint::{NamedTensors, read_safetensors, write_safetensors};
use crate::error::{Error, Result};
use crate::files::{MAX_TEXT, read_text, write_atomic, write_folder_atomic};
use crate::text::TokenizedSample;

/// The folder of a run or a checkpoint that holds what was learned.
pub const ADAPTER: &str = "adapter";

/// The SHA-256 of every other file of a checkpoint.
const MANIFEST: &str = "manifest.json";

/// What a run needs, beside tensors, to go on as if it had not stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Updates done; with the seed, the place in the data.
    pub step: usize,
    /// The training data, to notice that it changed.
    pub data: DataMark,
    /// Updates skipped in a row.
    pub skipped_in_a_row: usize,
    /// What it is trained with.
    pub settings: RunSettings,
}

/// What a checkpoint remembers of the training data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataMark {
    /// How many samples there are.
    pub samples: usize,
    /// SHA-256 of all prompts, targets, trajectories and, where there are any, prompts of the teacher, and of which of them are questions of
    /// one line.
    pub sha256: String,
}

impl DataMark {
    /// The mark of `samples`.
    pub fn new(samples: &[TokenizedSample]) -> Self {
        let mut hash = Sha256::new();
        for sample in samples {
            if sample.question > 1 {
                // It reads the message of the one before it; no list is so long.
                hash.update((u64::MAX - 1).to_le_bytes());
            }
            let lists = sample.prompts.iter().map(Some).chain([sample.target.as_ref()]);
            let trajectories = sample.trajectories.iter().map(Option::as_ref);
            for ids in lists.chain(trajectories).chain(sample.teacher.as_ref().map(Some)) {
                // With its length before it, and a mark for one that is not there, no list can become another's unseen.
                hash.update(ids.map_or(u64::MAX, |ids| ids.len() as u64).to_le_bytes());
                hash.update(ids.into_iter().flatten().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        Self { samples: samples.len(), sha256: format!("{:x}", hash.finalize()) }
    }
}

/// Writes `checkpoints/step-N` below `output`, what was learned in its `adapter` by `write_learned`, beside it the tensors of the optimiser, and
/// deletes the oldest beyond `keep`.
///
/// # Errors
/// If a file cannot be written; an earlier checkpoint is then still whole.
pub fn write_checkpoint(
    output: &Path,
    write_learned: impl Fn(&Path) -> Result<()>,
    optimizer: &NamedTensors,
    state: &CheckpointState,
    keep: Option<usize>,
) -> Result<PathBuf> {
    let dir = output.join("checkpoints").join(format!("step-{}", state.step));
    write_folder_atomic(&dir, |dir| {
        write_learned(&dir.join(ADAPTER))?;
        write_safetensors(&dir.join("optimizer.safetensors"), optimizer, None)?;
        let text = serde_json::to_string_pretty(state).map_err(|e| Error::file(dir, e))?;
        write_atomic(&dir.join("state.json"), text.as_bytes())?;
        let manifest = manifest(dir).map_err(|e| Error::file(dir, e))?;
        let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::file(dir, e))?;
        write_atomic(&dir.join(MANIFEST), text.as_bytes())
    })?;
    if let Some(keep) = keep {
        for (_, old) in checkpoints(output).into_iter().skip(keep) {
            fs::remove_dir_all(&old).map_err(|e| Error::file(&old, e))?;
        }
    }
    Ok(dir)
}

/// The SHA-256 of every file below `dir`, by its path there.
fn manifest(dir: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let (mut all, mut folders) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).expect("it is below").to_string_lossy().replace('\\', "/");
            if name != MANIFEST {
                all.insert(name, sha256_of(&path)?);
            }
        }
    }
    Ok(all)
}

/// Refuses a checkpoint in which a file is not as it was written.
fn check_manifest(dir: &Path) -> Result<()> {
    let path = dir.join(MANIFEST);
    let text = read_text(&path, MAX_TEXT).map_err(|e| Error::file(&path, e))?;
    let written: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|e| Error::file(&path, e))?;
    let found = manifest(dir).map_err(|e| Error::file(dir, e))?;
    for name in written.keys().chain(found.keys()) {
        let what = match (written.get(name), found.get(name)) {
            (Some(written), Some(found)) if written == found => continue,
            (Some(_), Some(_)) => "the file is damaged: its SHA-256 is not the one in manifest.json",
            (Some(_), None) => "the file is missing",
            (None, _) => "the file is not one of this checkpoint's: manifest.json does not name it",
        };
        return Err(Error::file(dir.join(name), what));
    }
    Ok(())
}

/// The checkpoints below `output`, newest first.
fn checkpoints(output: &Path) -> Vec<(usize, PathBuf)> {
    let mut found: Vec<(usize, PathBuf)> = fs::read_dir(output.join("checkpoints"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?, e.path())))
        .collect();
    found.sort_by_key(|&(step, _)| std::cmp::Reverse(step));
    found
}

/// Reads the newest whole checkpoint below `output` into `optimizer` and returns its state; damaged ones are passed over
/// with a warning. `None` where there is no checkpoint.
///
/// # Errors
/// What `accept` says of the newest whole one's state; or, if there are checkpoints and none can be read, what is wrong with the newest.
pub fn read_checkpoint<B: ModelBackend>(
    output: &Path,
    model: &TeamModel<B>,
    optimizer: &mut Optimizer<B>,
    mut accept: impl FnMut(&CheckpointState) -> Result<()>,
) -> Result<Option<CheckpointState>> {
    let mut first_error = None;
    for (_, dir) in checkpoints(output) {
        let state = read_state(&dir);
        if let Ok(state) = &state {
            accept(state)?;
        }
        let read = state.and_then(|state| read_parameters(&dir, model, optimizer).map(|()| state));
        match read {
            Ok(read) => {
                if first_error.is_some() {
                    tracing::warn!("going on from the earlier checkpoint {}", dir.display());
                }
                return Ok(Some(read));
            }
            Err(e) => {
                tracing::warn!("the checkpoint {} cannot be used: {e}", dir.display());
                first_error.get_or_insert(e);
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}

fn read_state(dir: &Path) -> Result<CheckpointState> {
    check_manifest(dir)?;
    let path = dir.join("state.json");
    let text = read_text(&path, MAX_TEXT).map_err(|e| Error::file(&path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(&path, e))
}

fn read_parameters<B: ModelBackend>(
    dir: &Path,
    model: &TeamModel<B>,
    optimizer: &mut Optimizer<B>,
) -> Result<()> {
    let parameters = model.read(&dir.join(ADAPTER))?;
    let path = dir.join("optimizer.safetensors");
    optimizer.load(read_safetensors(&path)?, &parameters).map_err(|e| Error::file(&path, e))
}
