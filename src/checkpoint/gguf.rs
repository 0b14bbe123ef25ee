//! GGUF files: every block format that candle reads, under Hugging Face's names and in its row order.

pub use super::gguf_parts::whole;
use super::gguf_parts::{GgufPart, open_parts};
use super::weights::{Weights, missing, unreadable_blocks};
use crate::error::{Error, Result};
use crate::files::PositionedFile;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use diffmas_backends::StoredDtype;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// The architectures (`general.architecture`) that are read.
pub const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// The tensor that divides the rotary frequencies: a matter of the configuration.
const FACTORS: &str = "rope_freqs.weight";

/// The weights of a GGUF file, or of one that is split into several, of which any part is read and dequantised.
pub struct GgufWeights {
    files: Vec<PositionedFile>,
    /// Of the first file.
    content: Content,
    /// Hugging Face's name of each tensor, and where it is.
    tensors: BTreeMap<String, Place>,
    factors: Option<Place>,
}

/// Where and how one tensor is stored.
struct Place {
    /// Which of the files it is in.
    part: usize,
    shape: Vec<usize>,
    dtype: StoredDtype,
    bytes: Range<u64>,
    /// For rows that are stored in pairs (queries and keys of the architecture `llama`): the number of heads.
    paired_heads: Option<usize>,
}

impl GgufWeights {
    /// Opens the file, and those that it goes on in, and reads their metadata and their tables of tensors.
    ///
    /// # Errors
    /// When one is no complete GGUF file or missing, the architecture is none that is supported, or a tensor has a
    /// format that candle does not read.
    pub fn open(path: &Path) -> Result<Self> {
        let parts = open_parts(path)?;
        let architecture = architecture(path, &parts[0].content)?;
        let (mut tensors, mut factors) = (BTreeMap::new(), None);
        for (part, GgufPart { file, content }) in parts.iter().enumerate() {
            let error = |message: String| Error::file(file.path(), message);
            let mut total = 0_u64;
            for (name, info) in &content.tensor_infos {
                let bytes =
                    stored_bytes(info, content.tensor_data_offset, file.length()).ok_or_else(|| {
                        error(format!(
                            "the tensor `{name}` does not lie within the file, which may be cut short"
                        ))
                    })?;
                total = total.saturating_add(bytes.end - bytes.start);
                let paired_heads = match paired_heads_key(&architecture, name) {
                    Some(key) => Some(head_count(path, &parts[0].content, &key, info.shape.dims())?),
                    None => None,
                };
                let shape = info.shape.dims().to_vec();
                let place = Place { part, shape, dtype: info.ggml_dtype.into(), bytes, paired_heads };
                if name == FACTORS {
                    factors = Some(place);
                } else if let Some(other) =
                    tensors.insert(hf_name(name).unwrap_or_else(|| name.clone()), place)
                {
                    let other = parts[other.part].file.path().display();
                    return Err(error(format!("the tensor `{name}` is also in {other}")));
                }
            }
            if total > file.length() {
                return Err(error("the tensors overlap: together they are larger than the file".into()));
            }
        }
        let mut contents = Vec::new();
        let files = parts.into_iter().map(|GgufPart { file, content }| {
            contents.push(content);
            file
        });
        let files = files.collect();
        Ok(Self { files, content: contents.swap_remove(0), tensors, factors })
    }

    /// What the rotary frequencies are divided by, `head_dim / 2` numbers, where the file says so.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn rope_factors(&self) -> Result<Option<Vec<f32>>> {
        let Some(place) = &self.factors else { return Ok(None) };
        let mut factors = vec![0.0; place.shape.iter().product()];
        self.read_run(FACTORS, place, 0, &mut factors)?;
        Ok(Some(factors))
    }

    /// The metadata, for the configuration and the tokenizer; of a model in several files, those of the first.
    pub fn content(&self) -> &Content {
        &self.content
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.tensors.get(name).ok_or_else(|| missing(self.path(), name))
    }

    /// Reads and dequantises values that lie one after the other in the file: those blocks that they are in.
    fn read_run(&self, name: &str, place: &Place, from: usize, out: &mut [f32]) -> Result<()> {
        let (values, size) = (place.dtype.block_values(), place.dtype.block_bytes());
        let blocks = from / values..(from + out.len()).div_ceil(values);
        let mut words = vec![0_u64; (blocks.len() * size).div_ceil(8)];
        let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..blocks.len() * size];
        self.files[place.part].read_at(bytes, place.bytes.start + (blocks.start * size) as u64)?;
        let widen = |out: &mut [f32]| {
            let unreadable = |error| unreadable_blocks(self.files[place.part].path(), name, &error);
            place.dtype.widen(bytes, out).map_err(unreadable)
        };
        if out.len() == blocks.len() * values {
            return widen(out);
        }
        let mut whole = vec![0.0; blocks.len() * values];
        widen(&mut whole)?;
        out.copy_from_slice(&whole[from - blocks.start * values..][..out.len()]);
        Ok(())
    }
}

impl Place {
    /// Values of a row.
    fn width(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Where row `row` of Hugging Face's order lies: rows stored as `[heads, half, 2]` in the order `[heads, 2, half]` that rotate-half
    /// RoPE expects.
    fn stored_row(&self, row: usize) -> usize {
        let Some(heads) = self.paired_heads else { return row };
        let half = self.shape[0] / heads / 2;
        let (head, within) = (row / (2 * half), row % (2 * half));
        head * 2 * half + 2 * (within % half) + within / half
    }
}

impl Weights for GgufWeights {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|place| place.shape.clone())
    }

    fn dtype(&self, name: &str) -> Option<StoredDtype> {
        let place = self.tensors.get(name).filter(|place| place.shape.len() == 2)?;
        place.dtype.bytes(place.width()).map(|_| place.dtype)
    }

    fn read_values(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()> {
        let place = self.place(name)?;
        if place.paired_heads.is_none() {
            return self.read_run(name, place, from, out);
        }
        let (width, mut done) = (place.width(), 0);
        while done < out.len() {
            let (row, column) = ((from + done) / width, (from + done) % width);
            let length = (width - column).min(out.len() - done);
            let at = place.stored_row(row) * width + column;
            self.read_run(name, place, at, &mut out[done..done + length])?;
            done += length;
        }
        Ok(())
    }

    fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<()> {
        let place = self.place(name)?;
        let row = out.len() / place.shape[0].max(1);
        out.par_chunks_mut(row.max(1)).enumerate().try_for_each(|(at, out)| {
            self.files[place.part].read_at(out, place.bytes.start + (place.stored_row(at) * row) as u64)
        })
    }

    fn path(&self) -> &Path {
        self.files[0].path()
    }

    fn files(&self) -> Vec<&Path> {
        self.files.iter().map(PositionedFile::path).collect()
    }

    fn file(&self, name: &str) -> &Path {
        self.files[self.tensors.get(name).map_or(0, |place| place.part)].path()
    }
}

/// `general.architecture`, which must be one of [`ARCHITECTURES`].
///
/// # Errors
/// When it is absent or another one.
pub fn architecture(path: &Path, content: &Content) -> Result<String> {
    const KEY: &str = "general.architecture";
    let Some(Value::String(name)) = content.metadata.get(KEY) else {
        return Err(Error::file(path, format!("the field `{KEY}` is missing")));
    };
    if ARCHITECTURES.contains(&name.as_str()) {
        return Ok(name.clone());
    }
    let known = ARCHITECTURES.join(", ");
    Err(Error::file(path, format!("the field `{KEY}` is `{name}`; this version reads {known}")))
}

/// Hugging Face's name for a GGUF tensor; `None` when the architectures read here have no such tensor.
pub fn hf_name(name: &str) -> Option<String> {
    Some(match name {
        "token_embd.weight" => "model.embed_tokens.weight".into(),
        "output_norm.weight" => "model.norm.weight".into(),
        "output.weight" => "lm_head.weight".into(),
        _ => {
            let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let (kind, parameter) = rest.split_once('.')?;
            let module = match kind {
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "attn_q_norm" => "self_attn.q_norm",
                "attn_k_norm" => "self_attn.k_norm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            format!("model.layers.{layer}.{module}.{parameter}")
        }
    })
}

/// The metadata key of the number of heads by which the rows of the tensor `name` are paired. Files of the
/// architecture `llama` hold query and key rows in the order of interleaved rotary pairs.
fn paired_heads_key(architecture: &str, name: &str) -> Option<String> {
    let kind = name.strip_prefix("blk.")?.split('.').nth(1)?;
    match (architecture, kind) {
        ("llama", "attn_q") => Some("llama.attention.head_count".into()),
        ("llama", "attn_k") => Some("llama.attention.head_count_kv".into()),
        _ => None,
    }
}

/// The number of heads under `key`, checked to divide the rows of a tensor of the shape `dims` into pairs.
fn head_count(path: &Path, content: &Content, key: &str, dims: &[usize]) -> Result<usize> {
    let value = content.metadata.get(key).or_else(|| content.metadata.get("llama.attention.head_count"));
    let heads = value.and_then(whole).unwrap_or(0);
    match dims.first() {
        Some(rows) if heads > 0 && rows.is_multiple_of(2) && (rows / 2).is_multiple_of(heads) => Ok(heads),
        _ => Err(Error::file(
            path,
            format!("the field `{key}` ({heads}) does not divide the rows of {dims:?}"),
        )),
    }
}

/// The place of a tensor in a file of `length` bytes; `None` when it does not lie within it.
fn stored_bytes(info: &TensorInfo, data_offset: u64, length: u64) -> Option<Range<u64>> {
    let count = info.shape.dims().iter().try_fold(1_usize, |n, dim| n.checked_mul(*dim))?;
    let size = StoredDtype::from(info.ggml_dtype).bytes(count)?;
    let start = data_offset.checked_add(info.offset)?;
    let end = start.checked_add(size as u64)?;
    (end <= length).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::super::weights::WeightTable;
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{Device, Tensor};
    use std::fs::File;

    fn write(path: &Path, metadata: &[(&str, Value)], tensors: &[(&str, QTensor)]) {
        let metadata: Vec<_> = metadata.iter().map(|(name, value)| (*name, value)).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    fn tensor(values: &[f32], shape: &[usize], dtype: GgmlDType) -> QTensor {
        QTensor::quantize(&Tensor::from_slice(values, shape, &Device::Cpu).unwrap(), dtype).unwrap()
    }

    fn llama(architecture: &str) -> Vec<(&'static str, Value)> {
        vec![
            ("general.architecture", Value::String(architecture.into())),
            ("llama.attention.head_count", Value::U32(2)),
            ("llama.attention.head_count_kv", Value::I32(1)),
        ]
    }

    #[test]
    fn names_and_rows_become_those_of_hugging_face() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let q: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let tensors = [
            ("blk.3.attn_q.weight", tensor(&q, &[8, 2], GgmlDType::F32)),
            ("blk.3.attn_k.weight", tensor(&q[..8], &[4, 2], GgmlDType::F16)),
            ("blk.3.attn_v.weight", tensor(&q[..8], &[4, 2], GgmlDType::BF16)),
            ("rope_freqs.weight", tensor(&[1.0, 1.0], &[2], GgmlDType::F32)),
            ("mystery.weight", tensor(&[1.0], &[1], GgmlDType::F32)),
        ];
        write(&path, &llama("llama"), &tensors);
        let weights = GgufWeights::open(&path).unwrap();
        let attention = |kind: &str| format!("model.layers.3.self_attn.{kind}_proj.weight");
        let names: Vec<String> = ["k", "q", "v"].into_iter().map(attention).collect();
        assert_eq!(weights.names(), [&names[..], &["mystery.weight".to_string()]].concat());
        assert_eq!(weights.shape(&names[1]), Some(vec![8, 2]));
        let rows = |order: &[usize]| {
            order.iter().flat_map(|r| [2.0 * *r as f32, 2.0 * *r as f32 + 1.0]).collect::<Vec<_>>()
        };
        assert_eq!(weights.read_f32(&names[0]).unwrap(), rows(&[0, 2, 1, 3]));
        assert_eq!(weights.read_f32(&names[1]).unwrap(), rows(&[0, 2, 1, 3, 4, 6, 5, 7]));
        assert_eq!(weights.read_f32(&names[2]).unwrap(), rows(&[0, 1, 2, 3]));
    }

    #[test]
    fn blocks_are_dequantised_as_candle_does_it_in_one_piece() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let values: Vec<f32> = (0..1 << 18).map(|i| ((i * 7919) % 1009) as f32 / 500.0 - 1.0).collect();
        for dtype in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K] {
            let quantised = tensor(&values, &[1024, 256], dtype);
            let expected = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            write(&path, &llama("llama"), &[("token_embd.weight", quantised)]);
            let read = GgufWeights::open(&path).unwrap().read_f32("model.embed_tokens.weight").unwrap();
            assert_eq!(read, expected.to_vec1::<f32>().unwrap(), "{dtype:?}");
        }
    }

    #[test]
    fn paired_rows_of_blocks_are_handed_over_in_the_order_of_their_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let values: Vec<f32> = (0..8 * 64).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        write(&path, &llama("llama"), &[("blk.0.attn_q.weight", tensor(&values, &[8, 64], GgmlDType::Q4_1))]);
        let (weights, name) = (GgufWeights::open(&path).unwrap(), "model.layers.0.self_attn.q_proj.weight");
        let dtype = weights.dtype(name).unwrap();
        assert_eq!(dtype, StoredDtype::from(GgmlDType::Q4_1));
        let matrix = WeightTable::new(&weights).take_matrix(name, [8, 64], dtype).unwrap();
        let (expected, mut rows) = (weights.read_f32(name).unwrap(), Vec::new());
        matrix.widen_rows(0..8, &mut rows);
        assert_eq!(rows, expected);
        let mut part = vec![0.0; 130];
        weights.read_values(name, 33, &mut part).unwrap();
        assert_eq!(part, expected[33..163]);
    }

    #[test]
    fn broken_files_are_sentences() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let error = || GgufWeights::open(&path).err().unwrap().to_string();
        let q = || [("blk.0.attn_q.weight", tensor(&[0.0; 16], &[8, 2], GgmlDType::F32))];
        write(&path, &llama("mamba"), &q());
        assert!(error().contains("`general.architecture` is `mamba`"), "{}", error());
        let mut odd = llama("llama");
        odd[1].1 = Value::U32(3);
        write(&path, &odd, &q());
        assert!(error().contains("`llama.attention.head_count` (3) does not divide"), "{}", error());
        write(&path, &llama("llama"), &q());
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 3, 20, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(
                error().contains("no GGUF file") || error().contains("cut short"),
                "{length}: {}",
                error()
            );
        }
        for zero in [Value::U32(0), Value::U16(0), Value::I8(0)] {
            write(&path, &[llama("llama"), vec![("general.alignment", zero)]].concat(), &[]);
            assert!(error().contains("`general.alignment` is 0"));
        }
        // candle does not see the NUL.
        write(&path, &[llama("llama"), vec![("general.alignment\0", Value::U32(0))]].concat(), &[]);
        assert!(error().contains("`general.alignment` is 0"));
        write(&path, &[llama("llama"), vec![("general.alignment", Value::U32(32))]].concat(), &[]);
        assert!(GgufWeights::open(&path).is_ok());
    }
}
