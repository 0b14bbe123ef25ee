//! Named weights from any kind of file, and a table that notices what is missing, misshapen or left over.

use super::candle_message;
use crate::error::{Error, Result};
use burn::tensor::Bytes;
use diffmas_backends::{BlockError, StoredDtype, StoredMatrix};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;

/// Values that are read at once: whole blocks of every format.
pub(super) const CHUNK: usize = 1 << 17;

/// A file or folder of weights under Hugging Face's names (`model.layers.0.self_attn.q_proj.weight`) and in
/// Hugging Face's layout (`[out, in]`, row-major).
pub trait Weights: Send + Sync {
    /// Every tensor's name.
    fn names(&self) -> Vec<String>;

    /// The tensor's shape; `None` when there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// How the tensor's numbers are written, where its rows can be handed over as they are.
    fn dtype(&self, name: &str) -> Option<StoredDtype>;

    /// Reads the tensor's values from the `from`-th on, as many as `out` holds.
    ///
    /// # Errors
    /// When there is no such tensor or its storage cannot be read as f32.
    fn read_values(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()>;

    /// Reads the tensor's bytes as [`Weights::dtype`] says, in the machine's byte order, as many as `out` holds and the tensor has.
    ///
    /// # Errors
    /// When there is no such tensor or it cannot be read.
    fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<()>;

    /// The file or folder, for messages.
    fn path(&self) -> &Path;

    /// Every file that holds tensors.
    fn files(&self) -> Vec<&Path> {
        vec![self.path()]
    }

    /// The file that holds the tensor, for messages.
    fn file(&self, _name: &str) -> &Path {
        self.path()
    }

    /// How many values the tensor has.
    ///
    /// # Errors
    /// When there is no such tensor.
    fn count(&self, name: &str) -> Result<usize> {
        match self.shape(name) {
            Some(shape) => Ok(shape.iter().product()),
            None => Err(missing(self.path(), name)),
        }
    }

    /// All of the tensor's values.
    ///
    /// # Errors
    /// When there is no such tensor or its storage cannot be read as f32.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.count(name)?];
        in_chunks(&mut values, |from, out| self.read_values(name, from, out))?;
        Ok(values)
    }
}

/// The name of the embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the head.
pub(crate) const HEAD: &str = "lm_head.weight";

/// Whether two tensors have the same values.
///
/// # Errors
/// When one is missing or cannot be read.
pub(super) fn equal((a, first): (&dyn Weights, &str), (b, second): (&dyn Weights, &str)) -> Result<bool> {
    let count = a.count(first)?;
    if b.count(second)? != count {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0.0; CHUNK.min(count)], vec![0.0; CHUNK.min(count)]);
    for from in (0..count).step_by(CHUNK) {
        let length = CHUNK.min(count - from);
        a.read_values(first, from, &mut left[..length])?;
        b.read_values(second, from, &mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Hands out each weight once and at the end names the weights that nobody took.
pub(crate) struct WeightTable<'a> {
    weights: &'a dyn Weights,
    unused: BTreeSet<String>,
}

impl<'a> WeightTable<'a> {
    /// A table over `weights`, of which nothing is taken yet.
    pub fn new(weights: &'a dyn Weights) -> Self {
        Self { weights, unused: weights.names().into_iter().collect() }
    }

    /// Checks names and shapes of everything that will be taken, before anything is read.
    ///
    /// # Errors
    /// One that names all missing tensors, else all those of another shape, with both shapes.
    pub fn require<N: AsRef<str>>(&self, expected: &[(N, Vec<usize>)]) -> Result<()> {
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for (name, shape) in expected {
            let name = name.as_ref();
            match self.weights.shape(name) {
                None => missing.push(name.to_string()),
                Some(found) if found != *shape => misshapen.push(misfit(name, &found, shape)),
                Some(_) => {}
            }
        }
        if !missing.is_empty() {
            return Err(self.error(format!(
                "{}: {}",
                counted(missing.len(), "is missing"),
                missing.join(", ")
            )));
        }
        if !misshapen.is_empty() {
            return Err(self.error(misshapen.join("; ")));
        }
        Ok(())
    }

    /// The values of the tensor `name`, all finite, and a note that it is used.
    ///
    /// # Errors
    /// When it is missing, of another shape than `shape`, unreadable, or holds NaN or an infinity.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check_shape(name, shape)?;
        let values = self.weights.read_f32(name)?;
        if let Some(at) = first_non_finite(&values) {
            return Err(self.not_finite(name, at, values[at]));
        }
        self.unused.remove(name);
        Ok(values)
    }

    /// The same in blocks of rows of the first dimension, in order: `f` gets the first row of each and its values.
    ///
    /// # Errors
    /// As [`WeightTable::take`], and what `f` returns.
    pub fn take_blocks(
        &mut self,
        name: &str,
        shape: &[usize],
        mut f: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        self.check_shape(name, shape)?;
        let width: usize = shape[1..].iter().product::<usize>().max(1);
        let (count, height) = (self.weights.count(name)?, (CHUNK * 8 / width).max(1));
        let mut buffer = vec![0.0; count.min(height * width)];
        for from in (0..count).step_by(height * width) {
            let values = &mut buffer[..(count - from).min(height * width)];
            in_chunks(values, |within, out| self.weights.read_values(name, from + within, out))?;
            if let Some(at) = first_non_finite(values) {
                return Err(self.not_finite(name, from + at, values[at]));
            }
            f(from / width, values)?;
        }
        self.unused.remove(name);
        Ok(())
    }

    /// The matrix `name`, all finite, with its numbers written as `dtype`, and a note that it is used. Numbers that are stored so are handed
    /// over as they are, others are widened, rounded or quantised a piece at a time.
    ///
    /// # Errors
    /// As [`WeightTable::take`], and when `dtype` cannot hold a number.
    ///
    /// # Panics
    /// If a row is not made of whole blocks of `dtype`, or nothing is quantised to these and the matrix is not stored in them.
    pub fn take_matrix(&mut self, name: &str, shape: [usize; 2], dtype: StoredDtype) -> Result<StoredMatrix> {
        if dtype == StoredDtype::F32 {
            return Ok(StoredMatrix::from_f32(self.take(name, &shape)?, shape));
        }
        self.check_shape(name, &shape)?;
        let size = dtype.bytes(shape[1]).expect("rows of whole blocks") * shape[0];
        // The bytes of every format but f32 come in pairs.
        let mut words = vec![0_u16; size / 2];
        if self.weights.dtype(name) == Some(dtype) {
            self.weights.read_bytes(name, bytemuck::cast_slice_mut(&mut words))?;
        } else {
            let narrow = |buffer: &mut Vec<f32>, (at, out): (usize, &mut [u16])| -> Result<()> {
                let out = bytemuck::cast_slice_mut::<u16, u8>(out);
                let values = &mut buffer[..out.len() / dtype.block_bytes() * dtype.block_values()];
                self.weights.read_values(name, at * CHUNK, values)?;
                // A block may hide it.
                if let Some(within) = first_non_finite(values) {
                    return Err(self.not_finite(name, at * CHUNK + within, values[within]));
                }
                dtype.narrow(values, out);
                Ok(())
            };
            let piece = CHUNK / dtype.block_values() * dtype.block_bytes() / 2;
            let pieces = words.par_chunks_mut(piece).enumerate();
            first_error(pieces.map_init(|| vec![0.0; CHUNK], narrow))?;
        }
        let matrix = StoredMatrix::new(dtype, shape, Bytes::from_elems(words));
        self.check_finite(name, &matrix)?;
        self.unused.remove(name);
        Ok(matrix)
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.weights.shape(name) {
            None => Err(missing(self.weights.path(), name)),
            Some(found) if found != shape => {
                Err(Error::file(self.weights.file(name), misfit(name, &found, shape)))
            }
            Some(_) => Ok(()),
        }
    }

    /// Refuses NaN and infinities in a matrix, a piece at a time.
    fn check_finite(&self, name: &str, matrix: &StoredMatrix) -> Result<()> {
        let (dtype, bytes) = (matrix.dtype(), matrix.bytes());
        let size = CHUNK / dtype.block_values() * dtype.block_bytes();
        let check = |(at, bytes): (usize, &[u8])| -> Result<()> {
            let mut values = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_values()];
            let unreadable = |error| unreadable_blocks(self.weights.file(name), name, &error);
            dtype.widen(bytes, &mut values).map_err(unreadable)?;
            match first_non_finite(&values) {
                Some(within) => Err(self.unfit(name, at * CHUNK + within, values[within], dtype)),
                None => Ok(()),
            }
        };
        first_error(bytes.par_chunks(size).enumerate().map(check))
    }

    /// Says that value `at` of a tensor is not finite, or became so as `dtype`.
    fn unfit(&self, name: &str, at: usize, value: f32, dtype: StoredDtype) -> Error {
        let mut stored = [value];
        if let Err(error) = self.weights.read_values(name, at, &mut stored) {
            return error;
        }
        match stored {
            [stored] if stored.is_finite() => Error::file(
                self.weights.file(name),
                format!("the tensor `{name}` holds {stored}, which {dtype} cannot; another `dtype` can"),
            ),
            _ => self.not_finite(name, at, value),
        }
    }

    fn not_finite(&self, name: &str, at: usize, value: f32) -> Error {
        let message = format!("the tensor `{name}` is not finite: its value {at} is {value}");
        Error::file(self.weights.file(name), message)
    }

    /// Ends the loading. `tied` says that the head is the embedding: then a `lm_head.weight` with the very
    /// values of `model.embed_tokens.weight` may be left over; `rotary_emb.inv_freq` buffers always may.
    ///
    /// # Errors
    /// One that names all tensors that nobody took, or says that a tied head differs from the embedding.
    pub fn finish(mut self, tied: bool) -> Result<()> {
        self.unused.retain(|name| !name.ends_with(".rotary_emb.inv_freq"));
        if tied && self.unused.remove(HEAD) {
            let same_shape = self.weights.shape(HEAD) == self.weights.shape(EMBEDDING);
            if !same_shape || !equal((self.weights, HEAD), (self.weights, EMBEDDING))? {
                return Err(self.error(format!(
                    "the configuration says `tie_word_embeddings`, but `{HEAD}` differs from `{EMBEDDING}`"
                )));
            }
        }
        if self.unused.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.unused.iter().map(String::as_str).collect();
        let count = counted(names.len(), "has no place in the model that the configuration describes");
        Err(self.error(format!("{count}: {}", names.join(", "))))
    }

    fn error(&self, message: String) -> Error {
        Error::file(self.weights.path(), message)
    }
}

/// The first of several errors, whichever thread comes to its own sooner.
fn first_error(results: impl IndexedParallelIterator<Item = Result<()>>) -> Result<()> {
    results.find_map_first(Result::err).map_or(Ok(()), Err)
}

/// Fills `out` with values that `read` gives by the place of the first of them, in parallel a chunk at a time.
pub(super) fn in_chunks(
    out: &mut [f32],
    read: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
) -> Result<()> {
    out.par_chunks_mut(CHUNK).enumerate().try_for_each(|(at, out)| read(at * CHUNK, out))
}

/// That there is no tensor `name` in the file or folder at `path`.
pub(super) fn missing(path: &Path, name: &str) -> Error {
    Error::file(path, format!("the tensor `{name}` is missing"))
}

/// That the blocks of the tensor `name` cannot be read.
pub(super) fn unreadable_blocks(path: &Path, name: &str, error: &BlockError) -> Error {
    Error::file(path, format!("the tensor `{name}` cannot be read: {}", candle_message(&error.0)))
}

/// `1 tensor is missing`, `3 tensors are missing`.
fn counted(count: usize, predicate: &str) -> String {
    match count {
        1 => format!("1 tensor {predicate}"),
        n => format!("{n} tensors {}", predicate.replacen("is ", "are ", 1).replacen("has ", "have ", 1)),
    }
}

fn misfit(name: &str, found: &[usize], expected: &[usize]) -> String {
    format!("the tensor `{name}` has the shape {found:?}, but the configuration needs {expected:?}")
}

/// The index of the first NaN or infinity.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 1 << 16;
    let chunk = values.par_chunks(CHUNK).position_first(|chunk| {
        // The exponent is all ones exactly for NaN and infinities; branch-free, so it runs at memory speed.
        chunk.iter().fold(false, |bad, v| bad | (v.to_bits() & 0x7f80_0000 == 0x7f80_0000))
    })?;
    values[chunk * CHUNK..].iter().position(|v| !v.is_finite()).map(|at| chunk * CHUNK + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Memory(BTreeMap<String, Vec<f32>>);

    impl Weights for Memory {
        fn names(&self) -> Vec<String> {
            self.0.keys().cloned().collect()
        }
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.get(name).map(|v| vec![v.len()])
        }
        fn dtype(&self, _name: &str) -> Option<StoredDtype> {
            Some(StoredDtype::F32)
        }
        fn read_values(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()> {
            out.copy_from_slice(&self.0[name][from..from + out.len()]);
            Ok(())
        }
        fn read_bytes(&self, name: &str, out: &mut [u8]) -> Result<()> {
            out.copy_from_slice(bytemuck::cast_slice(&self.0[name]));
            Ok(())
        }
        fn path(&self) -> &Path {
            Path::new("folder")
        }
    }

    fn memory(tensors: &[(&str, &[f32])]) -> Memory {
        Memory(tensors.iter().map(|(name, values)| (name.to_string(), values.to_vec())).collect())
    }

    #[test]
    fn all_missing_tensors_are_named_at_once() {
        let weights = memory(&[("a", &[1.0])]);
        let expected = [("a", vec![1]), ("b", vec![1]), ("c", vec![2, 2])];
        let error = WeightTable::new(&weights).require(&expected).unwrap_err();
        assert_eq!(error.to_string(), "folder: 2 tensors are missing: b, c");
    }

    #[test]
    fn a_wrong_shape_names_the_tensor_and_both_shapes() {
        let weights = memory(&[("a", &[1.0, 2.0])]);
        let message = "folder: the tensor `a` has the shape [2], but the configuration needs [3]";
        let mut table = WeightTable::new(&weights);
        assert_eq!(table.require(&[("a", vec![3])]).unwrap_err().to_string(), message);
        assert_eq!(table.take("a", &[3]).unwrap_err().to_string(), message);
    }

    #[test]
    fn all_unused_tensors_are_named_except_rotary_buffers() {
        let weights = memory(&[("a", &[1.0]), ("b", &[]), ("c", &[]), ("l.0.rotary_emb.inv_freq", &[1.0])]);
        let mut table = WeightTable::new(&weights);
        assert_eq!(table.take("a", &[1]).unwrap(), [1.0]);
        let error = table.finish(false).unwrap_err().to_string();
        assert!(error.starts_with("folder: 2 tensors have no place") && error.ends_with(": b, c"), "{error}");
    }

    #[test]
    fn a_tied_head_must_equal_the_embedding() {
        let finish = |head: &[f32], tied| {
            let weights = memory(&[("model.embed_tokens.weight", &[1.0, 2.0]), ("lm_head.weight", head)]);
            let mut table = WeightTable::new(&weights);
            table.take("model.embed_tokens.weight", &[2]).unwrap();
            table.finish(tied).map_err(|error| error.to_string())
        };
        assert_eq!(finish(&[1.0, 2.0], true), Ok(()));
        assert!(finish(&[1.0, 2.5], true).unwrap_err().contains("differs"));
        assert!(finish(&[1.0], true).unwrap_err().contains("differs"));
        assert!(finish(&[1.0, 2.0], false).unwrap_err().contains("no place"));
    }

    #[test]
    fn weights_that_are_not_finite_are_refused_by_name() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 200_000];
            values[150_001] = bad;
            let weights = memory(&[("a", &values)]);
            let error = WeightTable::new(&weights).take("a", &[200_000]).unwrap_err().to_string();
            assert!(error.contains("`a` is not finite: its value 150001"), "{error}");
        }
        assert_eq!(first_non_finite(&[f32::MAX, f32::MIN, 0.0, f32::MIN_POSITIVE]), None);
    }
}
