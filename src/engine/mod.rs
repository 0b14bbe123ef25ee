//! The product as a library: settings in, a team that answers, learns and is measured out. No signature names a backend type.

mod config;
mod run_folder;
mod session;

pub use config::EngineConfig;
pub use run_folder::{RunFolder, learned, run_of};
pub use session::{Conditions, Resolve, Session, compare_base};
