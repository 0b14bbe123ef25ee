//! Safetensors files: single, sharded through an index, read as f32 and written as f32.

use super::atomic::write_with;
use super::fields::Fields;
use super::weights::Weights;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// Tensors by name: shape and row-major values.
pub type NamedTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The weights of a Hugging Face folder: `model.safetensors` or the shards of its index.
///
/// Files are mapped into memory and converted tensor by tensor; f32, f16 and bf16 are read.
pub struct SafetensorsWeights {
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
        let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        if single.exists() {
            return Self::from_shards(dir, vec![Shard::open(&single)?]);
        }
        if !index.exists() {
            return Err(Error::file(dir, no_weights(dir)));
        }
        let fields = Fields::read(&index)?;
        let map: BTreeMap<String, String> = fields.require("weight_map")?;
        let files: BTreeSet<&String> = map.values().collect();
        let mut shards = Vec::with_capacity(files.len());
        for &file in &files {
            if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) {
                let why = format!("names the shard `{file}`, which does not lie in the folder");
                return Err(fields.error("weight_map", why));
            }
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
        Self::from_shards(dir, shards)
    }

    fn from_shards(dir: &Path, shards: Vec<Shard>) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            for name in shard.tensors.keys() {
                if let Some(other) = places.insert(name.clone(), at) {
                    let other = shards[other].path.display();
                    return Err(Error::file(&shard.path, format!("the tensor `{name}` is also in {other}")));
                }
            }
        }
        Ok(Self { path: dir.to_path_buf(), shards, places })
    }
}

impl Weights for SafetensorsWeights {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let shard = &self.shards[*self.places.get(name)?];
        shard.tensors.get(name).map(|tensor| tensor.shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.places.get(name) {
            Some(&shard) => self.shards[shard].read(name),
            None => Err(Error::file(&self.path, format!("the tensor `{name}` is missing"))),
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads every tensor of one safetensors file (f32, f16 or bf16) as f32.
///
/// # Errors
/// When the file cannot be read, its header is wrong, or a tensor has another type.
pub fn read_safetensors(path: &Path) -> Result<NamedTensors> {
    let shard = Shard::open(path)?;
    let read =
        |(name, tensor): (&String, &Stored)| Ok((name.clone(), (tensor.shape.clone(), shard.read(name)?)));
    shard.tensors.iter().map(read).collect()
}

/// Writes `tensors` as f32 to one safetensors file, which appears only when it is complete. Equal input gives
/// equal bytes.
///
/// # Errors
/// When a shape does not fit its values or the file cannot be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &NamedTensors,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let mut header = Map::new();
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), json!(metadata.into_iter().collect::<BTreeMap<_, _>>()));
    }
    let mut offset = 0;
    for (name, (shape, values)) in tensors {
        if shape.iter().product::<usize>() != values.len() {
            let count = values.len();
            return Err(Error::file(path, format!("`{name}` has the shape {shape:?} but {count} values")));
        }
        let end = offset + values.len() * size_of::<f32>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' '); // aligns the values
    write_with(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, values) in tensors.values() {
            if cfg!(target_endian = "little") {
                file.write_all(bytemuck::cast_slice(values))?;
            } else {
                values.iter().try_for_each(|v| file.write_all(&v.to_le_bytes()))?;
            }
        }
        file.flush()
    })
}

/// One tensor in a mapped file.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// One mapped safetensors file whose header has been checked.
struct Shard {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Stored>,
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::file(path, format!("the file cannot be read: {error}"));
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the mapping is read-only; as for every reader of mapped weights, the file must not be cut
        // short or rewritten in place meanwhile. This program replaces files by renaming only.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let (length, header) = SafeTensors::read_metadata(&map)
            .map_err(|error| Error::file(path, format!("this is no complete safetensors file: {error}")))?;
        let start = size_of::<u64>() + length;
        let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            (name, Stored { dtype: info.dtype, shape: info.shape.clone(), bytes })
        };
        let tensors = header.tensors().into_iter().map(stored).collect();
        Ok(Self { path: path.to_path_buf(), map, tensors })
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Error::file(&self.path, format!("the tensor `{name}` is missing")));
        };
        to_f32(tensor.dtype, &self.map[tensor.bytes.clone()]).ok_or_else(|| {
            let dtype = tensor.dtype;
            Error::file(
                &self.path,
                format!("the tensor `{name}` is stored as {dtype}; F32, F16 and BF16 are read"),
            )
        })
    }
}

/// Little-endian `bytes` of `dtype` as f32, in parallel; `None` for a type that is not read.
fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    const CHUNK: usize = 1 << 16;
    type Convert = fn(&[u8], &mut [f32]);
    let (size, convert): (usize, Convert) = match dtype {
        Dtype::F32 => (4, |bytes, out| {
            let (words, _) = bytes.as_chunks();
            out.iter_mut().zip(words).for_each(|(out, word)| *out = f32::from_le_bytes(*word));
        }),
        Dtype::BF16 => (2, |bytes, out| {
            let (words, _) = bytes.as_chunks();
            out.iter_mut().zip(words).for_each(|(out, word)| {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*word)) << 16);
            });
        }),
        Dtype::F16 => (2, |bytes, out| {
            // Copied first, since a file need not align its values; then the CPU has an instruction for it.
            let (words, _) = bytes.as_chunks();
            let halves: Vec<f16> = words.iter().map(|word| f16::from_le_bytes(*word)).collect();
            halves.convert_to_f32_slice(out);
        }),
        _ => return None,
    };
    let mut values = vec![0.0; bytes.len() / size];
    values
        .par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * size))
        .for_each(|(out, bytes)| convert(bytes, out));
    Some(values)
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
    use super::*;
    use half::bf16;
    use safetensors::tensor::TensorView;

    fn write_raw(path: &Path, tensors: &[(&str, Dtype, &[u8])]) {
        let views = tensors.iter().map(|(name, dtype, bytes)| {
            let shape = vec![bytes.len() * 8 / dtype.bitsize()];
            (*name, TensorView::new(*dtype, shape, bytes).unwrap())
        });
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn written_tensors_are_read_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let tensors = NamedTensors::from([
            ("b".into(), (vec![2, 3], vec![0.1, -0.0, 3.0, f32::MIN_POSITIVE, 1e-45, f32::MAX])),
            ("a".into(), (vec![], vec![7.0])),
            ("c".into(), (vec![0, 4], vec![])),
        ]);
        let metadata = HashMap::from([("format".to_string(), "pt".to_string()), ("x".into(), "y".into())]);
        write_safetensors(&path, &tensors, Some(metadata.clone())).unwrap();
        let read = read_safetensors(&path).unwrap();
        let bits = |t: &NamedTensors| -> Vec<_> {
            t.iter()
                .map(|(n, (s, v))| (n.clone(), s.clone(), v.iter().map(|v| v.to_bits()).collect::<Vec<_>>()))
                .collect()
        };
        assert_eq!(bits(&read), bits(&tensors));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(SafeTensors::read_metadata(&bytes).unwrap().1.metadata(), &Some(metadata));
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
    }

    #[test]
    fn a_folder_without_safetensors_says_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        assert!(SafetensorsWeights::open(dir.path()).err().unwrap().to_string().contains("neither"));
        std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        assert!(SafetensorsWeights::open(dir.path()).err().unwrap().to_string().contains("save_pretrained"));
    }
}
