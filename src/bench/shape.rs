//! Sizes of published models, for random weights.

use crate::backbone::{BackboneConfig, Family, RopeConfig, RopeScaling};
use crate::error::Result;

named_enum! {
    /// The sizes of a published model, as its `config.json` has them.
    Shape, "shape" {
        /// HuggingFaceTB/SmolLM2-135M-Instruct
        #[default]
        Smollm2_135m = "smollm2-135m",
        /// Qwen/Qwen3-0.6B
        Qwen3_0_6b = "qwen3-0.6b",
        /// Qwen/Qwen3-4B
        Qwen3_4b = "qwen3-4b",
        /// Qwen/Qwen3-8B
        Qwen3_8b = "qwen3-8b",
    }
}

/// Short names.
const SHORT: [(&str, Shape); 4] = [
    ("135m", Shape::Smollm2_135m),
    ("0.6b", Shape::Qwen3_0_6b),
    ("4b", Shape::Qwen3_4b),
    ("8b", Shape::Qwen3_8b),
];

impl Shape {
    /// The shape of this name, whole or the size alone (`8b`), in any case.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(text: &str) -> Result<Self> {
        let text = text.to_lowercase();
        match SHORT.iter().find(|(short, _)| *short == text) {
            Some((_, shape)) => Ok(*shape),
            None => text.parse(),
        }
    }

    /// The sizes.
    pub fn config(self) -> BackboneConfig {
        match self {
            Self::Smollm2_135m => BackboneConfig {
                family: Family::Llama,
                vocab_size: 49_152,
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: 3,
                head_dim: 64,
                rms_norm_eps: 1e-5,
                rope: RopeConfig { theta: 100_000.0, scaling: RopeScaling::None },
                max_position_embeddings: 8192,
                tie_word_embeddings: true,
                qkv_bias: false,
                o_bias: false,
                mlp_bias: false,
                qk_norm: false,
                eos_token_ids: vec![2],
            },
            Self::Qwen3_0_6b => qwen3([1024, 3072, 28, 16], true),
            Self::Qwen3_4b => qwen3([2560, 9728, 36, 32], true),
            Self::Qwen3_8b => qwen3([4096, 12_288, 36, 32], false),
        }
    }
}

/// A dense Qwen3: width, width of the MLP, layers and query heads; whether the head is the embedding.
fn qwen3([width, mlp, layers, heads]: [usize; 4], tied: bool) -> BackboneConfig {
    BackboneConfig {
        family: Family::Qwen3,
        vocab_size: 151_936,
        hidden_size: width,
        intermediate_size: mlp,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: 8,
        head_dim: 128,
        rms_norm_eps: 1e-6,
        rope: RopeConfig { theta: 1_000_000.0, scaling: RopeScaling::None },
        max_position_embeddings: 40_960,
        tie_word_embeddings: tied,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: true,
        eos_token_ids: vec![151_645],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_as_many_numbers_as_the_models_are_called_by() {
        // Counted by transformers (`num_parameters`).
        let known = [134_515_008, 596_049_920, 4_022_468_096, 8_190_735_360];
        for (name, count) in Shape::NAMES.iter().zip(known) {
            assert_eq!(Shape::named(name).unwrap().config().num_parameters(), count, "{name}");
        }
    }

    #[test]
    fn a_size_alone_is_a_name_and_a_wrong_one_is_a_sentence() {
        assert_eq!([Shape::named("8b").unwrap(), Shape::named("Qwen3-8B").unwrap()], [Shape::Qwen3_8b; 2]);
        let error = Shape::named("qwen3-7b").unwrap_err().to_string();
        assert!(error.contains("unknown shape `qwen3-7b`; did you mean `qwen3-"), "{error}");
    }
}
