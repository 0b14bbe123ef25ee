//! Which weights a model has, whatever kind of file holds them: one hash over all its tensors.

use std::fs;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::Weights;
use super::hub::cache_root;
use super::weights::{CHUNK, missing};
use crate::error::Result;
use crate::files::write_atomic;

/// SHA-256 over names, shapes and values (as little-endian f32) of the tensors `names`, in the order given; files of other precision that
/// hold the same numbers have the same hash.
///
/// The hash is kept in the cache under the files' paths, sizes and times, and read there as long as those are the same.
///
/// # Errors
/// If a tensor is missing or cannot be read.
pub fn sha256_of_weights(weights: &dyn Weights, names: &[String]) -> Result<String> {
    let known = cache_root().ok().zip(key(weights)).map(|(root, key)| root.join("fingerprints").join(key));
    let kept = known.as_ref().and_then(|path| fs::read_to_string(path).ok());
    if let Some(hash) = kept.filter(|hash| hash.len() == 64) {
        return Ok(hash);
    }
    let each: Vec<Vec<u8>> = names.par_iter().map(|name| one(weights, name)).collect::<Result<_>>()?;
    let mut all = Sha256::new();
    each.iter().for_each(|hash| all.update(hash));
    let hash = format!("{:x}", all.finalize());
    if let Some(path) = known {
        // A cache that cannot be written costs time, nothing else.
        let _ = write_atomic(&path, hash.as_bytes());
    }
    Ok(hash)
}

/// The hash of one tensor.
fn one(weights: &dyn Weights, name: &str) -> Result<Vec<u8>> {
    let shape = weights.shape(name).ok_or_else(|| missing(weights.path(), name))?;
    let mut hash = Sha256::new();
    hash.update(format!("{name} {shape:?} "));
    let count = weights.count(name)?;
    let (mut values, mut bytes) = (vec![0.0; CHUNK.min(count)], Vec::new());
    for from in (0..count).step_by(CHUNK) {
        let values = &mut values[..CHUNK.min(count - from)];
        weights.read_values(name, from, values)?;
        bytes.clear();
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        hash.update(&bytes);
    }
    Ok(hash.finalize().to_vec())
}

/// A name for the files as they are now; none where the system does not tell.
fn key(weights: &dyn Weights) -> Option<String> {
    let mut hash = Sha256::new();
    for path in weights.files() {
        let path = fs::canonicalize(path).ok()?;
        hash.update(format!("{} {}\n", path.display(), state(&path)?));
    }
    Some(format!("{:x}", hash.finalize()))
}

/// Size and times of a file. The time of its last change of any kind cannot be set back, as that of its content can.
#[cfg(unix)]
fn state(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let m = fs::metadata(path).ok()?;
    let (changed, modified) = ((m.ctime(), m.ctime_nsec()), (m.mtime(), m.mtime_nsec()));
    Some(format!("{} {} {changed:?} {modified:?}", m.len(), m.ino()))
}

#[cfg(not(unix))]
fn state(path: &Path) -> Option<String> {
    let m = fs::metadata(path).ok()?;
    Some(format!("{} {:?}", m.len(), m.modified().ok()?))
}
