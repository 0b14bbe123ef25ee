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
        match self.weights.named() {
            Some(dtype) if !B::keeps(dtype, device) => Err(Error::invalid(format!(
                "dtype is {}, but this device of backend {} has no such numbers; f32 works everywhere, and auto takes what it can",
                self.weights,
                B::name(device)
            ))),
            _ => Ok(()),
        }
    }

    /// How a matrix that the file has as `stored` is kept on `device`.
    pub(super) fn of<B: ModelBackend>(self, stored: Option<StoredDtype>, device: &B::Device) -> StoredDtype {
        let kept = || stored.filter(|dtype| B::keeps(*dtype, device));
        self.weights.named().or_else(kept).unwrap_or(StoredDtype::F32)
    }
}

impl WeightDtype {
    /// The type that it names.
    fn named(self) -> Option<StoredDtype> {
        match self {
            Self::F32 => Some(StoredDtype::F32),
            Self::Bf16 => Some(StoredDtype::Bf16),
            Self::F16 => Some(StoredDtype::F16),
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
        assert_eq!(error, "unknown dtype `bf61`; did you mean `bf16`? (known: f32, bf16, f16, auto)");
        let error = "bf16".parse::<ComputeDtype>().unwrap_err().to_string();
        assert_eq!(error, "unknown precision `bf16`; known: f32");
    }
}
