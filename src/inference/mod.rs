//! Answers: sampling, the decode loop, and agents that write to each other.

mod decode;
mod messages;
mod sampling;

pub use decode::{Answer, DecodeOptions, decode};
pub use messages::{Author, Writing, WrittenMessage, write_messages};
pub use sampling::Sampling;
