//! Whole modules that an adapter saved, in place of the model's own.

use std::path::Path;

use diffmas_backends::ModelBackend;

use super::{Backbone, ModelFiles, OpenedWith};
use crate::checkpoint::{AdapterFile, SavedModules, peft};
use crate::error::{Error, Result};

impl ModelFiles {
    /// The model with the modules of PEFT's `modules_to_save` that the adapter in the folder `dir` holds in place of its own; as it is where the
    /// folder holds no adapter, or one of factors alone. Embeddings that PEFT saved along are compared with the model's.
    ///
    /// The adapter's factors are not read; [`ModelFiles::sha256`] stays that of the model's own weights.
    ///
    /// # Errors
    /// If the adapter cannot be read, lacks a module, or holds a weight that is not the model's; names the field or tensor.
    pub fn with_saved_modules(self, dir: &Path) -> Result<Self> {
        if !dir.join(peft::CONFIG).exists() {
            return Ok(self);
        }
        let file = AdapterFile::read(dir)?;
        if !file.has_whole_modules() {
            return Ok(self);
        }
        let tied = self.config.tie_word_embeddings;
        let saved = SavedModules::read(&file, dir, self.weights.as_ref(), tied)?;
        let with = OpenedWith::new(dir, !saved.is_empty());
        Ok(if saved.is_empty() { self.opened_with(with) } else { self.replaced(saved, with) })
    }
}

impl<B: ModelBackend> Backbone<B> {
    /// Checks that the whole modules of the adapter `file` in the folder `dir`, and no others, are in place.
    ///
    /// # Errors
    /// If they are not.
    pub(super) fn check_saved_modules(&self, file: &AdapterFile, dir: &Path) -> Result<()> {
        match &self.opened_with {
            Some(with) if with.is(dir) => Ok(()),
            Some(with) if with.replaces => Err(Error::file(
                dir,
                format!(
                    "the model was opened with modules (`modules_to_save`) of {}; open it anew",
                    with.dir.display()
                ),
            )),
            _ if file.has_whole_modules() => Err(Error::file(
                dir,
                "the adapter holds modules as a whole (`modules_to_save`, or embeddings that were saved along), and the model was opened \
                 without it; an adapter of a single role cannot have them",
            )),
            _ => Ok(()),
        }
    }
}
