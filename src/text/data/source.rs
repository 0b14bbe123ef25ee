//! Which samples are read.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// A file of samples, or the files of one split of a data set; all of it, or its first lines.
#[derive(Clone, Debug)]
pub struct DataSource {
    /// What errors call it.
    pub name: PathBuf,
    /// Its files, one after another.
    pub files: Vec<PathBuf>,
    /// How many lines are read at most.
    pub limit: Option<NonZeroUsize>,
}

impl DataSource {
    /// The same, of which at most `limit` lines are read.
    pub fn limited(self, limit: Option<NonZeroUsize>) -> Self {
        Self { limit, ..self }
    }
}

impl<P: AsRef<Path>> From<P> for DataSource {
    /// The file at a path.
    fn from(path: P) -> Self {
        let path = path.as_ref().to_path_buf();
        Self { name: path.clone(), files: vec![path], limit: None }
    }
}
