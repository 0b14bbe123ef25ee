//! What weight decay pulls on, and where to.

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

/// Where weight decay pulls a parameter to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pull {
    Zero,
    Identity,
    Nowhere,
}

impl Decay {
    /// Where the parameter `name` is pulled to.
    pub(super) fn pull(self, name: &str) -> Pull {
        let mut parts = name.split('.');
        let (first, last) = (parts.next(), parts.next_back());
        let spared = match (first, last) {
            (Some("cross_attention"), Some("gate")) | (Some("overwrite"), Some("initial")) => true,
            (_, Some(last)) if last == "bias" || last.contains("norm") => true,
            _ => name.starts_with("encoder.queries.") || name.starts_with("cross_attention.sender."),
        };
        match self {
            Self::All => Pull::Zero,
            Self::Hf if spared => Pull::Nowhere,
            Self::Hf if name == "feed.learned" => Pull::Identity,
            Self::Hf => Pull::Zero,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_biases_norms_embeddings_and_queries_are_spared() {
        let hf = |name: &str| Decay::Hf.pull(name);
        for name in [
            "cross_attention.0.gate",
            "cross_attention.sender.planner",
            "encoder.queries.planner",
            "overwrite.bias",
            "overwrite.initial",
            "own.input_layernorm",
        ] {
            assert_eq!((hf(name), Decay::All.pull(name)), (Pull::Nowhere, Pull::Zero), "{name}");
        }
        // The gate of `overwrite` is a matrix, and a role may be called what is spared.
        for name in [
            "overwrite.gate",
            "encoder.k_proj",
            "cross_attention.0.o_proj",
            "adapter.norm.model.layers.0.self_attn.q_proj.lora_A",
        ] {
            assert_eq!(hf(name), Pull::Zero, "{name}");
        }
        assert_eq!(hf("feed.learned"), Pull::Identity);
    }
}
