//! The frozen decoder-only transformer that all agents share: Llama, Mistral, Qwen2 and Qwen3, written on Burn tensors.
//!
//! It knows nothing of agents: it reads blocks of keys and values and returns those of the positions it was given; a [`ResidualHook`] may add
//! to what enters a layer.

mod adapter;
mod attention;
mod block;
mod config;
mod decode_cache;
#[cfg(all(test, feature = "flex"))]
mod fixtures;
mod growing;
mod hook;
mod key_values;
mod linear;
mod load;
mod lora;
mod lora_dropout;
mod merge;
mod mlp;
mod model;
mod norm;
mod opened_with;
mod parameter_spec;
mod parameters;
mod positions;
mod precision;
mod random_weights;
mod rope;
mod rows;
mod saved_modules;
mod tensors;

pub use adapter::{Adapter, AdapterLayout};
pub use attention::Attention;
pub use block::Block;
pub use config::{BackboneConfig, Family, RopeConfig, RopeScaling};
pub use decode_cache::DecodeCache;
pub use growing::GrowingKeyValues;
pub use hook::{Passed, Recorder, ResidualHook};
pub use key_values::KeyValues;
pub use linear::Linear;
pub use load::ModelFiles;
pub use lora::{ActiveLora, Lora, LoraStack};
pub use lora_dropout::{LoraDropout, RowKeys};
pub use merge::merge;
pub use mlp::Mlp;
pub use model::Backbone;
pub use norm::RmsNorm;
pub use opened_with::OpenedWith;
pub use parameter_spec::{ParameterGroup, ParameterSpec, ParameterSpecs, Pull};
pub use parameters::{Parameters, frobenius};
pub use positions::Positions;
pub use precision::{ComputeDtype, Precision, WeightDtype};
pub use rope::RotaryEmbedding;
pub(crate) use rows::select_rows;
