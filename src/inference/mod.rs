//! Generation: sampling, the decode loop, and the upstream agents of a team.

mod decode;
mod sampling;
mod upstream;

pub use decode::{Answer, DecodeOptions, decode};
pub use sampling::Sampling;
pub use upstream::{Upstream, Writing, WrittenMessage, roll_out_upstream};
