//! Which model is measured.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::backbone::{BackboneConfig, ModelFiles};
use crate::error::Result;

/// Which model is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BenchModel {
    /// A Hugging Face folder or a `.gguf` file.
    Files(PathBuf),
    /// Random weights of these sizes, drawn from a seed.
    Random(Shape, u64),
}

impl BenchModel {
    /// Its sizes, and where its weights come from.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn open(&self) -> Result<ModelFiles> {
        match self {
            Self::Files(path) => ModelFiles::open(path),
            Self::Random(shape, seed) => Ok(ModelFiles::random(shape.name(), shape.config(), *seed)),
        }
    }

    /// Whether its weights are drawn.
    pub fn is_random(&self) -> bool {
        matches!(self, Self::Random(..))
    }
}

/// A model by name and sizes: what its speed depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// Its name.
    pub name: String,
    /// Whether its weights were drawn.
    pub random: bool,
    /// Its numbers.
    pub parameters: u64,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl ModelRecord {
    /// The model `name` of the sizes `config`.
    pub fn new(name: &str, random: bool, config: &BackboneConfig) -> Self {
        Self {
            name: name.into(),
            random,
            parameters: config.num_parameters(),
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.num_hidden_layers,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// What a model is called that lies at `path`: the last part of it.
    pub fn name_of(path: &Path) -> String {
        let whole = || path.display().to_string();
        path.file_name().map_or_else(whole, |name| name.to_string_lossy().into_owned())
    }

    /// Whether `other` computes as much: the sizes are the same.
    pub fn is_as_large_as(&self, other: &Self) -> bool {
        let named = |model: &Self| Self { name: String::new(), random: false, ..model.clone() };
        named(self) == named(other)
    }

    /// It in a few words.
    pub fn describe(&self) -> String {
        let Self { name, parameters, num_hidden_layers, hidden_size, .. } = self;
        let weights = if self.random { ", random weights" } else { "" };
        format!(
            "{name} ({parameters} parameters, {num_hidden_layers} layers of width {hidden_size}{weights})"
        )
    }
}
