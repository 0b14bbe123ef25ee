//! Tensors of any type as they are stored: bytes, little-endian.

use super::write::header;
use crate::error::Result;
use crate::files::write_with;
use safetensors::tensor::Dtype;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};
use std::path::Path;

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RawTensor {
    /// The type of its values.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major, little-endian.
    pub bytes: Vec<u8>,
}

/// Writes `tensors` to one safetensors file, which appears only when it is complete; those with the widest values stand first, so that all are
/// aligned. Equal input gives equal bytes.
///
/// # Errors
/// When the file cannot be written.
///
/// # Panics
/// If a shape does not fit its bytes.
pub(crate) fn write_raw(
    path: &Path,
    tensors: &BTreeMap<String, RawTensor>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let mut all: Vec<(&String, &RawTensor)> = tensors.iter().collect();
    all.sort_by_key(|(_, tensor)| Reverse(tensor.dtype.bitsize()));
    for (name, RawTensor { dtype, shape, bytes }) in &all {
        let bits = shape.iter().product::<usize>() * dtype.bitsize();
        assert_eq!(bits, 8 * bytes.len(), "`{name}` has the shape {shape:?}");
    }
    let parts = all.iter().map(|(name, t)| (name.as_str(), t.dtype.to_string(), &t.shape[..], t.bytes.len()));
    let header = header(parts, metadata);
    write_with(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&header)?;
        all.iter().try_for_each(|(_, tensor)| file.write_all(&tensor.bytes))?;
        file.flush()
    })
}

#[cfg(test)]
mod tests {
    use super::super::read::read_raw;
    use super::super::write::{NamedTensors, write_safetensors};
    use super::*;

    #[test]
    fn tensors_of_several_types_are_written_aligned_and_read_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let raw = |dtype, shape: &[usize], bytes: &[u8]| RawTensor {
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.to_vec(),
        };
        let tensors = BTreeMap::from([
            ("a".to_string(), raw(Dtype::U8, &[3], &[1, 2, 255])),
            ("b".to_string(), raw(Dtype::F16, &[1, 2], &[0, 60, 1, 0])),
            ("c".to_string(), raw(Dtype::I8, &[0], &[])),
        ]);
        write_raw(&path, &tensors, None).unwrap();
        assert_eq!(read_raw(&path).unwrap(), tensors);
        let bytes = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in &tensors {
            assert_eq!(theirs.tensor(name).unwrap().data(), tensor.bytes, "{name}");
        }
        let place = theirs.tensor("b").unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(place % 2, 0);
    }

    #[test]
    fn f32_is_written_byte_for_byte_as_values_are() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let values = NamedTensors::from([
            ("y".into(), (vec![2], vec![0.1, -0.0])),
            ("x".into(), (vec![1, 1], vec![f32::MAX])),
        ]);
        let metadata = Some(HashMap::from([("k".to_string(), "v".to_string())]));
        write_safetensors(&a, &values, metadata.clone()).unwrap();
        let raw = values.iter().map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name.clone(), RawTensor { dtype: Dtype::F32, shape: shape.clone(), bytes })
        });
        write_raw(&b, &raw.collect(), metadata).unwrap();
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }
}
