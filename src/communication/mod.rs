//! What passes between agents: segments of keys and values, and the trace they make up.

mod segment;
mod trace;

pub use segment::{Segment, SegmentLayout};
pub use trace::Trace;
