//! What a device cannot hold is refused before it is read.

use diffmas_backends::{ModelBackend, StoredDtype, human_bytes};

use super::ComputeDtype;
use crate::error::{Error, Result};

/// A matrix that is to be loaded.
pub(super) struct Planned<'a> {
    pub name: &'a str,
    /// `[out, in]`
    pub shape: [usize; 2],
    /// How it is stored.
    pub dtype: StoredDtype,
    /// Whether all of it is multiplied with at once; else single rows are read.
    pub multiplied: bool,
}

impl Planned<'_> {
    /// The bytes of the largest tensor that it needs where it is stored as `dtype`: GPUs widen what is multiplied with to f32, the only type that is
    /// computed in, as a whole.
    fn needs(&self, dtype: StoredDtype) -> u64 {
        let ComputeDtype::F32 = ComputeDtype::default();
        let values: usize = self.shape.iter().product();
        let bytes = |dtype: StoredDtype| dtype.bytes(values).map_or(u64::MAX, |bytes| bytes as u64);
        if self.multiplied { bytes(dtype).max(bytes(StoredDtype::F32)) } else { bytes(dtype) }
    }
}

/// Refuses a model with a matrix that `device` cannot hold in one piece.
///
/// # Errors
/// Naming the matrix, its size, and the device's.
pub(super) fn check<'a, B: ModelBackend>(
    matrices: impl IntoIterator<Item = Planned<'a>>,
    device: &B::Device,
) -> Result<()> {
    let Some(limit) = B::largest_tensor(device) else { return Ok(()) };
    let too_large = |m: &Planned<'_>| m.needs(m.dtype) > limit;
    let Some(matrix) = matrices.into_iter().filter(too_large).max_by_key(|m| m.needs(m.dtype)) else {
        return Ok(());
    };
    let Planned { name, shape: [out, columns], .. } = matrix;
    let narrower = [StoredDtype::Bf16, StoredDtype::F16];
    let advice = match narrower.into_iter().find(|d| B::keeps(*d, device) && matrix.needs(*d) <= limit) {
        Some(dtype) => format!("--dtype {dtype} needs {}", human_bytes(matrix.needs(dtype))),
        None => "another backend may hold it: `diffmas devices` tells, and CPUs (--backend flex) have no such limit".into(),
    };
    Err(Error::invalid(format!(
        "`{name}` [{out}, {columns}] needs a tensor of {}, but this device of backend {} holds at most {} in one piece; {advice}",
        human_bytes(matrix.needs(matrix.dtype)),
        B::name(device),
        human_bytes(limit),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_multiplied_with_is_widened_and_rows_are_not() {
        let planned =
            |multiplied| Planned { name: "w", shape: [1 << 20, 64], dtype: StoredDtype::Bf16, multiplied };
        assert_eq!(planned(true).needs(StoredDtype::Bf16), 256 << 20);
        assert_eq!(planned(false).needs(StoredDtype::Bf16), 128 << 20);
        assert_eq!(planned(false).needs(StoredDtype::F32), 256 << 20);
    }
}
