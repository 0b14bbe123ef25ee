//! Which adapter a model was opened with.

use std::path::{Path, PathBuf};

/// The adapter that a model was opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedWith {
    /// The adapter's folder.
    pub dir: PathBuf,
    /// Whether modules of it stand in place of the model's.
    pub replaces: bool,
}

impl OpenedWith {
    /// The adapter in the folder `dir`.
    pub(super) fn new(dir: &Path, replaces: bool) -> Self {
        Self { dir: canonical(dir), replaces }
    }

    /// Whether it is the adapter in the folder `dir`.
    pub(super) fn is(&self, dir: &Path) -> bool {
        self.dir == canonical(dir)
    }
}

/// The path of a folder, whatever it was called by.
fn canonical(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf())
}
