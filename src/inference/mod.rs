//! Generation: sampling, the decode loop, and the upstream agents of a team.

mod config;
mod decode;
mod sampling;
mod upstream;

pub use config::GenerationConfig;
pub use decode::{Answer, DecodeOptions, decode};
pub use sampling::Sampling;
pub use upstream::{Upstream, Writing, WrittenMessage, roll_out_upstream};
