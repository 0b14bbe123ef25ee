//! Problems as data lines, with images where holders see their facts.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Drawings, Evidence, Problem, Split, TaskConfig};
use crate::error::Result;

impl TaskConfig {
    /// What draws the evidence for data in `dir`; nothing where it is text.
    ///
    /// # Errors
    /// As [`Drawings::new`].
    pub fn drawings(&self, dir: &Path, seed: u64) -> Result<Option<Drawings>> {
        match self.evidence {
            Evidence::Text => Ok(None),
            Evidence::Image => Drawings::new(dir, seed).map(Some),
        }
    }

    /// The `fields` of the [`TaskConfig::problems`], and the images that `drawings` adds to them.
    ///
    /// # Errors
    /// If an image cannot be written.
    pub fn lines(
        self,
        split: Split,
        seed: u64,
        count: usize,
        drawings: &mut Option<Drawings>,
        fields: impl Fn(&Problem) -> Map<String, Value>,
    ) -> Result<Vec<Map<String, Value>>> {
        let line = |problem: Problem| match drawings {
            Some(drawings) => drawings.add(fields(&problem), &problem, split),
            None => Ok(fields(&problem)),
        };
        self.problems(split, seed, count).map(line).collect()
    }
}
