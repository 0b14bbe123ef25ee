//! What a team learns by, one objective a file.

mod cross_entropy;
mod distillation;

pub use cross_entropy::CrossEntropy;
pub use distillation::{Distillation, Teach};
