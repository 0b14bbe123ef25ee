//! How base weights are stored, and what is computed in.

use diffmas_backends::{ModelBackend, ProductDtype, StoredDtype};

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
    /// What products of base weights with many rows are computed in. They are summed in f32, and so is all else.
    ComputeDtype, "precision" {
        /// 32 bits.
        #[default]
        F32 = "f32",
        /// NVIDIA's tensor cores: f32 with 10 bits of fraction in place of 23.
        Tf32 = "tf32",
        /// 16 bits, of which 8 are the exponent.
        Bf16 = "bf16",
        /// 16 bits, of which 5 are the exponent.
        F16 = "f16",
    }
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    /// How base weights are stored.
    pub weights: WeightDtype,
    /// What products with them are computed in.
    pub compute: ComputeDtype,
}

impl Precision {
    /// Weights of this type, computed with in f32.
    pub fn stored(weights: WeightDtype) -> Self {
        Self { weights, ..Self::default() }
    }

    /// Refuses types of weights and of products that `device` does not have.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn check<B: ModelBackend>(self, device: &B::Device) -> Result<()> {
        let lacks = |field: &str, what: &str| {
            Err(Error::invalid(format!("{field}, but this device of backend {} {what}", B::name(device))))
        };
        if self.weights.named(None).is_some_and(|dtype| !B::keeps(dtype, device)) {
            let what = "has no such numbers; f32 works everywhere, and auto takes what it can";
            return lacks(&format!("dtype is {}", self.weights), what);
        }
        match B::multiplies(self.compute.products(), device) {
            Ok(()) => Ok(()),
            Err(what) => lacks(&format!("precision is {}", self.compute), &what),
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

impl ComputeDtype {
    /// What the backend is told.
    pub(crate) fn products(self) -> ProductDtype {
        match self {
            Self::F32 => ProductDtype::F32,
            Self::Tf32 => ProductDtype::Tf32,
            Self::Bf16 => ProductDtype::Bf16,
            Self::F16 => ProductDtype::F16,
        }
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
        let error = "bf61".parse::<ComputeDtype>().unwrap_err().to_string();
        assert_eq!(error, "unknown precision `bf61`; did you mean `bf16`? (known: f32, tf32, bf16, f16)");
    }
}
