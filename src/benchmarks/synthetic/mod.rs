//! Tasks that no agent can solve alone: a small language of facts, and questions whose evidence is spread over a team.

mod backbone;
mod evidence;
mod facts;
mod generator;
mod language;
mod lines;
mod matching;
mod problem;
mod question;
mod split;
mod team;

pub use backbone::write_tiny_model;
pub use evidence::{Drawings, Evidence};
pub use facts::Facts;
pub use generator::{Family, TaskConfig};
pub use language::{Fact, ITEMS, NAMES, PLACES, Relation, WORDS};
pub use problem::Problem;
pub use question::Question;
pub use split::{HeldOut, Split};
pub use team::vectors_of;
