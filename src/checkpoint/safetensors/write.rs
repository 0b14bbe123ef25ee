//! Writing: a header, then one tensor after the other, of which only one need be in memory.

use crate::error::{Error, Result};
use crate::files::write_with;
use diffmas_backends::StoredDtype;
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Tensors by name: shape and row-major values.
pub type NamedTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

named_enum! {
    /// How values are stored, under PyTorch's names, as `config.json` has them.
    StoredType, "stored type" {
        /// 32 bits.
        #[default]
        Float32 = "float32",
        /// 16 bits, of which 8 are the exponent.
        Bfloat16 = "bfloat16",
        /// 16 bits, of which 5 are the exponent: nothing above 65504.
        Float16 = "float16",
    }
}

impl StoredType {
    /// The largest finite value.
    pub fn largest(self) -> f32 {
        match self {
            Self::Float32 => f32::MAX,
            Self::Bfloat16 => bf16::MAX.to_f32(),
            Self::Float16 => f16::MAX.to_f32(),
        }
    }

    /// The type in a safetensors header; `None` for one that is not written here.
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::Float32),
            Dtype::BF16 => Some(Self::Bfloat16),
            Dtype::F16 => Some(Self::Float16),
            _ => None,
        }
    }

    /// Its name in a safetensors header, and the bytes of one value.
    fn header(self) -> (&'static str, usize) {
        match self {
            Self::Float32 => ("F32", 4),
            Self::Bfloat16 => ("BF16", 2),
            Self::Float16 => ("F16", 2),
        }
    }

    /// Writes `values` rounded to this type, little-endian.
    fn write(self, values: &[f32], file: &mut impl Write) -> io::Result<()> {
        const CHUNK: usize = 1 << 14;
        let dtype = StoredDtype::from(self);
        let mut bytes = Vec::new();
        for chunk in values.chunks(CHUNK) {
            bytes.resize(chunk.len() * dtype.block_bytes(), 0);
            dtype.narrow(chunk, &mut bytes);
            if cfg!(target_endian = "big") {
                bytes.chunks_exact_mut(dtype.block_bytes()).for_each(<[u8]>::reverse);
            }
            file.write_all(&bytes)?;
        }
        Ok(())
    }
}

impl From<StoredType> for StoredDtype {
    fn from(stored: StoredType) -> Self {
        match stored {
            StoredType::Float32 => Self::F32,
            StoredType::Bfloat16 => Self::Bf16,
            StoredType::Float16 => Self::F16,
        }
    }
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
    let shapes: Vec<_> = tensors.iter().map(|(name, (shape, _))| (name.as_str(), shape.clone())).collect();
    write_tensors(path, StoredType::Float32, &shapes, metadata, |name, _, write| write(&tensors[name].1))
}

/// Writes the tensors of the given names and shapes to one safetensors file, which appears only when it is complete;
/// `values` hands each tensor's values to the function it is given, in as many pieces as it likes, when the tensor's turn comes.
///
/// # Errors
/// What `values` returns, or that a shape does not fit its values or the file cannot be written.
pub fn write_tensors<'a>(
    path: &Path,
    stored: StoredType,
    tensors: &[(&'a str, Vec<usize>)],
    metadata: Option<HashMap<String, String>>,
    mut values: impl FnMut(&'a str, &[usize], &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let (dtype, size) = stored.header();
    let parts = tensors
        .iter()
        .map(|(name, shape)| (*name, dtype.to_string(), &shape[..], shape.iter().product::<usize>() * size));
    let header = header(parts, metadata);
    let mut failure = None;
    let written = write_with(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&header)?;
        for (name, shape) in tensors {
            let (mut count, mut broken) = (0, None);
            let mut write = |piece: &[f32]| {
                count += piece.len();
                stored.write(piece, &mut file).map_err(|error| {
                    let message = Error::file(path, &error);
                    broken = Some(error);
                    message
                })
            };
            let result = values(name, shape, &mut write).and_then(|()| fitting(path, name, shape, count));
            if let Some(error) = broken {
                return Err(error);
            }
            if let Err(error) = result {
                failure = Some(error);
                return Err(io::Error::other("there is nothing to write"));
            }
        }
        file.flush()
    });
    written.map_err(|error| failure.unwrap_or(error))
}

/// The length of the JSON header and the header, filled up so that the values after it are aligned: of each tensor its name, type, shape and
/// bytes.
pub(super) fn header<'a>(
    tensors: impl Iterator<Item = (&'a str, String, &'a [usize], usize)>,
    metadata: Option<HashMap<String, String>>,
) -> Vec<u8> {
    let mut header = Map::new();
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), json!(metadata.into_iter().collect::<BTreeMap<_, _>>()));
    }
    let mut offset = 0;
    for (name, dtype, shape, bytes) in tensors {
        let end = offset + bytes;
        header.insert(name.into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header].concat()
}

/// Refuses a number of values that is not what `shape` says.
fn fitting(path: &Path, name: &str, shape: &[usize], count: usize) -> Result<()> {
    if shape.iter().product::<usize>() == count {
        return Ok(());
    }
    Err(Error::file(path, format!("`{name}` has the shape {shape:?} but {count} values")))
}

#[cfg(test)]
mod tests {
    use super::super::read::read_safetensors;
    use super::*;
    use safetensors::SafeTensors;

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
    fn narrower_types_round_to_the_nearest_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let values: Vec<f32> = (0..40_000).map(|i| (i as f32 - 20_000.0) / 777.0).collect();
        let rounded = |stored| {
            let tensors = [("a", vec![values.len()])];
            let pieces = |_: &str, _: &[usize], write: &mut dyn FnMut(&[f32]) -> Result<()>| {
                values.chunks(30_000).try_for_each(write)
            };
            write_tensors(&path, stored, &tensors, None, pieces).unwrap();
            read_safetensors(&path).unwrap()["a"].1.clone()
        };
        assert_eq!(rounded(StoredType::Float32), values);
        let as_bf16: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
        assert_eq!(rounded(StoredType::Bfloat16), as_bf16);
        let as_f16: Vec<f32> = values.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
        assert_eq!(rounded(StoredType::Float16), as_f16);
    }

    #[test]
    fn a_tensor_that_cannot_be_had_leaves_no_file_and_its_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let write = |values: fn() -> Result<&'static [f32]>| {
            let tensors = [("a", vec![2])];
            write_tensors(&path, StoredType::Float32, &tensors, None, |_, _, write| write(values()?))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(write(|| Err(Error::invalid("no such values"))), "no such values");
        assert!(write(|| Ok(&[1.0])).contains("`a` has the shape [2] but 1 values"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
