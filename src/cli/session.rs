//! How a command opens model and team: transfers are shown, and what differs from the adapter's own team is said.

use std::path::{Path, PathBuf};

use diffmas::Result;
use diffmas::engine::{EngineConfig, Resolve, Session};

use super::{fetch, verbosity};

/// Fetches with progress.
struct Shown;

impl Resolve for Shown {
    fn model(&self, name: &str, offline: bool) -> Result<PathBuf> {
        fetch::model(name, offline)
    }

    fn adapter(&self, name: &Path, offline: bool) -> Result<PathBuf> {
        fetch::adapter(name, offline)
    }
}

/// Reads what `config` names.
pub fn open(config: EngineConfig) -> Result<Session> {
    let session = Session::open_with(config, &Shown)?;
    session.changed().iter().for_each(verbosity::note);
    Ok(session)
}
