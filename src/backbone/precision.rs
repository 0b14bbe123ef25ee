//! How base weights are stored, and what is computed in.

use diffmas_backends::{ModelBackend, StoredDtype};

use crate::error::{Error, Result};

named_enum! {
    /// How base weights are stored. Norms and biases are f32 always.
    WeightDtype, "dtype" {
        /// 32 bits each.
        #[default]
        F32 = "f32",
        /// 16 bits each, of which 8 are the exponent.
        Bf16 = "bf16",
        /// 16 bits each, of which 5 are the exponent: nothing above 65504.
        F16 = "f16",
        /// 8 bits each and 16 for every 32 of a row: GGUF's Q8_0.
        Q8 = "q8",
        /// 4 bits each and 16 for every 32 of a row: GGUF's Q4_0; Q4_1 where a file has that.
        Q4 = "q4",
        /// As the file has them, quantised blocks too, where the backend can keep them; else f32.
        Auto = "auto",
    }
}

named_enum! {
    /// What activations are computed in.
    ComputeDtype, "precision" {
        /// 32 bits.
        #[default]
        F32 = "f32",
    }
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    /// How base weights are stored.
    pub weights: WeightDtype,
    /// What activations are computed in.
    pub compute: ComputeDtype,
}

impl Precision {
    /// Weights of this type, computed with in f32.
    pub fn stored(weights: WeightDtype) -> Self {
        Self { weights, ..Self::default() }
    }

    /// Refuses a type of weights that `device` does not have.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn check<B: ModelBackend>(self, device: &B::Device) -> Result<()> {
        match self.weights.named(None) {
            Some(dtype) if !B::keeps(dtype, device) => Err(Error::invalid(format!(
                "dtype is {}, but this device of backend {} has no such numbers; f32 works everywhere, and auto takes what it can",
                self.weights,
                B::name(device)
            ))),
            _ => Ok(()),
        }
    }

    /// How a matrix of `columns` that the file has as `stored` is kept on `device`; f32 where a row would not be whole blocks.
    pub(super) fn of<B: ModelBackend>(
        self,
        stored: Option<StoredDtype>,
        columns: usize,
        device: &B::Device,
    ) -> StoredDtype {
        let kept = || stored.filter(|dtype| B::keeps(*dtype, device));
        let wanted = self.weights.named(stored).or_else(kept);
        wanted.filter(|dtype| dtype.bytes(columns).is_some()).unwrap_or(StoredDtype::F32)
    }
}

impl WeightDtype {
    /// The type that it names, for numbers that the file has as `stored`.
    fn named(self, stored: Option<StoredDtype>) -> Option<StoredDtype> {
        match self {
            Self::F32 => Some(StoredDtype::F32),
            Self::Bf16 => Some(StoredDtype::Bf16),
            Self::F16 => Some(StoredDtype::F16),
            Self::Q8 => Some(StoredDtype::Q8_0),
            Self::Q4 => stored.filter(|dtype| *dtype == StoredDtype::Q4_1).or(Some(StoredDtype::Q4_0)),
            Self::Auto => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_is_a_sentence_that_lists_the_right_ones() {
        let error = "bf61".parse::<WeightDtype>().unwrap_err().to_string();
        assert_eq!(error, "unknown dtype `bf61`; did you mean `bf16`? (known: f32, bf16, f16, q8, q4, auto)");
        let error = "bf16".parse::<ComputeDtype>().unwrap_err().to_string();
        assert_eq!(error, "unknown precision `bf16`; known: f32");
    }
}
