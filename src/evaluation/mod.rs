//! Does the message matter? Scores on held-out samples, with real messages and with controls.

mod accuracy;
mod controls;
mod score;

pub use accuracy::Checking;
pub use controls::{Control, derangement};
pub use score::{Accuracy, Evaluation, SampleScore, Scoring, evaluate};
