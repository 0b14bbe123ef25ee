//! Reading: headers first, then any part of a tensor from its place in the file.

use super::index::{INDEX, SINGLE, weight_map};
use super::raw::RawTensor;
use super::write::{NamedTensors, StoredType};
use crate::checkpoint::weights::{Weights, in_chunks, missing};
use crate::error::{Error, Result};
use crate::files::{Fields, PositionedFile};
use diffmas_backends::StoredDtype;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The weights of a Hugging Face folder: `model.safetensors` or the shards of its index.
///
/// Files stay open and are read tensor by tensor; f32, f16 and bf16 are read.
pub struct SafetensorsWeights {
    /// `model.safetensors` or the index.
    path: PathBuf,
    shards: Vec<Shard>,
    /// The shard that holds each tensor.
    places: BTreeMap<String, usize>,
}

impl SafetensorsWeights {
    /// Opens the weights of the folder `dir` and reads all headers.
    ///
    /// # Errors
    /// When there are none, a shard or an indexed tensor is missing, a tensor is there twice, or a header is
    /// wrong.
    pub fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() {
            return Self::open_file(&single);
        }
        if !index.exists() {
            return Err(Error::file(dir, no_weights(dir)));
        }
        let fields = Fields::read(&index)?;
        let map = weight_map(&fields)?;
        let files: BTreeSet<&String> = map.values().collect();
        let mut shards = Vec::with_capacity(files.len());
        for &file in &files {
            let path = dir.join(file);
            if !path.exists() {
                let why = format!("names the shard `{file}`, but the folder has no such file");
                return Err(fields.error("weight_map", why));
            }
            shards.push(Shard::open(&path)?);
        }
        for (name, file) in &map {
            let shard = files.iter().position(|f| *f == file).map(|at| &shards[at]);
            if !shard.is_some_and(|shard| shard.tensors.contains_key(name)) {
                let why = format!("says that `{file}` holds the tensor `{name}`, but it does not");
                return Err(fields.error("weight_map", why));
            }
        }
        Self::from_shards(&index, shards)
    }

    /// Opens one file of weights.
    ///
    /// # Errors
    /// When it cannot be read or its header is wrong.
    pub(crate) fn open_file(path: &Path) -> Result<Self> {
        Self::from_shards(path, vec![Shard::open(path)?])
    }

    fn from_shards(path: &Path, mut shards: Vec<Shard>) -> Result<Self> {
        prefix_bare_names(&mut shards);
        let mut places = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            for name in shard.tensors.keys() {
                if let Some(other) = places.insert(name.clone(), at) {
                    let other = shards[other].file.path().display();
                    let message = format!("the tensor `{name}` is also in {other}");
                    return Err(Error::file(shard.file.path(), message));
                }
            }
        }
        Ok(Self { path: path.to_path_buf(), shards, places })
    }

    /// How the tensor is stored; `None` when there is no such tensor or its type is not one that is written.
    pub(crate) fn stored_type(&self, name: &str) -> Option<StoredType> {
        StoredType::of(self.shard(name)?.tensors.get(name)?.dtype)
    }

    fn shard(&self, name: &str) -> Option<&Shard> {
        self.places.get(name).map(|at| &self.shards[*at])
    }

    fn found(&self, name: &str) -> Result<&Shard> {
        self.shard(name).ok_or_else(|| missing(&self.path, name))
    }
}

impl Weights for SafetensorsWeights {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shard(name)?.tensors.get(name).map(|tensor| tensor.shape.clone())
    }

    fn dtype(&self, name: &str) -> Option<StoredDtype> {
        self.stored_type(name).map(StoredDtype::from)
    }

    fn read_values(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()> {
        self.found(name)?.read(name, from, out)
    }

    fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<()> {
        self.found(name)?.read_bytes(name, out)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self) -> Vec<&Path> {
        self.shards.iter().map(|shard| shard.file.path()).collect()
    }

    fn file(&self, name: &str) -> &Path {
        self.shard(name).map_or(&self.path, |shard| shard.file.path())
    }
}

/// Puts `model.` before the names of a model that was saved without its head (transformers' `base_model_prefix`), where no name has it.
fn prefix_bare_names(shards: &mut [Shard]) {
    const PREFIX: &str = "model.";
    let mut names = shards.iter().flat_map(|shard| shard.tensors.keys());
    if names.any(|name| name.starts_with(PREFIX)) {
        return;
    }
    for shard in shards {
        let tensors = std::mem::take(&mut shard.tensors).into_iter();
        let prefixed = |(name, stored): (String, Stored)| {
            let inside = ["embed_tokens.", "layers.", "norm."].iter().any(|part| name.starts_with(part));
            (if inside { format!("{PREFIX}{name}") } else { name }, stored)
        };
        shard.tensors = tensors.map(prefixed).collect();
    }
}

/// Reads every tensor of one safetensors file (f32, f16 or bf16) as f32.
///
/// # Errors
/// When the file cannot be read, its header is wrong, or a tensor has another type.
pub fn read_safetensors(path: &Path) -> Result<NamedTensors> {
    let shard = Shard::open(path)?;
    let read = |(name, tensor): (&String, &Stored)| {
        let mut values = vec![0.0; tensor.shape.iter().product()];
        in_chunks(&mut values, |from, out| shard.read(name, from, out))?;
        Ok((name.clone(), (tensor.shape.clone(), values)))
    };
    shard.tensors.iter().map(read).collect()
}

/// Reads every tensor of one safetensors file as it is stored.
///
/// # Errors
/// When the file cannot be read or its header is wrong.
pub(crate) fn read_raw(path: &Path) -> Result<BTreeMap<String, RawTensor>> {
    let Shard { file, tensors } = Shard::open(path)?;
    let read = |(name, Stored { dtype, shape, offset }): (String, Stored)| {
        let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        file.read_at(&mut bytes, offset)?;
        Ok((name, RawTensor { dtype, shape, bytes }))
    };
    tensors.into_iter().map(read).collect()
}

/// The metadata in the header of one safetensors file; empty where it has none.
///
/// # Errors
/// When the file cannot be read or its header is wrong.
pub fn read_safetensors_metadata(path: &Path) -> Result<HashMap<String, String>> {
    let (_, header) = read_header(&PositionedFile::open(path)?)?;
    Ok(header.metadata().clone().unwrap_or_default())
}

/// Where and how one tensor is stored.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
}

/// One safetensors file whose header has been checked.
struct Shard {
    file: PositionedFile,
    tensors: BTreeMap<String, Stored>,
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let file = PositionedFile::open(path)?;
        let (start, header) = read_header(&file)?;
        let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            let offset = start + info.data_offsets.0 as u64;
            (name, Stored { dtype: info.dtype, shape: info.shape.clone(), offset })
        };
        let tensors = header.tensors().into_iter().map(stored).collect();
        Ok(Self { file, tensors })
    }

    /// The tensor's values from the `from`-th on, as many as `out` holds.
    fn read(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor(name)?;
        let Some(dtype) = StoredType::of(tensor.dtype).map(StoredDtype::from) else {
            let why =
                format!("the tensor `{name}` is stored as {}; F32, F16 and BF16 are read", tensor.dtype);
            return Err(Error::file(self.file.path(), why));
        };
        let at = tensor.offset + (from * dtype.block_bytes()) as u64;
        if dtype == StoredDtype::F32 {
            return self.read_words(dtype, bytemuck::cast_slice_mut(out), at);
        }
        let mut words = vec![0_u16; out.len()];
        let bytes = bytemuck::cast_slice_mut(&mut words);
        self.read_words(dtype, bytes, at)?;
        dtype.widen(bytes, out).expect("words are no blocks");
        Ok(())
    }

    /// The tensor's bytes, read in parallel to where they stay.
    fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<()> {
        const PART: usize = 1 << 20;
        let tensor = self.tensor(name)?;
        let dtype = StoredType::of(tensor.dtype).map_or(StoredDtype::F32, StoredDtype::from);
        out.par_chunks_mut(PART)
            .enumerate()
            .try_for_each(|(at, out)| self.read_words(dtype, out, tensor.offset + (at * PART) as u64))
    }

    fn tensor(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| missing(self.file.path(), name))
    }

    /// Fills `out` with words of `dtype` from the byte `offset` of the file on, in the machine's byte order.
    fn read_words(&self, dtype: StoredDtype, out: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(out, offset)?;
        if cfg!(target_endian = "big") {
            out.chunks_exact_mut(dtype.block_bytes()).for_each(<[u8]>::reverse);
        }
        Ok(())
    }
}

/// The checked header, and where the values begin. The values fill the file without gaps, overlaps or remainder.
fn read_header(file: &PositionedFile) -> Result<(u64, Metadata)> {
    /// The format's own limit.
    const LONGEST: u64 = 100_000_000;
    let incomplete =
        |why: String| Error::file(file.path(), format!("this is no complete safetensors file: {why}"));
    let mut length = [0; size_of::<u64>()];
    let first = length.len() as u64;
    if file.length() < first {
        return Err(incomplete(format!("it has {} bytes", file.length())));
    }
    file.read_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST || length > file.length() - first {
        let why = format!("its first bytes claim a header of {length} bytes, the file has {}", file.length());
        return Err(incomplete(why));
    }
    let mut header = vec![0; length as usize];
    file.read_at(&mut header, first)?;
    // Deserialising checks each tensor's offsets against its shape and against its neighbours'.
    let header: Metadata = serde_json::from_slice(&header).map_err(|error| incomplete(error.to_string()))?;
    let (start, values) = (first + length, header.data_len() as u64);
    if start.checked_add(values) != Some(file.length()) {
        let found = file.length() - start;
        return Err(incomplete(format!("its tensors take {values} bytes, but {found} follow the header")));
    }
    Ok((start, header))
}

/// What to say about a folder without safetensors.
fn no_weights(dir: &Path) -> &'static str {
    if dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists() {
        "the folder has only `pytorch_model.bin`; save the model again as safetensors (`save_pretrained`)"
    } else {
        "the folder has neither `model.safetensors` nor `model.safetensors.index.json`"
    }
}

#[cfg(test)]
mod tests {
    use super::super::write::write_safetensors;
    use super::*;
    use crate::checkpoint::weights::equal;
    use half::{bf16, f16};
    use safetensors::tensor::TensorView;
    use serde_json::{Value, json};

    fn write_raw(path: &Path, tensors: &[(&str, Dtype, &[u8])]) {
        let views = tensors.iter().map(|(name, dtype, bytes)| {
            let shape = vec![bytes.len() * 8 / dtype.bitsize()];
            (*name, TensorView::new(*dtype, shape, bytes).unwrap())
        });
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn all_three_float_types_give_the_exact_values() {
        let dir = tempfile::tempdir().unwrap();
        let numbers: Vec<f32> = (0..70_000).map(|i| (i as f32 - 35_000.0) / 256.0).collect();
        let halves: Vec<f16> = numbers.iter().map(|v| f16::from_f32(*v)).collect();
        let brains: Vec<bf16> = numbers.iter().map(|v| bf16::from_f32(*v)).collect();
        let file = dir.path().join("model.safetensors");
        let raw: [(&str, Dtype, &[u8]); 4] = [
            ("bf16", Dtype::BF16, bytemuck::cast_slice(&brains)),
            ("f16", Dtype::F16, bytemuck::cast_slice(&halves)),
            ("f32", Dtype::F32, bytemuck::cast_slice(&numbers)),
            ("int", Dtype::I64, &[0; 16]),
        ];
        write_raw(&file, &raw);
        let weights = SafetensorsWeights::open(dir.path()).unwrap();
        assert_eq!(weights.names(), ["bf16", "f16", "f32", "int"]);
        assert_eq!(weights.shape("f16"), Some(vec![70_000]));
        assert_eq!(weights.read_f32("f32").unwrap(), numbers);
        assert!(weights.read_f32("f16").unwrap().iter().zip(&halves).all(|(a, b)| *a == b.to_f32()));
        assert!(weights.read_f32("bf16").unwrap().iter().zip(&brains).all(|(a, b)| *a == b.to_f32()));
        let error = weights.read_f32("int").unwrap_err().to_string();
        assert!(error.contains("`int` is stored as I64"), "{error}");
    }

    #[test]
    fn names_without_their_first_part_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let names = |names: &[&str]| {
            let tensors = names.iter().map(|name| (name.to_string(), (vec![1], vec![1.0]))).collect();
            write_safetensors(&dir.path().join("model.safetensors"), &tensors, None).unwrap();
            SafetensorsWeights::open(dir.path()).unwrap().names()
        };
        let bare = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "lm_head.weight", "norm.weight"];
        let whole = [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.norm.weight",
        ];
        assert_eq!(names(&bare), whole);
        assert_eq!(names(&whole), whole);
        assert_eq!(names(&["model.norm.weight", "norm.weight"]), ["model.norm.weight", "norm.weight"]);
    }

    #[test]
    fn shards_are_read_through_the_index_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let one = |name: &str, value| NamedTensors::from([(name.into(), (vec![1], vec![value]))]);
        write_safetensors(&dir.path().join("s1.safetensors"), &one("a", 1.0), None).unwrap();
        write_safetensors(&dir.path().join("s2.safetensors"), &one("b", 2.0), None).unwrap();
        let open = |index: Value| {
            std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
            SafetensorsWeights::open(dir.path()).map_err(|error| error.to_string())
        };
        let map = |a: &str, b: &str| json!({"metadata": {}, "weight_map": {"a": a, "b": b}});
        let weights = open(map("s1.safetensors", "s2.safetensors")).ok().unwrap();
        assert_eq!(weights.names(), ["a", "b"]);
        assert_eq!(weights.read_f32("b").unwrap(), [2.0]);
        let error = |index| open(index).err().unwrap();
        assert!(error(map("s1.safetensors", "s3.safetensors")).contains("names the shard `s3.safetensors`"));
        assert!(
            error(map("s2.safetensors", "s1.safetensors")).contains("holds the tensor `a`, but it does not")
        );
        assert!(error(map("../s1.safetensors", "s2.safetensors")).contains("does not lie in the folder"));
        let both = NamedTensors::from_iter(one("a", 1.0).into_iter().chain(one("b", 2.0)));
        write_safetensors(&dir.path().join("s1.safetensors"), &both, None).unwrap();
        assert!(error(map("s1.safetensors", "s2.safetensors")).contains("the tensor `b` is also in"));
    }

    #[test]
    fn truncated_and_overlapping_files_are_sentences() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensors = NamedTensors::from([("a".into(), (vec![4], vec![1.0; 4]))]);
        write_safetensors(&path, &tensors, None).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 8, 30, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = SafetensorsWeights::open(dir.path()).err().unwrap().to_string();
            assert!(error.contains("no complete safetensors file"), "{length}: {error}");
        }
        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 12]].concat();
        std::fs::write(&path, bytes).unwrap();
        let error = SafetensorsWeights::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("invalid offset"), "{error}");
        std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        let error = SafetensorsWeights::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("take 16 bytes, but 17 follow"), "{error}");
        std::fs::write(&path, [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat()).unwrap();
        let error = SafetensorsWeights::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("claim a header of 18446744073709551615 bytes"), "{error}");
    }

    #[test]
    fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensors = NamedTensors::from([("a".into(), (vec![4], vec![1.0; 4]))]);
        write_safetensors(&path, &tensors, None).unwrap();
        let weights = SafetensorsWeights::open(dir.path()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(path.metadata().unwrap().len() - 1).unwrap();
        let error = weights.read_f32("a").unwrap_err().to_string();
        assert!(error.contains("model.safetensors: the file cannot be read"), "{error}");
    }

    #[test]
    fn tensors_are_equal_by_value_whatever_their_type() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = ([1.5_f32; 3], [1.5_f32, 1.5, 2.5]);
        let half = [f16::from_f32(1.5); 3];
        let raw: [(&str, Dtype, &[u8]); 4] = [
            ("a", Dtype::F32, bytemuck::cast_slice(&one)),
            ("b", Dtype::F32, bytemuck::cast_slice(&one)),
            ("c", Dtype::F32, bytemuck::cast_slice(&two)),
            ("d", Dtype::F16, bytemuck::cast_slice(&half)),
        ];
        write_raw(&dir.path().join("model.safetensors"), &raw);
        let weights = SafetensorsWeights::open(dir.path()).unwrap();
        let equal = |b| equal((&weights, "a"), (&weights, b)).unwrap();
        assert!(equal("b") && !equal("c") && equal("d"));
    }

    #[test]
    fn a_folder_without_safetensors_says_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        assert!(SafetensorsWeights::open(dir.path()).err().unwrap().to_string().contains("neither"));
        std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        assert!(SafetensorsWeights::open(dir.path()).err().unwrap().to_string().contains("save_pretrained"));
    }
}
