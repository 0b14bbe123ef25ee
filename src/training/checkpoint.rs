//! Checkpoints of a run: adapters, learned feed, optimiser, place in the data. Each appears only when it is complete.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Optimizer, Parameters};
use crate::agents::{AdapterSet, TeamModel};
use crate::backbone::Backbone;
use crate::checkpoint::{read_safetensors, write_atomic, write_folder_atomic, write_safetensors};
use crate::error::{Error, Result};
use crate::text::TokenizedSample;

/// The communication modules' weights and settings, beside the adapter.
const COMMUNICATION: [&str; 2] = ["communication.safetensors", "communication_config.json"];
const LEARNED_FEED: &str = "feed.weight";

/// What a run needs, beside tensors, to go on as if it had not stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Updates done; with the seed, the place in the data.
    pub step: usize,
    /// Seed of the order of samples.
    pub seed: u64,
    /// The training data, to notice that it changed.
    pub data: DataMark,
    /// Updates skipped in a row.
    pub skipped_in_a_row: usize,
}

/// What a checkpoint remembers of the training data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataMark {
    /// How many samples there are.
    pub samples: usize,
    /// SHA-256 of all prompts and targets.
    pub sha256: String,
}

impl DataMark {
    /// The mark of `samples`.
    pub fn new(samples: &[TokenizedSample]) -> Self {
        let mut hash = Sha256::new();
        for sample in samples {
            let target = sample.target.iter();
            for ids in sample.prompts.iter().chain(target) {
                // With the length before them, ids cannot move from one list to the next unseen.
                hash.update((ids.len() as u64).to_le_bytes());
                hash.update(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        Self { samples: samples.len(), sha256: format!("{:x}", hash.finalize()) }
    }
}

/// Settings of the communication modules that a folder holds.
#[derive(Debug, Serialize, Deserialize)]
struct CommunicationConfig {
    feed: String,
    hidden_size: usize,
}

/// Writes the learned feed into `dir`, where the team has one.
///
/// # Errors
/// If a file cannot be written.
pub fn write_feed<B: ModelBackend>(
    dir: &Path,
    model: &TeamModel<B>,
    parameters: &Parameters<B>,
) -> Result<()> {
    if model.feed.learned.is_none() {
        return Ok(());
    }
    let w = parameters.get("feed.learned");
    let tensors = BTreeMap::from([(
        LEARNED_FEED.to_string(),
        (w.dims().to_vec(), w.to_data().iter::<f32>().collect()),
    )]);
    write_safetensors(&dir.join(COMMUNICATION[0]), &tensors, None)?;
    let config = CommunicationConfig { feed: "learned".into(), hidden_size: w.dims()[0] };
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::file(dir, e))?;
    write_atomic(&dir.join(COMMUNICATION[1]), text.as_bytes())
}

/// The learned feed that [`write_feed`] left in `dir`; none where it left none.
///
/// # Errors
/// If the files are damaged or of a model of another width.
pub fn read_feed<B: ModelBackend>(dir: &Path, backbone: &Backbone<B>) -> Result<Option<Tensor<B, 2>>> {
    let path = dir.join(COMMUNICATION[0]);
    if !path.exists() {
        return Ok(None);
    }
    let d = backbone.config.hidden_size;
    match read_safetensors(&path)?.remove(LEARNED_FEED) {
        Some((shape, data)) if shape == [d, d] => {
            Ok(Some(Tensor::from_data(TensorData::new(data, [d, d]), &backbone.device())))
        }
        Some((shape, _)) => {
            Err(Error::file(&path, format!("`{LEARNED_FEED}` is {shape:?}, but this model needs [{d}, {d}]")))
        }
        None => Err(Error::file(&path, format!("there is no tensor `{LEARNED_FEED}`"))),
    }
}

/// Writes `checkpoints/step-N` below `output`, and deletes the oldest beyond `keep`.
///
/// # Errors
/// If a file cannot be written; an earlier checkpoint is then still whole.
pub fn write_checkpoint<B: ModelBackend>(
    output: &Path,
    model: &TeamModel<B>,
    adapters: &AdapterSet<B>,
    parameters: &Parameters<B>,
    optimizer: &Optimizer<B>,
    state: &CheckpointState,
    keep: Option<usize>,
) -> Result<PathBuf> {
    let dir = output.join("checkpoints").join(format!("step-{}", state.step));
    write_folder_atomic(&dir, |dir| {
        adapters.bind(parameters).write(&dir.join("adapter"))?;
        write_feed(dir, model, parameters)?;
        write_safetensors(&dir.join("optimizer.safetensors"), &optimizer.to_host(), None)?;
        let text = serde_json::to_string_pretty(state).map_err(|e| Error::file(dir, e))?;
        write_atomic(&dir.join("state.json"), text.as_bytes())
    })?;
    if let Some(keep) = keep {
        for (_, old) in checkpoints(output).into_iter().skip(keep) {
            fs::remove_dir_all(&old).map_err(|e| Error::file(&old, e))?;
        }
    }
    Ok(dir)
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

/// Reads the newest whole checkpoint below `output` into `optimizer` and returns parameters and state; damaged ones are passed over
/// with a warning. `None` where there is no checkpoint.
///
/// # Errors
/// If there are checkpoints and none can be read: what is wrong with the newest.
pub fn read_checkpoint<B: ModelBackend>(
    output: &Path,
    model: &TeamModel<B>,
    adapters: &AdapterSet<B>,
    optimizer: &mut Optimizer<B>,
) -> Result<Option<(Parameters<B>, CheckpointState)>> {
    let mut first_error = None;
    for (_, dir) in checkpoints(output) {
        match read_one(&dir, model, adapters, optimizer) {
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

fn read_one<B: ModelBackend>(
    dir: &Path,
    model: &TeamModel<B>,
    adapters: &AdapterSet<B>,
    optimizer: &mut Optimizer<B>,
) -> Result<(Parameters<B>, CheckpointState)> {
    let path = dir.join("state.json");
    let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let state: CheckpointState = serde_json::from_str(&text).map_err(|e| Error::file(&path, e))?;
    let stored =
        AdapterSet::read(&dir.join("adapter"), Some(adapters.scope), &model.config, &model.backbone)?;
    let mut parameters = stored.parameters();
    if model.feed.learned.is_some() {
        let feed = read_feed(dir, &model.backbone)?
            .ok_or_else(|| Error::file(dir, format!("there is no {}", COMMUNICATION[0])))?;
        parameters.insert("feed.learned".into(), feed);
    }
    let path = dir.join("optimizer.safetensors");
    optimizer.load(read_safetensors(&path)?, &parameters).map_err(|e| Error::file(&path, e))?;
    Ok((parameters, state))
}
