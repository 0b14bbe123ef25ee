//! Under which names a folder holds its weights, and the index of those in several files.

use crate::error::Result;
use crate::files::Fields;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// Weights in one file.
pub(in crate::checkpoint) const SINGLE: &str = "model.safetensors";
/// Which file of several holds each tensor.
pub(in crate::checkpoint) const INDEX: &str = "model.safetensors.index.json";

/// The shard that holds each tensor, as the index `fields` says.
///
/// # Errors
/// When it does not say so, or names a file outside its folder.
pub(in crate::checkpoint) fn weight_map(fields: &Fields) -> Result<BTreeMap<String, String>> {
    let map: BTreeMap<String, String> = fields.require("weight_map")?;
    match map.values().find(|shard| !is_within(shard)) {
        Some(shard) => Err(fields
            .error("weight_map", format!("names the shard `{shard}`, which does not lie in the folder"))),
        None => Ok(map),
    }
}

/// Whether `text` is a relative path that stays below where it starts.
pub(in crate::checkpoint) fn is_within(text: &str) -> bool {
    let inner = |part: Component| matches!(part, Component::Normal(_));
    !text.is_empty() && !text.contains('\\') && Path::new(text).components().all(inner)
}
