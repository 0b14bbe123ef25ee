//! Does the message matter? Scores on held-out samples, with real messages and with controls.

mod accuracy;
mod comparison;
mod controls;
mod former_names;
mod gain;
mod inspection;
mod intervals;
mod judge;
mod paired;
mod sample_score;
mod score;

pub use accuracy::Checking;
pub use comparison::{Comparison, Method, Part};
pub use controls::Control;
pub use gain::{Gain, Gains};
pub use inspection::{Attention, Example, Inspection, Latents, LensToken, inspect};
pub use paired::Paired;
pub use sample_score::{Accuracy, Asked, ControlledScore, SampleScore};
pub use score::{Cost, Evaluation, ScoredBatch, Scoring, evaluate, evaluate_after};
