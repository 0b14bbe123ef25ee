//! In which form holders get their facts.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Problem, Split};
use crate::error::{Error, Result};
use crate::random::{generator, hash_of};

named_enum! {
    /// What a holder's facts reach it as.
    Evidence, "evidence" {
        /// Words.
        #[default]
        Text = "text",
        /// An image of a line of text.
        Image = "image",
    }
}

/// In how many ways a sentence is drawn for each part of the data: with other fonts, sizes, places and noise.
const DRAWINGS: u64 = 4;
/// The folder of images beside the data.
const FOLDER: &str = "images";

/// Draws the facts of holders into a folder beside the data, each sentence in a few ways.
#[derive(Debug)]
pub struct Drawings {
    dir: PathBuf,
    seed: u64,
    drawn: HashSet<String>,
}

impl Drawings {
    /// Images in the folder `images` of `dir`.
    ///
    /// # Errors
    /// If the folder cannot be made, or this program was built without images.
    pub fn new(dir: &Path, seed: u64) -> Result<Self> {
        crate::images::check_built()?;
        fs::create_dir_all(dir.join(FOLDER)).map_err(|e| Error::file(dir.join(FOLDER), e))?;
        Ok(Self { dir: dir.to_path_buf(), seed, drawn: HashSet::new() })
    }

    /// `fields` of a data line with a field `images`: by holder, where the image of its facts in `problem` lies from the data file on. What is
    /// drawn for training is never used for tests.
    ///
    /// # Errors
    /// If an image cannot be written.
    pub fn add(
        &mut self,
        mut fields: Map<String, Value>,
        problem: &Problem,
        split: Split,
    ) -> Result<Map<String, Value>> {
        let part = if split == Split::Test { "test" } else { "train" };
        let mut images = BTreeMap::new();
        for (holder, text) in problem.evidence_by_role() {
            // Which drawing goes by what is asked, so that the same problem always has the same images.
            let drawing = hash_of(&format!("{} {holder}", problem.questions[0].text)) % DRAWINGS;
            let words: Vec<&str> =
                text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
            let name = format!("{FOLDER}/{part}-{}-{drawing}.png", words.join("-"));
            if self.drawn.insert(name.clone()) {
                let mut rng = generator(self.seed, hash_of(&name));
                let path = self.dir.join(&name);
                let png = crate::images::drawn_line(&text, &mut rng);
                fs::write(&path, png).map_err(|e| Error::file(&path, e))?;
            }
            images.insert(holder, name);
        }
        fields.insert("images".into(), json!(images));
        Ok(fields)
    }
}
