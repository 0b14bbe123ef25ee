//! The numbers of a message as a file holds them: those that they were rounded to, and their scales.

use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::MessageDtype;
use super::message_dtype::{GREATEST, LEAST};
use crate::checkpoint::{RawTensor, first_non_finite};

impl MessageDtype {
    /// How numbers of the shape `[…, d]` are stored: type and shape.
    fn stored(self, shape: &[usize]) -> (Dtype, Vec<usize>) {
        let (width, rest) = shape.split_last().expect("a vector has a dimension");
        match self {
            Self::F32 => (Dtype::F32, shape.to_vec()),
            Self::Bf16 => (Dtype::BF16, shape.to_vec()),
            Self::Int8 => (Dtype::I8, shape.to_vec()),
            // Two a byte, the first in the lower half.
            Self::Int4 => (Dtype::U8, [rest, &[width.div_ceil(2)]].concat()),
        }
    }

    /// Rounded numbers of the shape `[…, d]`, and the scales `[…]` where there are any; a vector of zeros has the scale 0.
    pub(super) fn pack(self, shape: &[usize], values: &[f32]) -> (RawTensor, Option<RawTensor>) {
        let (dtype, stored) = self.stored(shape);
        let numbers = |bytes| RawTensor { dtype, shape: stored, bytes };
        let Some(levels) = self.levels() else {
            let bytes = match self {
                Self::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            };
            return (numbers(bytes), None);
        };
        let (&width, rest) = shape.split_last().expect("a vector has a dimension");
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        for vector in values.chunks_exact(width) {
            let most = vector.iter().fold(0f32, |most, x| most.max(x.abs()));
            let scale = f16::from_f32((most / levels).clamp(LEAST, GREATEST));
            let whole = |x: &f32| (x / scale.to_f32()).round_ties_even().clamp(-levels, levels) as i8;
            let whole: Vec<i8> = vector.iter().map(whole).collect();
            let scale = if whole.iter().all(|&q| q == 0) { f16::ZERO } else { scale };
            scales.extend(scale.to_le_bytes());
            match self {
                Self::Int4 => bytes.extend(whole.chunks(2).map(|pair| {
                    let half = |i: usize| pair.get(i).map_or(0, |&q| q as u8 & 0x0f);
                    half(0) | half(1) << 4
                })),
                _ => bytes.extend(whole.iter().map(|&q| q as u8)),
            }
        }
        (numbers(bytes), Some(RawTensor { dtype: Dtype::F16, shape: rest.to_vec(), bytes: scales }))
    }

    /// The way back to numbers of the shape `[…, d]`.
    ///
    /// # Errors
    /// What is wrong, after the name of the tensor: its type or shape is another, a number is not finite or too large, a scale is missing or
    /// none.
    pub(super) fn unpack(
        self,
        shape: &[usize],
        numbers: &RawTensor,
        scales: Option<&RawTensor>,
    ) -> Result<Vec<f32>, String> {
        let (dtype, stored) = self.stored(shape);
        check(numbers, dtype, &stored)?;
        let (&width, rest) = shape.split_last().expect("a vector has a dimension");
        let words = || numbers.bytes.chunks_exact(2).map(|word| [word[0], word[1]]);
        let Some(levels) = self.levels() else {
            let values: Vec<f32> = match self {
                Self::Bf16 => words().map(|word| bf16::from_le_bytes(word).to_f32()).collect(),
                _ => bytemuck::pod_collect_to_vec(&numbers.bytes),
            };
            return match first_non_finite(&values) {
                Some(at) => Err(format!("is not finite: its value {at} is {}", values[at])),
                None => Ok(values),
            };
        };
        let scales = scales.ok_or("has no scales")?;
        check(scales, Dtype::F16, rest).map_err(|why| format!("cannot be scaled: its scale {why}"))?;
        let mut values = Vec::with_capacity(shape.iter().product());
        let vectors = numbers.bytes.chunks_exact(stored[stored.len() - 1].max(1));
        for (at, (vector, scale)) in vectors.zip(scales.bytes.chunks_exact(2)).enumerate() {
            let scale = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
            if !(0.0..=GREATEST).contains(&scale) {
                return Err(format!("has a scale that is none: its value {at} is {scale}"));
            }
            let whole = |i: usize| match self {
                // The upper half of a byte with its sign, or the lower one shifted there.
                Self::Int4 => (vector[i / 2] << (4 * (1 - i % 2))) as i8 >> 4,
                _ => vector[i] as i8,
            };
            for q in (0..width).map(whole).map(f32::from) {
                if q.abs() > levels {
                    return Err(format!("holds {q}, but its numbers are at most {levels} in size"));
                }
                values.push(q * scale);
            }
        }
        Ok(values)
    }
}

/// Refuses a tensor of another type or shape.
fn check(tensor: &RawTensor, dtype: Dtype, shape: &[usize]) -> Result<(), String> {
    if tensor.dtype != dtype {
        return Err(format!("is stored as {} instead of {dtype}", tensor.dtype));
    }
    if tensor.shape != shape {
        return Err(format!("has the shape {:?} instead of {shape:?}", tensor.shape));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 2] = [3, 5];

    /// Two vectors of whole numbers up to 7 by a scale, and one of zeros.
    fn values() -> Vec<f32> {
        [
            [7.0, -7.0, 2.0, 0.0, -1.0].map(|q| q * 0.125),
            [3.0, 0.0, -4.0, 7.0, 1.0].map(|q| q * 6.0),
            [0.0; 5],
        ]
        .concat()
    }

    #[test]
    fn rounded_numbers_come_back_to_the_bit_and_take_what_is_said() {
        for dtype in [MessageDtype::F32, MessageDtype::Bf16, MessageDtype::Int4] {
            let (numbers, scales) = dtype.pack(&SHAPE, &values());
            assert_eq!(dtype.unpack(&SHAPE, &numbers, scales.as_ref()).unwrap(), values(), "{dtype}");
            let bytes = numbers.bytes.len() + scales.as_ref().map_or(0, |scales| scales.bytes.len());
            assert_eq!(bytes, 3 * dtype.bytes(5, 4), "{dtype}");
        }
        let wide: Vec<f32> =
            values().iter().map(|x| x * 127.0 / 7.0).map(|x| (x / 0.125).round() * 0.125).collect();
        let (numbers, scales) = MessageDtype::Int8.pack(&SHAPE, &wide[..5].repeat(3));
        assert_eq!((numbers.dtype, numbers.bytes[..2].to_vec()), (Dtype::I8, vec![127, 129]));
        let back = MessageDtype::Int8.unpack(&SHAPE, &numbers, scales.as_ref()).unwrap();
        assert_eq!(back[..5], wide[..5]);
        // Two numbers a byte, the first in the lower half; a vector of zeros has no scale.
        let (numbers, scales) = MessageDtype::Int4.pack(&SHAPE, &values());
        assert_eq!(numbers.bytes[..3], [0x97, 0x02, 0x0f]);
        assert_eq!(scales.unwrap().bytes[4..], [0, 0]);
    }

    #[test]
    fn what_is_no_packed_tensor_is_refused() {
        let (numbers, scales) = MessageDtype::Int4.pack(&SHAPE, &values());
        let scales = scales.unwrap();
        let error = |numbers: &RawTensor, scales: Option<&RawTensor>| {
            MessageDtype::Int4.unpack(&SHAPE, numbers, scales).unwrap_err()
        };
        assert_eq!(error(&numbers, None), "has no scales");
        let wrong = RawTensor { dtype: Dtype::I8, ..numbers.clone() };
        assert_eq!(error(&wrong, Some(&scales)), "is stored as I8 instead of U8");
        let wrong = RawTensor { shape: vec![3, 5], ..numbers.clone() };
        assert_eq!(error(&wrong, Some(&scales)), "has the shape [3, 5] instead of [3, 3]");
        let short = RawTensor { shape: vec![2], ..scales.clone() };
        assert_eq!(
            error(&numbers, Some(&short)),
            "cannot be scaled: its scale has the shape [2] instead of [3]"
        );
        for (scale, said) in [(f16::INFINITY, "inf"), (f16::NAN, "NaN"), (f16::from_f32(-1.0), "-1")] {
            let mut wrong = scales.clone();
            wrong.bytes[2..4].copy_from_slice(&scale.to_le_bytes());
            assert_eq!(
                error(&numbers, Some(&wrong)),
                format!("has a scale that is none: its value 1 is {said}")
            );
        }
        let mut wrong = numbers.clone();
        wrong.bytes[1] = 0x80;
        assert_eq!(error(&wrong, Some(&scales)), "holds -8, but its numbers are at most 7 in size");
        let (mut numbers, _) = MessageDtype::Bf16.pack(&SHAPE, &values());
        numbers.bytes[2..4].copy_from_slice(&bf16::NAN.to_le_bytes());
        let error = MessageDtype::Bf16.unpack(&SHAPE, &numbers, None).unwrap_err();
        assert_eq!(error, "is not finite: its value 1 is NaN");
    }
}
