//! The state of a run after its last whole update, in the hands of somebody who cannot wait for the next: a process that is told to end
//! within a second.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// Writes a checkpoint.
type Write = Box<dyn FnOnce() -> Result<PathBuf> + Send>;

/// What a run would lose if it ended now. Clones are one.
#[derive(Clone, Default)]
pub struct LastState(Arc<Mutex<Option<Write>>>);

impl LastState {
    /// Writes the state as a checkpoint, and returns its folder; nothing where the newest checkpoint holds it already. A checkpoint that is being
    /// written is waited for.
    pub fn write(&self) -> Option<Result<PathBuf>> {
        self.lock().take().map(|write| write())
    }

    /// From now on, `write` writes the state.
    pub(super) fn keep(&self, write: impl FnOnce() -> Result<PathBuf> + Send + 'static) {
        *self.lock() = Some(Box::new(write));
    }

    /// Writes a checkpoint by other means; from then on there is nothing to lose.
    pub(super) fn while_written<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut held = self.lock();
        let done = work();
        *held = None;
        done
    }

    fn lock(&self) -> MutexGuard<'_, Option<Write>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LastState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastState").finish_non_exhaustive()
    }
}
