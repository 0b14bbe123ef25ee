//! Weights of the model that an adapter's file holds as a whole: those of PEFT's `modules_to_save`, and embeddings that PEFT saved along.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use diffmas_backends::StoredDtype;

use super::peft::{AdapterFile, module_of, open_weights};
use super::safetensors::SafetensorsWeights;
use super::weights::{EMBEDDING, HEAD, Weights, equal};
use crate::error::{Error, Result};

/// The weights that an adapter puts in the place of the model's own.
pub(crate) struct SavedModules {
    adapter: SafetensorsWeights,
    /// The adapter's name of each, by the model's.
    keys: BTreeMap<String, String>,
}

impl SavedModules {
    /// Checks what the adapter `file` of the folder `dir` holds as a whole against the model's weights `base`, whose head is its embedding if
    /// it is `tied`.
    ///
    /// # Errors
    /// If a module of `modules_to_save` is not there, a tensor is not the model's by name and shape, or a tensor that no module of
    /// `modules_to_save` has is another than the model's; names the field or tensor.
    pub fn read(file: &AdapterFile, dir: &Path, base: &dyn Weights, tied: bool) -> Result<Self> {
        let adapter = open_weights(dir)?;
        let mut keys = BTreeMap::new();
        for (name, key) in &file.whole {
            let error = |why: String| Error::file(adapter.path(), format!("the tensor `{key}` {why}"));
            let own = if tied && name == HEAD { EMBEDDING } else { name };
            let (theirs, ours) = (adapter.shape(key), base.shape(own));
            if theirs != ours {
                let (theirs, ours) = (theirs.unwrap_or_default(), ours);
                let ours = ours.map_or("has no such tensor".into(), |shape| format!("needs {shape:?}"));
                return Err(error(format!("has the shape {theirs:?}, but the model {ours}")));
            }
            if file.saves(name) {
                keys.insert(name.clone(), key.clone());
            } else if !equal((&adapter, key), (base, own))? {
                let why = "differs from the model's, but `modules_to_save` does not name its module: the adapter was made on other weights";
                return Err(error(why.into()));
            }
        }
        let lacks = |saved: &&String| !keys.keys().any(|name| module_of(name).ends_with(saved.as_str()));
        if let Some(module) = file.config.modules_to_save.iter().find(lacks) {
            let why =
                format!("the field `modules_to_save` names `{module}`, of which the adapter holds no tensor");
            return Err(Error::file(dir, why));
        }
        Ok(Self { adapter, keys })
    }

    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the embedding or the head is replaced, so that the one is no longer the other.
    pub fn unties(&self) -> bool {
        [EMBEDDING, HEAD].iter().any(|name| self.keys.contains_key(*name))
    }

    /// The weights `base` with these in place. With `untied`, the head of the `base`, which is its embedding, is a tensor of its own.
    pub fn over(self, base: Arc<dyn Weights>, untied: bool) -> Arc<dyn Weights> {
        Arc::new(Overlaid { base, saved: self, untied })
    }
}

/// A model's weights, some of them replaced.
struct Overlaid {
    base: Arc<dyn Weights>,
    saved: SavedModules,
    /// Whether the head is a copy of the base's embedding, where it is not replaced.
    untied: bool,
}

impl Overlaid {
    /// Where the tensor `name` is, and what it is called there.
    fn source<'s: 'n, 'n>(&'s self, name: &'n str) -> (&'s dyn Weights, &'n str) {
        match self.saved.keys.get(name) {
            Some(key) => (&self.saved.adapter, key),
            None if self.untied && name == HEAD => (self.base.as_ref(), EMBEDDING),
            None => (self.base.as_ref(), name),
        }
    }
}

impl Weights for Overlaid {
    fn names(&self) -> Vec<String> {
        let head = self.untied.then(|| HEAD.to_string());
        let all = self.base.names().into_iter().chain(self.saved.keys.keys().cloned()).chain(head);
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (weights, name) = self.source(name);
        weights.shape(name)
    }

    fn dtype(&self, name: &str) -> Option<StoredDtype> {
        let (weights, name) = self.source(name);
        weights.dtype(name)
    }

    fn read_values(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()> {
        let (weights, name) = self.source(name);
        weights.read_values(name, from, out)
    }

    fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<()> {
        let (weights, name) = self.source(name);
        weights.read_bytes(name, out)
    }

    fn path(&self) -> &Path {
        self.base.path()
    }

    fn files(&self) -> Vec<&Path> {
        [self.base.files(), self.saved.adapter.files()].concat()
    }

    fn file(&self, name: &str) -> &Path {
        let (weights, name) = self.source(name);
        weights.file(name)
    }
}
