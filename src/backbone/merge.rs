//! Base and adapter as one ordinary model: `W + s·B·A` in place of every weight that has factors.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::BackboneConfig;
use super::tensors::{expected, linears};
use crate::checkpoint::hub::TEMPLATES;
use crate::checkpoint::target_modules::LM_HEAD;
use crate::checkpoint::{
    AdapterFile, EMBEDDING, SafetensorsWeights, SavedModules, StoredType, WeightTable, write_tensors,
};
use crate::error::{Error, Result};
use crate::files::{MAX_TEXT, read_text, write_atomic, write_folder_atomic};

/// What else of a Hugging Face folder belongs to the model; `config.json` is written anew.
const BESIDE: [&str; 12] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

/// Writes the model of the Hugging Face folder `base` with the LoRA adapter of the PEFT folder `adapter` merged into its
/// weights to the folder `output`, stored as `dtype` (else as the base is), which is returned. `output` appears, or
/// is replaced, only when it is complete.
///
/// Products are computed in f32 and rounded once. Some rows of one tensor at a time are in memory; `on_tensor` is told before each, and its error
/// stops the merge.
///
/// # Errors
/// If a folder cannot be read or written, the adapter does not fit the base, or a value is too large for `dtype`.
pub fn merge(
    base: &Path,
    adapter: &Path,
    output: &Path,
    dtype: Option<StoredType>,
    mut on_tensor: impl FnMut(&str) -> Result<()>,
) -> Result<StoredType> {
    if !base.is_dir() {
        let why = "merging needs a Hugging Face folder with safetensors: a GGUF file's weights are quantised, and it \
                   has no config.json";
        return Err(Error::file(base, why));
    }
    let mut config = BackboneConfig::read(base)?;
    let weights = Arc::new(SafetensorsWeights::open(base)?);
    let dtype = dtype.or_else(|| weights.stored_type(EMBEDDING)).unwrap_or(StoredType::Float32);
    let tied = config.tie_word_embeddings;
    WeightTable::new(weights.as_ref()).require(&expected(&config))?;
    let file = AdapterFile::read(adapter)?;
    file.check_modules(adapter, &linears(&config))?;
    // What changes the one no longer is the other.
    let saved = SavedModules::read(&file, adapter, weights.as_ref(), tied)?;
    config.tie_word_embeddings = tied && !saved.unties() && !file.config.targets(LM_HEAD)?;
    let weights = saved.over(weights, tied && !config.tie_word_embeddings);
    let mut table = WeightTable::new(weights.as_ref());
    let tensors = expected(&config);
    table.require(&tensors)?;
    write_folder_atomic(output, |dir| {
        write_atomic(
            &dir.join("config.json"),
            config_json(base, dtype, config.tie_word_embeddings)?.as_bytes(),
        )?;
        for name in BESIDE.iter().filter(|name| base.join(name).is_file()) {
            let from = base.join(name);
            fs::copy(&from, dir.join(name)).map_err(|error| Error::file(&from, error))?;
        }
        copy_templates(base, dir)?;
        let shapes: Vec<_> = tensors.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
        let path = dir.join("model.safetensors");
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        write_tensors(&path, dtype, &shapes, Some(metadata), |name, shape, write| {
            on_tensor(name)?;
            table.take_blocks(name, shape, |row, values| {
                add_product(&file, name, shape, row, values);
                check_range(output, name, values, dtype)?;
                write(values)
            })
        })?;
        table.finish(config.tie_word_embeddings)
    })?;
    Ok(dtype)
}

/// Copies the chat templates beside the default one.
fn copy_templates(base: &Path, dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(base.join(TEMPLATES)) else { return Ok(()) };
    for entry in entries {
        let from = entry.map_err(|error| Error::file(base.join(TEMPLATES), error))?.path();
        if let Some(name) =
            from.file_name().filter(|_| from.is_file() && from.extension() == Some("jinja".as_ref()))
        {
            let to = dir.join(TEMPLATES);
            let copied = fs::create_dir_all(&to).and_then(|()| fs::copy(&from, to.join(name)));
            copied.map_err(|error| Error::file(&from, error))?;
        }
    }
    Ok(())
}

/// Adds `s·B·A` to the rows `values`, from row `first` on, of the weight `name`, `[out, in]`, where the adapter has factors for it.
fn add_product(adapter: &AdapterFile, name: &str, shape: &[usize], first: usize, values: &mut [f32]) {
    let Some(module) = name.strip_suffix(".weight") else { return };
    let factor = |part: &str| adapter.tensors.get(&format!("{module}.{part}.weight")).map(|(_, v)| v);
    let (Some(a), Some(b)) = (factor("lora_A"), factor("lora_B")) else { return };
    let (cols, rank) = (shape[1], adapter.config.rank(module));
    let scaling = adapter.config.scaling(module) as f32;
    values.par_chunks_mut(cols).zip(b[first * rank..].par_chunks(rank)).for_each_init(
        || vec![0.0; cols],
        |product, (row, b)| {
            product.fill(0.0);
            for (b, a) in b.iter().zip(a.chunks(cols)) {
                product.iter_mut().zip(a).for_each(|(p, a)| *p += b * a);
            }
            row.iter_mut().zip(product).for_each(|(w, p)| *w += scaling * *p);
        },
    );
}

/// Refuses values that `dtype` would round to an infinity.
fn check_range(output: &Path, name: &str, values: &[f32], dtype: StoredType) -> Result<()> {
    let largest = dtype.largest();
    match values.par_iter().find_any(|v| v.is_nan() || v.abs() > largest) {
        Some(value) => Err(Error::file(
            output,
            format!(
                "the merged tensor `{name}` would hold {value}, which {} cannot; give --dtype float32",
                dtype.name()
            ),
        )),
        None => Ok(()),
    }
}

/// The base's `config.json` with the type of the merged weights under the name that it uses for it, and whether the head is the embedding.
fn config_json(base: &Path, dtype: StoredType, tied: bool) -> Result<String> {
    let path = base.join("config.json");
    let text = read_text(&path, MAX_TEXT).map_err(|error| Error::file(&path, error))?;
    let mut config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| Error::line(&path, error.line(), error))?;
    // transformers 5 writes `dtype`; every version reads `torch_dtype`.
    let keys: Vec<&str> =
        ["torch_dtype", "dtype"].into_iter().filter(|key| config.contains_key(*key)).collect();
    for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
        config.insert(key.into(), json!(dtype.name()));
    }
    if let Some(field) = config.get_mut("tie_word_embeddings").filter(|_| !tied) {
        *field = json!(false);
    }
    Ok(format!("{:#}\n", Value::Object(config)))
}
