//! What weight decay pulls on, and where to.

use crate::backbone::{ParameterSpec, Pull};

named_enum! {
    /// What weight decay pulls on, and where to.
    Decay, "decay" {
        /// Everything that learns, towards zero.
        #[default]
        All = "all",
        /// As transformers' `Trainer`, which spares biases and norms; here also gates, embeddings and queries, which zero makes silent. The
        /// learned feed is pulled to where it began, the identity.
        Hf = "hf",
    }
}

impl Decay {
    /// Where a matrix is pulled to.
    pub(super) fn pull(self, parameter: &ParameterSpec) -> Pull {
        match self {
            Self::All => Pull::Zero,
            Self::Hf => parameter.pull,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::ParameterGroup;

    #[test]
    fn only_one_of_the_two_asks_what_a_matrix_is() {
        let spec = ParameterSpec::new("x", [1, 1], ParameterGroup::CHANNEL);
        let gate = spec.clone().gate();
        assert_eq!([Decay::All.pull(&gate), Decay::Hf.pull(&gate)], [Pull::Zero, Pull::Nowhere]);
        assert_eq!([Decay::All.pull(&spec), Decay::Hf.pull(&spec)], [Pull::Zero; 2]);
    }
}
