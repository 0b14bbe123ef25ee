//! Generation as a state, sampling, whole answers, and the upstream agents of a team.

mod choice;
mod config;
mod decode;
mod generation;
mod model_defaults;
mod options;
mod sampling;
mod upstream;

pub use config::GenerationConfig;
pub use decode::{Answer, decode};
pub use generation::{End, GeneratedToken, Generation, RowError};
pub use model_defaults::{GENERATION_CONFIG, model_defaults};
pub use options::{DecodeOptions, RowOptions};
pub use sampling::Sampling;
pub use upstream::{Upstream, Writing, WrittenMessage, roll_out_self, roll_out_upstream};
