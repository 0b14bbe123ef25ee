//! A trace on disk: upstream agents think on one machine, the final agent answers on another.
//!
//! One safetensors file with a key and a value `[B, G, n, d]` for each segment and layer. Its metadata names the model's sizes, hashes
//! of the weights of model and adapter, the team, and where every position stands.

use std::collections::HashMap;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::KeyValueBlock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Fingerprint, Segment, Trace};
use crate::backbone::{BackboneConfig, KeyValues, Positions};
use crate::checkpoint::weights::first_non_finite;
use crate::checkpoint::{NamedTensors, read_safetensors, read_safetensors_metadata, write_safetensors};
use crate::error::{Error, Result};

const FORMAT: &str = "diffmas_trace_v1";

/// A trace, and where its reader goes on.
#[derive(Clone, Debug)]
pub struct StoredTrace<B: Backend> {
    /// What the upstream agents left.
    pub trace: Trace<B>,
    /// Per row, the id of the final agent's first position.
    pub start: Vec<u32>,
}

/// Whose traces a file may hold: model, adapter and team must be the same where it is written and where it is read.
#[derive(Clone, Copy, Debug)]
pub struct TraceOwner<'a> {
    /// The model's sizes.
    pub model: &'a BackboneConfig,
    /// The weights of model and adapter.
    pub fingerprint: &'a Fingerprint,
    /// The agents' names in order, the final one last.
    pub agents: &'a [&'a str],
}

/// Where a segment stands, as the file's metadata holds it; lists are row-major.
#[derive(Debug, Serialize, Deserialize)]
struct Layout {
    agent: String,
    prompt_len: usize,
    len: usize,
    position_ids: Vec<u32>,
    valid: Vec<bool>,
}

impl<B: Backend> StoredTrace<B> {
    /// Writes the trace to a safetensors file, which appears only when it is complete.
    ///
    /// # Errors
    /// If the file cannot be written.
    ///
    /// # Panics
    /// If a segment's sender is not one of the owner's agents.
    pub fn write(&self, path: &Path, owner: TraceOwner<'_>) -> Result<()> {
        let mut tensors = NamedTensors::new();
        let mut layouts = Vec::new();
        for (s, segment) in self.trace.segments.iter().enumerate() {
            for (l, block) in segment.kv.layers.iter().enumerate() {
                for (part, tensor) in [("key", &block.key), ("value", &block.value)] {
                    let values = tensor.to_data().iter::<f32>().collect();
                    tensors.insert(name(s, l, part), (tensor.dims().to_vec(), values));
                }
            }
            let positions = &segment.kv.positions;
            layouts.push(Layout {
                agent: owner.agents[segment.sender].to_string(),
                prompt_len: segment.prompt_len,
                len: positions.len,
                position_ids: positions.ids.clone(),
                valid: positions.valid.clone(),
            });
        }
        let metadata = [
            ("format", FORMAT.to_string()),
            ("model", Value::Object(sizes(owner.model)).to_string()),
            ("fingerprint", json!(owner.fingerprint).to_string()),
            ("agents", json!(owner.agents).to_string()),
            ("segments", serde_json::to_string(&layouts).map_err(|e| Error::file(path, e))?),
            ("start", json!(self.start).to_string()),
        ];
        let metadata: HashMap<_, _> = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        write_safetensors(path, &tensors, Some(metadata))
    }

    /// Reads what [`StoredTrace::write`] wrote, onto `device`.
    ///
    /// # Errors
    /// If the file cannot be read or is cut, is no trace, is one of another model, adapter or team, or holds tensors of other shapes
    /// or numbers that are not finite.
    pub fn read(path: &Path, owner: TraceOwner<'_>, device: &B::Device) -> Result<Self> {
        let about = Metadata { path, map: read_safetensors_metadata(path)? };
        about.check(owner)?;
        let start: Vec<u32> = about.get("start")?;
        let layouts: Vec<Layout> = about.get("segments")?;
        let mut tensors = read_safetensors(path)?;
        let mut trace = Trace::default();
        for (s, layout) in layouts.into_iter().enumerate() {
            let sender = about.sender(owner, &layout, &start)?;
            let (heads, width) = (owner.model.num_key_value_heads, owner.model.head_dim);
            let shape = [start.len(), heads, layout.len, width];
            let mut tensor = |layer: usize, part: &str| -> Result<Tensor<B, 4>> {
                let name = name(s, layer, part);
                let error = |why: String| Error::file(path, format!("the tensor `{name}` {why}"));
                let (found, values) = tensors.remove(&name).ok_or_else(|| error("is missing".into()))?;
                if found != shape {
                    return Err(error(format!("has the shape {found:?} instead of {shape:?}")));
                }
                if let Some(at) = first_non_finite(&values) {
                    return Err(error(format!("is not finite: its value {at} is {}", values[at])));
                }
                Ok(Tensor::from_data(TensorData::new(values, shape), device))
            };
            let layers = (0..owner.model.num_hidden_layers)
                .map(|l| Ok(KeyValueBlock { key: tensor(l, "key")?, value: tensor(l, "value")? }))
                .collect::<Result<_>>()?;
            let positions = Positions {
                batch: start.len(),
                len: layout.len,
                ids: layout.position_ids,
                valid: layout.valid,
            };
            let kv = KeyValues { layers, positions };
            trace = trace.push(Segment { sender, prompt_len: layout.prompt_len, kv });
        }
        match tensors.into_keys().next() {
            Some(name) => {
                Err(Error::file(path, format!("the tensor `{name}` belongs to no segment of the trace")))
            }
            None => Ok(Self { trace, start }),
        }
    }
}

/// The name of one tensor in the file.
fn name(segment: usize, layer: usize, part: &str) -> String {
    format!("segments.{segment}.layers.{layer}.{part}")
}

/// What two models must have in common to read each other's keys and values.
fn sizes(c: &BackboneConfig) -> Map<String, Value> {
    let all = json!({
        "model_type": format!("{:?}", c.family).to_lowercase(),
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim,
        "rope": format!("{:?}", c.rope),
    });
    all.as_object().cloned().unwrap_or_default()
}

/// The metadata of a file that is being read.
struct Metadata<'a> {
    path: &'a Path,
    map: HashMap<String, String>,
}

impl Metadata<'_> {
    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let text = self.map.get(name).map_or("", String::as_str);
        serde_json::from_str(text).map_err(|e| {
            Error::file(self.path, format!("the metadata `{name}` of the trace cannot be used: {e}"))
        })
    }

    /// Refuses what is no trace, or one of another model or team.
    fn check(&self, owner: TraceOwner<'_>) -> Result<()> {
        let wrong = |message: String| Err(Error::file(self.path, message));
        if self.map.get("format").map(String::as_str) != Some(FORMAT) {
            return wrong(format!("this is no trace: its metadata does not say `format` = `{FORMAT}`"));
        }
        let model: Map<String, Value> = self.get("model")?;
        for (field, ours) in sizes(owner.model) {
            let theirs = model.get(&field).unwrap_or(&Value::Null);
            if *theirs != ours {
                return wrong(format!(
                    "the trace is of another model: its `{field}` is {theirs}, that of --model is {ours}"
                ));
            }
        }
        let (theirs, ours) = (self.get::<Fingerprint>("fingerprint")?, owner.fingerprint);
        for (what, theirs, ours) in
            [("model", &theirs.model, &ours.model), ("adapter", &theirs.adapter, &ours.adapter)]
        {
            if theirs != ours {
                return wrong(format!(
                    "the trace was written with other weights of the {what} (SHA-256 {theirs:.12}…) than this run has \
                     ({ours:.12}…); give the --model and --adapter that wrote it"
                ));
            }
        }
        let agents: Vec<String> = self.get("agents")?;
        if agents != owner.agents {
            let (theirs, ours) = (agents.join(", "), owner.agents.join(", "));
            return wrong(format!("the trace is of another team ({theirs}) than this one ({ours})"));
        }
        Ok(())
    }

    /// The index of the upstream agent that wrote a segment, whose lists are checked: they have a position a row at least, and the
    /// reader goes on after all of them.
    fn sender(&self, owner: TraceOwner<'_>, layout: &Layout, start: &[u32]) -> Result<usize> {
        let upstream = &owner.agents[..owner.agents.len() - 1];
        let Layout { prompt_len, len, position_ids, valid, .. } = layout;
        let count = start.len().checked_mul(*len).filter(|&count| count > 0);
        let fits =
            prompt_len <= len
                && [position_ids.len(), valid.len()].map(Some) == [count; 2]
                && position_ids.chunks(*len).zip(valid.chunks(*len)).zip(start).all(
                    |((ids, valid), start)| ids.iter().zip(valid).all(|(id, valid)| !valid || id < start),
                );
        upstream.iter().position(|a| *a == layout.agent).filter(|_| fits).ok_or_else(|| {
            let agent = &layout.agent;
            Error::file(
                self.path,
                format!("the metadata `segments` of the trace is wrong for agent `{agent}`"),
            )
        })
    }
}
