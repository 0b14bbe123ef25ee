//! Answers: generation as a state, sampling, whole answers, and agents that write to each other.

mod choice;
mod decode;
mod generation;
mod messages;
mod sampling;

pub use decode::{Answer, DecodeOptions, decode};
pub use generation::{End, GeneratedToken, Generation, RowError, RowOptions};
pub use messages::{Author, Writing, WrittenMessage, write_messages};
pub use sampling::Sampling;
