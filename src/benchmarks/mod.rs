//! What teams are measured on.

pub mod synthetic;
