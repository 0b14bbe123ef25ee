//! Matrices as files hold them: bytes in one of several formats, not yet a backend's.

use std::fmt;
use std::ops::Range;

use burn::tensor::Bytes;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// How the numbers of a tensor are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredDtype {
    /// 32 bits each.
    F32,
    /// 16 bits each, of which 8 are the exponent.
    Bf16,
    /// 16 bits each, of which 5 are the exponent.
    F16,
    /// Blocks of quantised numbers along a row.
    Blocks(BlockFormat),
}

impl StoredDtype {
    /// Blocks of 32 signed bytes and a scale (GGUF's Q8_0): 8.5 bits a number.
    pub const Q8_0: Self = Self::Blocks(BlockFormat(GgmlDType::Q8_0));
    /// Blocks of 32 numbers of 4 bits and a scale (GGUF's Q4_0): 4.5 bits a number.
    pub const Q4_0: Self = Self::Blocks(BlockFormat(GgmlDType::Q4_0));
    /// Blocks of 32 numbers of 4 bits, a scale and a least number (GGUF's Q4_1): 5 bits a number.
    pub const Q4_1: Self = Self::Blocks(BlockFormat(GgmlDType::Q4_1));

    /// Numbers that are written together: 1, or as many as a block holds.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => 1,
            Self::Blocks(format) => format.0.block_size(),
        }
    }

    /// The bytes of [`StoredDtype::block_values`] numbers.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Blocks(format) => format.0.type_size(),
        }
    }

    /// The bytes of `values` numbers; `None` where they are not whole blocks or too many to count.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let whole = values.is_multiple_of(self.block_values());
        whole.then(|| (values / self.block_values()).checked_mul(self.block_bytes()))?
    }

    /// Widens `bytes`, as many as `out` needs, in the machine's byte order.
    ///
    /// # Errors
    /// Where the blocks are of a format that cannot be read.
    ///
    /// # Panics
    /// If the lengths do not fit, or 16-bit words are not aligned.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
        assert_eq!(self.bytes(out.len()), Some(bytes.len()), "as many bytes as the numbers take");
        match self {
            Self::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
            Self::Bf16 => {
                let words = bytemuck::cast_slice::<u8, u16>(bytes);
                out.iter_mut()
                    .zip(words)
                    .for_each(|(out, word)| *out = f32::from_bits(u32::from(*word) << 16));
            }
            // The CPU has an instruction for it.
            Self::F16 => bytemuck::cast_slice::<u8, f16>(bytes).convert_to_f32_slice(out),
            Self::Blocks(format) => format.dequantise(bytes, out)?,
        }
        Ok(())
    }

    /// Rounds `values` to the nearest numbers of the type, ties to even, as bytes in the machine's order; whole blocks as llama.cpp quantises
    /// them without weights of importance.
    ///
    /// # Panics
    /// If the lengths do not fit, or candle does not quantise to the blocks.
    pub fn narrow(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(self.bytes(values.len()), Some(out.len()), "as many bytes as the numbers take");
        match self {
            Self::F32 => out.copy_from_slice(bytemuck::cast_slice(values)),
            Self::Bf16 => {
                let out = out.chunks_exact_mut(2).zip(values);
                out.for_each(|(out, v)| out.copy_from_slice(&bf16::from_f32(*v).to_bits().to_ne_bytes()));
            }
            Self::F16 => {
                let out = out.chunks_exact_mut(2).zip(values);
                out.for_each(|(out, v)| out.copy_from_slice(&f16::from_f32(*v).to_bits().to_ne_bytes()));
            }
            Self::Blocks(format) => format.quantise(values, out).expect("a format that is quantised to"),
        }
    }
}

impl fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::Bf16 => f.write_str("bf16"),
            Self::F16 => f.write_str("f16"),
            Self::Blocks(format) => format.fmt(f),
        }
    }
}

impl From<GgmlDType> for StoredDtype {
    fn from(dtype: GgmlDType) -> Self {
        match dtype {
            GgmlDType::F32 => Self::F32,
            GgmlDType::BF16 => Self::Bf16,
            GgmlDType::F16 => Self::F16,
            blocks => Self::Blocks(BlockFormat(blocks)),
        }
    }
}

/// One of GGUF's formats of quantised blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFormat(pub(crate) GgmlDType);

/// Why blocks cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BlockError(#[from] pub candle_core::Error);

impl BlockFormat {
    /// Quantises `values`, whole blocks, to `out`.
    fn quantise(self, values: &[f32], out: &mut [u8]) -> Result<(), BlockError> {
        let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
        out.copy_from_slice(&QTensor::quantize(&values, self.0)?.data()?);
        Ok(())
    }

    /// Dequantises `bytes`, whole blocks, to `out`.
    fn dequantise(self, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
        // candle reads the blocks in place as structs, which must be aligned.
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        let aligned = &mut bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()];
        aligned.copy_from_slice(bytes);
        let tensor = qtensor_from_ggml(self.0, aligned, vec![out.len()], &Device::Cpu)?;
        out.copy_from_slice(&tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>()?);
        Ok(())
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A row-major matrix `[rows, columns]` as a file holds it. Rows are whole blocks.
pub struct StoredMatrix {
    dtype: StoredDtype,
    shape: [usize; 2],
    /// In the machine's byte order.
    bytes: Bytes,
}

impl StoredMatrix {
    /// A matrix of these bytes, which are aligned for the words of `dtype`.
    ///
    /// # Panics
    /// If there are not as many bytes as `shape` needs, or a row is not made of whole blocks.
    pub fn new(dtype: StoredDtype, shape: [usize; 2], bytes: Bytes) -> Self {
        let row = dtype.bytes(shape[1]).expect("a row of whole blocks");
        assert_eq!(shape[0] * row, bytes.len(), "as many bytes as {shape:?} needs");
        Self { dtype, shape, bytes }
    }

    /// A matrix of f32.
    ///
    /// # Panics
    /// If there are not as many values as `shape` says.
    pub fn from_f32(values: Vec<f32>, shape: [usize; 2]) -> Self {
        Self::new(StoredDtype::F32, shape, Bytes::from_elems(values))
    }

    /// How its numbers are written.
    pub fn dtype(&self) -> StoredDtype {
        self.dtype
    }

    /// `[rows, columns]`
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as they are, for a tensor.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Adds the rows `rows`, widened, to `out`.
    ///
    /// # Panics
    /// If there are no such rows, or their blocks cannot be read.
    pub fn widen_rows(&self, rows: Range<usize>, out: &mut Vec<f32>) {
        let columns = self.shape[1];
        let row = self.bytes.len() / self.shape[0].max(1);
        let from = out.len();
        out.resize(from + rows.len() * columns, 0.0);
        let bytes = &self.bytes[rows.start * row..rows.end * row];
        self.dtype.widen(bytes, &mut out[from..]).expect("blocks that were read before");
    }
}

impl fmt::Debug for StoredMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredMatrix({} {:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_number_and_ties_to_even() {
        // Halfway between two bf16, of which the lower, then the upper, is even; then just above halfway.
        let values = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001].map(f32::from_bits);
        let mut bytes = vec![0; 6];
        StoredDtype::Bf16.narrow(&values, &mut bytes);
        let matrix = StoredMatrix::new(StoredDtype::Bf16, [1, 3], Bytes::from_elems(words(&bytes)));
        let mut wide = Vec::new();
        matrix.widen_rows(0..1, &mut wide);
        assert_eq!(wide, [0x3f80_0000, 0x3f82_0000, 0x3f81_0000].map(f32::from_bits));
        StoredDtype::F16.narrow(&[1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 0.1], &mut bytes);
        let mut wide = [0.0; 3];
        StoredDtype::F16.widen(bytemuck::cast_slice(&words(&bytes)), &mut wide).unwrap();
        assert_eq!(wide, [1.0, 1.0 + 1.0 / 512.0, 0.099975586]);
    }

    fn words(bytes: &[u8]) -> Vec<u16> {
        bytes.chunks(2).map(|w| u16::from_ne_bytes([w[0], w[1]])).collect()
    }

    #[test]
    fn rows_are_widened_in_any_part() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let matrix = StoredMatrix::from_f32(values.clone(), [4, 3]);
        let mut rows = vec![7.0];
        matrix.widen_rows(1..3, &mut rows);
        assert_eq!(rows, [&[7.0], &values[3..9]].concat());
    }

    #[test]
    fn a_row_that_is_not_made_of_whole_blocks_has_no_size() {
        let blocks = StoredDtype::from(GgmlDType::Q4_0);
        assert_eq!((blocks.bytes(64), blocks.bytes(65)), (Some(36), None));
        assert_eq!(StoredDtype::F32.bytes(usize::MAX), None);
    }
}
