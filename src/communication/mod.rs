//! What passes between agents: segments of keys and values, and the trace they make up.

mod fingerprint;
mod segment;
mod trace;
mod trace_file;

pub use fingerprint::Fingerprint;
pub use segment::{Segment, SegmentLayout};
pub use trace::Trace;
pub use trace_file::{StoredTrace, TraceOwner};
