//! Answers: sampling and the decode loop.

mod decode;
mod sampling;

pub use decode::{Answer, DecodeOptions, decode};
pub use sampling::Sampling;
