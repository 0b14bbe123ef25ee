//! The shape of a fresh adapter, under the names of PEFT's `LoraConfig`.

use serde::{Deserialize, Serialize};

use crate::checkpoint::target_modules::projection_names;
use crate::checkpoint::{AdapterConfig, TargetModules};

/// The shape of a fresh adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// Rank of the factors.
    pub lora_r: usize,
    /// Numerator of the scale: the product is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Dropout of the modules' input in training.
    pub lora_dropout: f64,
    /// The modules that get factors; `["all-linear"]` means all seven projections.
    pub target_modules: Vec<String>,
    /// Whether the scale is `lora_alpha / sqrt(r)` instead.
    pub use_rslora: bool,
}

/// What stands for all projections.
const ALL_LINEAR: &str = "all-linear";

impl Default for LoraConfig {
    fn default() -> Self {
        let target_modules = vec![ALL_LINEAR.into()];
        Self { lora_r: 8, lora_alpha: 16.0, lora_dropout: 0.0, target_modules, use_rslora: false }
    }
}

impl LoraConfig {
    /// The adapter's configuration, for the model of this name.
    pub fn adapter(&self, base_model_name_or_path: String) -> AdapterConfig {
        // As PEFT, which writes what the word stands for.
        let targets = match self.target_modules == [ALL_LINEAR] {
            true => projection_names().map(String::from).to_vec(),
            false => self.target_modules.clone(),
        };
        let mut config = AdapterConfig::new(self.lora_r, self.lora_alpha, TargetModules::List(targets));
        config.lora_dropout = self.lora_dropout;
        config.use_rslora = self.use_rslora;
        config.base_model_name_or_path = Some(base_model_name_or_path);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_linear_stands_for_all_projections() {
        let all = LoraConfig::default().adapter("m".into());
        assert_eq!(all.target_modules, TargetModules::List(projection_names().map(String::from).to_vec()));
        assert_eq!((all.r, all.lora_alpha, all.use_rslora), (8, 16.0, false));
        let one = LoraConfig {
            target_modules: vec!["q_proj".into()],
            use_rslora: true,
            lora_dropout: 0.1,
            ..LoraConfig::default()
        };
        let one = one.adapter("m".into());
        assert_eq!(one.target_modules, TargetModules::List(vec!["q_proj".into()]));
        assert_eq!((one.use_rslora, one.lora_dropout), (true, 0.1));
        assert_eq!(one.base_model_name_or_path.as_deref(), Some("m"));
    }
}
