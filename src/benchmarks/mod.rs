//! What teams are measured on, and what they are compared with.

mod methods;
pub mod synthetic;

pub use methods::{MethodConfig, TeamMethods, Training, message_positions, methods, text_team};
