//! How a command opens model and team: transfers are shown, and what differs from the adapter's own team is said.

use std::path::{Path, PathBuf};

use diffmas::Result;
use diffmas::engine::{EngineConfig, Resolve, Session};
use diffmas::images::EncoderKind;

use super::{fetch, job, verbosity};

/// Fetches with progress.
struct Shown;

impl Resolve for Shown {
    fn model(&self, name: &str, offline: bool) -> Result<PathBuf> {
        fetch::model(name, offline)
    }

    fn adapter(&self, name: &Path, offline: bool) -> Result<PathBuf> {
        fetch::adapter(name, offline)
    }

    fn encoder(&self, kind: &EncoderKind, offline: bool) -> Result<PathBuf> {
        fetch::encoder(kind, offline)
    }
}

/// `config` with a device of its own for each process on a machine, where none is named and there are several.
fn on_own_device(config: EngineConfig) -> Result<EngineConfig> {
    let (place, processes) = job::processes().on_machine();
    if processes == 1 || config.device.is_some() {
        return Ok(config);
    }
    let kind = config.backend()?;
    if kind.is_cpu() {
        return Ok(config);
    }
    let devices = kind.devices()?.iter().filter(|device| !device.software).count();
    Ok(EngineConfig { device: (devices > 1).then(|| place % devices), ..config })
}

/// Reads what `config` names.
pub fn open(config: EngineConfig) -> Result<Session> {
    let session =
        job::in_turn(|| Session::open_with(on_own_device(config)?, &Shown))?.among(job::processes());
    session.changed().iter().for_each(verbosity::note);
    Ok(session)
}
