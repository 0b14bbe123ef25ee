//! From files to a backbone: a Hugging Face folder or a GGUF file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{ModelBackend, WeightUse};

use super::tensors::expected;
use super::{
    Attention, Backbone, BackboneConfig, Block, Linear, Mlp, OpenedWith, Precision, RmsNorm, RotaryEmbedding,
};
use crate::checkpoint::target_modules::PROJECTIONS;
use crate::checkpoint::{
    EMBEDDING, GgufWeights, HEAD, SafetensorsWeights, SavedModules, WeightTable, Weights, sha256_of_weights,
};
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// A model on disk: sizes and tokenizer read, weights not yet.
pub struct ModelFiles {
    /// The folder or GGUF file.
    pub path: PathBuf,
    /// Sizes and family.
    pub config: BackboneConfig,
    /// The tokenizer, where the model comes with one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub(super) weights: Arc<dyn Weights>,
    /// The model without the modules that an adapter replaces.
    own: Option<Box<ModelFiles>>,
    opened_with: Option<OpenedWith>,
    /// Once it is known.
    sha256: OnceLock<String>,
}

impl ModelFiles {
    /// Opens a Hugging Face folder, or a file whose name ends in `.gguf`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the model is of a kind that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let (config, tokenizer, weights): (_, _, Arc<dyn Weights>) = if path.is_dir() {
            let config = BackboneConfig::read(path)?;
            (config, Tokenizer::from_folder(path)?, Arc::new(SafetensorsWeights::open(path)?))
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let weights = GgufWeights::open(path)?;
            let config = BackboneConfig::from_gguf(&weights)?;
            let tokenizer = Tokenizer::from_gguf(path, weights.content())?;
            (config, Some(tokenizer), Arc::new(weights))
        } else if path.exists() {
            return Err(Error::file(path, "a model is a Hugging Face folder or a .gguf file"));
        } else {
            return Err(Error::file(path, "there is no such model folder or file"));
        };
        Ok(Self {
            tokenizer: tokenizer.map(Arc::new),
            ..Self::of_weights(path.to_path_buf(), config, weights)
        })
    }

    /// A model of these sizes without a tokenizer, whose weights come from elsewhere; `path` stands for it in messages.
    pub(super) fn of_weights(path: PathBuf, config: BackboneConfig, weights: Arc<dyn Weights>) -> Self {
        let (tokenizer, own, opened_with, sha256) = (None, None, None, OnceLock::new());
        Self { path, config, tokenizer, weights, own, opened_with, sha256 }
    }

    /// The model as the adapter that it is opened with leaves it.
    pub(super) fn opened_with(self, with: OpenedWith) -> Self {
        Self { opened_with: Some(with), ..self }
    }

    /// The model with the modules `saved` of the adapter `with` in place of its own.
    pub(super) fn replaced(self, saved: SavedModules, with: OpenedWith) -> Self {
        let tied = self.config.tie_word_embeddings;
        let untied = tied && saved.unties();
        let config = BackboneConfig { tie_word_embeddings: tied && !untied, ..self.config.clone() };
        let replaced = Self::of_weights(self.path.clone(), config, saved.over(self.weights.clone(), untied));
        let tokenizer = self.tokenizer.clone();
        Self { tokenizer, own: Some(Box::new(self)), ..replaced }.opened_with(with)
    }

    /// Whether modules of an adapter stand in place of the model's own.
    pub(crate) fn is_replaced(&self) -> bool {
        self.own.is_some()
    }

    /// SHA-256 of the tensors that the model itself consists of, independent of file format and of the device that they are loaded onto.
    ///
    /// # Errors
    /// If a tensor is missing or cannot be read.
    pub fn sha256(&self) -> Result<String> {
        if let Some(own) = &self.own {
            return own.sha256();
        }
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let names: Vec<String> = expected(&self.config).into_iter().map(|(name, _)| name).collect();
        let hash = sha256_of_weights(self.weights.as_ref(), &names)?;
        Ok(self.sha256.get_or_init(|| hash).clone())
    }

    /// Reads the weights onto `device`: matrices in Hugging Face's `[out, in]` layout as `precision` says, norms and biases as f32.
    ///
    /// # Errors
    /// Naming tensors that are missing, left over, of another shape, not finite or too large for their type, or that the device cannot keep or
    /// multiply such numbers.
    pub fn load<B: ModelBackend>(&self, device: &B::Device, precision: Precision) -> Result<Backbone<B>> {
        precision.check::<B>(device)?;
        let c = &self.config;
        let table = WeightTable::new(self.weights.as_ref());
        let expected = expected(c);
        table.require(&expected)?;
        let mut read =
            Reader { files: self, table, shapes: expected.into_iter().collect(), precision, device };
        let embed_tokens: B::Weight = read.weight(EMBEDDING, WeightUse::Table)?;
        let layers = (0..c.num_hidden_layers).map(|i| block(&mut read, c, i)).collect::<Result<_>>()?;
        let norm = RmsNorm { weight: read.vector("model.norm.weight")?, eps: c.rms_norm_eps };
        let lm_head =
            if c.tie_word_embeddings { embed_tokens.clone() } else { read.weight(HEAD, WeightUse::Table)? };
        let lm_head = Linear::new(lm_head, None);
        read.table.finish(c.tie_word_embeddings)?;
        let rotary = Arc::new(RotaryEmbedding::new(&c.rope, c.head_dim));
        let (config, opened_with) = (Arc::new(c.clone()), self.opened_with.clone());
        let row_keys = None;
        Ok(Backbone { config, embed_tokens, layers, norm, lm_head, rotary, precision, opened_with, row_keys })
    }
}

/// Reads decoder layer `i`.
fn block<B: ModelBackend>(read: &mut Reader<'_, B>, c: &BackboneConfig, i: usize) -> Result<Block<B>> {
    let p = format!("model.layers.{i}");
    let norm = |read: &mut Reader<'_, B>, name: &str| -> Result<RmsNorm<B>> {
        Ok(RmsNorm { weight: read.vector(&format!("{p}.{name}.weight"))?, eps: c.rms_norm_eps })
    };
    let mut linear = |name: &str| -> Result<Linear<B>> {
        let weight = read.weight(&format!("{p}.{name}.weight"), WeightUse::Layer)?;
        let bias = format!("{p}.{name}.bias");
        let bias = read.shapes.contains_key(&bias).then(|| read.vector(&bias)).transpose()?;
        Ok(Linear::new(weight, bias))
    };
    let linears = PROJECTIONS.iter().map(|name| linear(name)).collect::<Result<Vec<_>>>()?;
    let [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]: [Linear<B>; 7] =
        linears.try_into().expect("as many layers as names");
    let q_norm = c.qk_norm.then(|| norm(read, "self_attn.q_norm")).transpose()?;
    let k_norm = c.qk_norm.then(|| norm(read, "self_attn.k_norm")).transpose()?;
    Ok(Block {
        input_layernorm: norm(read, "input_layernorm")?,
        self_attn: Attention { q_proj, k_proj, v_proj, o_proj, q_norm, k_norm },
        post_attention_layernorm: norm(read, "post_attention_layernorm")?,
        mlp: Mlp { gate_proj, up_proj, down_proj },
    })
}

/// The weights of a model, each read once, onto one device.
struct Reader<'a, B: Backend> {
    files: &'a ModelFiles,
    table: WeightTable<'a>,
    shapes: BTreeMap<String, Vec<usize>>,
    precision: Precision,
    device: &'a B::Device,
}

impl<B: ModelBackend> Reader<'_, B> {
    fn weight(&mut self, name: &str, used: WeightUse) -> Result<B::Weight> {
        let shape: [usize; 2] = self.shapes[name].as_slice().try_into().expect("two dimensions");
        let dtype = self.precision.of::<B>(self.files.weights.dtype(name), shape[1], self.device);
        let weight = B::frozen_weight(self.table.take_matrix(name, shape, dtype)?, used, self.device);
        Ok(B::multiplied_in(weight, self.precision.compute.products()))
    }

    fn vector(&mut self, name: &str) -> Result<Tensor<B, 1>> {
        let shape = self.shapes.get(name).expect("every tensor that is read is expected");
        Ok(Tensor::from_data(TensorData::new(self.table.take(name, shape)?, shape.clone()), self.device))
    }
}
