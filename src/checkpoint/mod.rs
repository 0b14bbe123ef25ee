//! Weights and adapters on disk: Hugging Face safetensors, GGUF and PEFT folders, without any tensor library.

pub mod adapter_config;
mod candle_error;
mod fingerprint;
pub mod gguf;
pub(crate) mod hash;
pub mod hub;
pub mod peft;
pub mod safetensors;
pub mod target_modules;
pub mod weights;

pub use adapter_config::AdapterConfig;
pub use candle_error::candle_message;
pub use fingerprint::sha256_of_weights;
pub use gguf::GgufWeights;
pub use hub::{Transfer, fetch, resolve_adapter, resolve_model};
pub use peft::AdapterFile;
pub use safetensors::{
    NamedTensors, SafetensorsWeights, StoredType, read_safetensors, read_safetensors_metadata,
    write_safetensors, write_tensors,
};
pub use target_modules::TargetModules;
pub use weights::{WeightTable, Weights};
