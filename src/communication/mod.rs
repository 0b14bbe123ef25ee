//! What passes between agents: segments of keys and values, and the trace they make up.

mod segment;
mod trace;
mod trace_file;

pub use segment::{Segment, SegmentLayout};
pub use trace::Trace;
pub use trace_file::{StoredTrace, TraceOwner};
