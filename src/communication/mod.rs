//! What passes between agents: messages of keys and values, of learned vectors, or of both; and the channels that make and read them.

mod channel;
mod channels;
mod cross_attention;
mod encoder;
mod init;
mod message;
mod segment;
mod thought;
mod trace;
mod trace_file;

pub use channel::{Channel, ChannelPair, Reading, SharedHook};
pub use channels::{ChannelKind, NoChannel, OverwriteChannel, OverwriteUpdate, TraceChannel, VectorsChannel};
pub use encoder::VectorsConfig;
pub use message::{Message, MessageLayout, Vectors};
pub use segment::{Segment, SegmentLayout};
pub use thought::{Thought, ThoughtLayout, Transmit};
pub use trace::Trace;
pub use trace_file::{Fingerprint, TraceOwner};
