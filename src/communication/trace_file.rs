//! A trace on disk: upstream agents run on one machine, the final agent on another.
//!
//! One safetensors file with a key and a value `[B, G, n, d]` for each segment and layer, and the vectors `[B, 1, M, c]` of each message
//! that has some. Its metadata names the model's sizes, hashes of the weights of model and adapter, the team, and where every position
//! stands.
//!
//! Messages that were rounded ([`MessageDtype`]) stand there as what they were rounded to, keys before the rotary embedding: `bf16` as such;
//! `int8` as whole numbers of 8 bits and `int4` as bytes of two numbers each, the first in the lower half, with the scales of `name` as
//! `name.scale`, in f16, without the last dimension. The metadata then names the `message_dtype`, and the format is another.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{ModelBackend, host_data};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Message, MessageDtype, MessageLayout, ReceivedMessages, SegmentLayout};
use crate::backbone::{BackboneConfig, Positions, RotaryEmbedding};
use crate::checkpoint::{read_raw, read_safetensors_metadata, write_raw};
use crate::error::{Error, Result};

/// Of messages that are passed on as they were computed.
const FORMAT: &str = "diffmas_trace_v1";
/// Of messages that were rounded.
const ROUNDED: &str = "diffmas_trace_v2";
/// The metadata that says what they were rounded to.
const DTYPE: &str = "message_dtype";

/// SHA-256 of weights: teams with the same two read each other's traces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Of the frozen model.
    pub model: String,
    /// Of everything learned.
    pub adapter: String,
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
    /// Vectors that an agent sends, and their width, where the channel has some.
    pub vectors: Option<[usize; 2]>,
    /// What the numbers of messages are rounded to.
    pub dtype: MessageDtype,
}

impl TraceOwner<'_> {
    fn format(&self) -> &'static str {
        if self.dtype == MessageDtype::F32 { FORMAT } else { ROUNDED }
    }

    fn rotary(&self) -> RotaryEmbedding {
        RotaryEmbedding::new(&self.model.rope, self.model.head_dim)
    }
}

/// A message without its tensors, as the file's metadata holds it; lists are row-major.
#[derive(Debug, Serialize, Deserialize)]
struct Layout {
    agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<Standing>,
    /// Width of its vectors, and which of them are seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    vectors: Option<(usize, Vec<bool>)>,
}

/// Where a segment stands.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    prompt_len: usize,
    len: usize,
    position_ids: Vec<u32>,
    valid: Vec<bool>,
}

impl<B: ModelBackend> ReceivedMessages<B> {
    /// Writes the trace to a safetensors file, which appears only when it is complete.
    ///
    /// # Errors
    /// If the file cannot be written.
    ///
    /// # Panics
    /// If a message's sender is not one of the owner's agents.
    pub fn write(&self, path: &Path, owner: TraceOwner<'_>) -> Result<()> {
        let mut tensors = BTreeMap::new();
        let mut layouts = Vec::new();
        for (m, message) in self.messages.iter().enumerate() {
            let segment = message.segment.as_ref().map(|segment| {
                let positions = &segment.kv.positions;
                Standing {
                    prompt_len: segment.prompt_len,
                    len: positions.len,
                    position_ids: positions.ids.clone(),
                    valid: positions.valid.clone(),
                }
            });
            let vectors = message.vectors.as_ref().map(|v| (v.values.dims()[2], v.valid.clone()));
            let names =
                names(m, segment.is_some().then_some(owner.model.num_hidden_layers), vectors.is_some());
            let plain = match owner.dtype {
                MessageDtype::F32 => message.clone(),
                _ => message.clone().unrotated(&owner.rotary()),
            };
            for (name, tensor) in names.into_iter().zip(plain.into_tensors()) {
                let values: Vec<f32> = host_data(tensor.clone()).iter().collect();
                let (numbers, scales) = owner.dtype.pack(&tensor.dims(), &values);
                tensors.extend(scales.map(|scales| (scale_of(&name), scales)));
                tensors.insert(name, numbers);
            }
            layouts.push(Layout { agent: owner.agents[message.sender].to_string(), segment, vectors });
        }
        let metadata = [
            ("format", owner.format().to_string()),
            ("model", Value::Object(sizes(owner.model)).to_string()),
            ("fingerprint", json!(owner.fingerprint).to_string()),
            ("agents", json!(owner.agents).to_string()),
            ("messages", serde_json::to_string(&layouts).map_err(|e| Error::file(path, e))?),
            ("start", json!(self.start).to_string()),
        ];
        let rounded = (owner.dtype != MessageDtype::F32).then(|| (DTYPE, json!(owner.dtype).to_string()));
        let metadata: HashMap<_, _> =
            metadata.into_iter().chain(rounded).map(|(k, v)| (k.to_string(), v)).collect();
        write_raw(path, &tensors, Some(metadata))
    }

    /// Reads what [`ReceivedMessages::write`] wrote, onto `device`.
    ///
    /// # Errors
    /// If the file cannot be read or is cut, is no trace, is one of another model, adapter or team, or holds tensors of other shapes
    /// or numbers that are not finite.
    pub fn read(path: &Path, owner: TraceOwner<'_>, device: &B::Device) -> Result<Self> {
        let about = Metadata { path, map: read_safetensors_metadata(path)? };
        about.check(owner)?;
        let start: Vec<u32> = about.get("start")?;
        let layouts: Vec<Layout> = about.get("messages")?;
        let mut tensors = read_raw(path)?;
        let mut messages = Vec::new();
        for (m, layout) in layouts.into_iter().enumerate() {
            let sender = about.sender(owner, &layout, &start)?;
            let c = owner.model;
            let (rows, layers) = (start.len(), layout.segment.as_ref().map(|_| c.num_hidden_layers));
            let mut read = Vec::new();
            for name in names(m, layers, layout.vectors.is_some()) {
                let shape = match (&layout.segment, &layout.vectors) {
                    (Some(s), _) if name.contains("layers") => {
                        [rows, c.num_key_value_heads, s.len, c.head_dim]
                    }
                    (_, Some((width, valid))) => [rows, 1, valid.len() / rows.max(1), *width],
                    _ => unreachable!("a message has tensors of what it holds"),
                };
                let error = |why: String| Error::file(path, format!("the tensor `{name}` {why}"));
                let numbers = tensors.remove(&name).ok_or_else(|| error("is missing".into()))?;
                let scales = owner.dtype.levels().and_then(|_| tensors.remove(&scale_of(&name)));
                let values = owner.dtype.unpack(&shape, &numbers, scales.as_ref()).map_err(error)?;
                read.push(Tensor::from_data(TensorData::new(values, shape), device));
            }
            let layout = MessageLayout {
                segment: layout.segment.map(|s| SegmentLayout {
                    prompt_len: s.prompt_len,
                    positions: Positions { batch: rows, len: s.len, ids: s.position_ids, valid: s.valid },
                }),
                vectors: layout.vectors.map(|(_, valid)| valid),
            };
            let message = Message::from_tensors(sender, read, &layout);
            messages.push(match owner.dtype {
                MessageDtype::F32 => message,
                _ => message.rotated(&owner.rotary()),
            });
        }
        match tensors.into_keys().next() {
            Some(name) => {
                Err(Error::file(path, format!("the tensor `{name}` belongs to no message of the trace")))
            }
            None => Ok(Self { messages, start }),
        }
    }
}

/// The names of a message's tensors in the file, in the order of [`Message::into_tensors`].
fn names(message: usize, layers: Option<usize>, vectors: bool) -> Vec<String> {
    let block = |l: usize| ["key", "value"].map(|part| format!("messages.{message}.layers.{l}.{part}"));
    let vectors = vectors.then(|| format!("messages.{message}.vectors"));
    (0..layers.unwrap_or(0)).flat_map(block).chain(vectors).collect()
}

/// The name of the scales of the tensor `name`.
fn scale_of(name: &str) -> String {
    format!("{name}.scale")
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
        let format = self.map.get("format").map(String::as_str);
        if ![FORMAT, ROUNDED].map(Some).contains(&format) {
            return wrong(format!("this is no trace: its metadata does not say `format` = `{FORMAT}`"));
        }
        let theirs = if format == Some(FORMAT) { MessageDtype::F32 } else { self.get(DTYPE)? };
        if theirs != owner.dtype {
            return wrong(format!(
                "the messages of the trace are {theirs}, but those of this team are {}; give --message-dtype {theirs}",
                owner.dtype
            ));
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

    /// The index of the upstream agent that sent a message, whose lists are checked: a segment has a position a row at least, and the
    /// reader goes on after all of them.
    fn sender(&self, owner: TraceOwner<'_>, layout: &Layout, start: &[u32]) -> Result<usize> {
        let upstream = &owner.agents[..owner.agents.len() - 1];
        let rows = start.len();
        let stands = layout.segment.as_ref().is_none_or(|s| {
            let count = rows.checked_mul(s.len).filter(|&count| count > 0);
            s.prompt_len <= s.len
                && [s.position_ids.len(), s.valid.len()].map(Some) == [count; 2]
                && s.position_ids.chunks(s.len).zip(s.valid.chunks(s.len)).zip(start).all(
                    |((ids, valid), start)| ids.iter().zip(valid).all(|(id, valid)| !valid || id < start),
                )
        });
        let counted = layout.vectors.as_ref().is_none_or(|(width, valid)| {
            owner.vectors.is_some_and(|[m, c]| *width == c && Some(valid.len()) == rows.checked_mul(m))
        });
        let fits = stands && counted && (layout.segment.is_some() || layout.vectors.is_some());
        upstream.iter().position(|a| *a == layout.agent).filter(|_| fits).ok_or_else(|| {
            let agent = &layout.agent;
            Error::file(
                self.path,
                format!("the metadata `messages` of the trace is wrong for agent `{agent}`"),
            )
        })
    }
}
