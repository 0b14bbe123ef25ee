//! The tiny model that reads the tasks' language, part of this library.

use std::path::Path;

use crate::error::Result;
use crate::files::{write_atomic, write_folder_atomic};

macro_rules! files {
    ($($name:literal),+) => {
        [$(($name, include_bytes!(concat!("../../../assets/tiny-facts/", $name)).as_slice())),+]
    };
}

/// The Hugging Face folder, file by file.
const FILES: [(&str, &[u8]); 5] =
    files!["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Writes the tiny model as a Hugging Face folder, which appears only when it is complete.
///
/// # Errors
/// If the folder exists or cannot be written.
pub fn write_tiny_model(dir: &Path) -> Result<()> {
    write_folder_atomic(dir, |dir| {
        FILES.iter().try_for_each(|(name, bytes)| write_atomic(&dir.join(name), bytes))
    })
}
