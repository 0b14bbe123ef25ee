//! Does the message matter? Scores on held-out samples, with real messages and with controls.

mod controls;
mod score;

pub use controls::{Control, derangement};
pub use score::{Evaluation, SampleScore, evaluate};
