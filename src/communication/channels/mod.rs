//! The channels of the library, a file each; `channel_kind.rs` lists them.

mod hybrid;
mod overwrite;
mod text;
mod trace;
mod vectors;

pub use hybrid::HybridChannel;
pub use overwrite::{OverwriteChannel, OverwriteSettings, OverwriteUpdate};
pub use text::NoChannel;
pub use trace::TraceChannel;
pub use vectors::VectorsChannel;
