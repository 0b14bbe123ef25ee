//! Weights and adapters on disk: Hugging Face safetensors, GGUF and PEFT folders, without any tensor library.

mod adapter_config;
mod candle_error;
mod fingerprint;
pub(crate) mod gguf;
mod gguf_parts;
pub(crate) mod hash;
pub mod hub;
pub mod peft;
mod safetensors;
mod saved_modules;
pub mod target_modules;
mod weights;

pub use adapter_config::AdapterConfig;
pub(crate) use candle_error::candle_message;
pub(crate) use fingerprint::sha256_of_weights;
pub use gguf::GgufWeights;
pub use hub::{Transfer, fetch, fetch_wheel, resolve_adapter, resolve_data, resolve_model};
pub(crate) use peft::AdapterFile;
pub use safetensors::{
    NamedTensors, SafetensorsWeights, StoredType, read_safetensors, write_safetensors, write_tensors,
};
pub(crate) use safetensors::{RawTensor, read_raw, read_safetensors_metadata, write_raw};
pub(crate) use saved_modules::SavedModules;
pub use target_modules::TargetModules;
pub use weights::Weights;
pub(crate) use weights::{EMBEDDING, HEAD, WeightTable, first_non_finite};
