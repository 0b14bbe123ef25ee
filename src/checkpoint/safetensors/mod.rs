//! Safetensors files: single or sharded through an index, read as f32, written one tensor at a time.

mod index;
mod raw;
mod read;
mod write;

pub(super) use index::{INDEX, SINGLE, is_within, weight_map};
pub(crate) use raw::{RawTensor, write_raw};
pub(crate) use read::read_raw;
pub use read::{SafetensorsWeights, read_safetensors, read_safetensors_metadata};
pub use write::{NamedTensors, StoredType, write_safetensors, write_tensors};
