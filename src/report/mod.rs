//! One HTML page about a team, from whatever an output folder holds: whether the message matters, how the team learned, who attended to
//! whom.
//!
//! The page needs nothing beside itself: style and charts are inside, it runs no script and asks no network. It begins with a
//! [`Verdict`].

pub(crate) mod charts;
mod curves;
mod equalities;
mod figure;
mod folder;
mod inside;
mod learning;
mod page;
mod quantity;
mod results;
mod verdict;

pub use folder::Report;
pub use verdict::Verdict;
