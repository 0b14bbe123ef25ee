//! Tasks that no agent can solve alone: a small language of facts, and questions whose evidence is spread over a team.

mod backbone;
mod generator;
mod language;
mod problem;
mod team;

pub use backbone::write_tiny_model;
pub use generator::{Facts, Family, TaskConfig};
pub use language::{Fact, ITEMS, NAMES, PLACES, Relation, Split, WORDS};
pub use problem::Problem;
