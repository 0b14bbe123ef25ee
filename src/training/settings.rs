//! What a run is trained with, so that it goes on with the same.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Recompute, TrainConfig};
use crate::agents::{AdapterSet, TeamConfig};
use crate::backbone::{ComputeDtype, Precision, WeightDtype};
use crate::settings::Settings;

/// Settings that say how long a run goes on, what it keeps and how often it is scored, not what it learns.
const FREE: [&str; 8] = [
    "eval_accuracy",
    "eval_steps",
    "max_skipped_updates",
    "max_steps",
    "memory_limit",
    "num_train_epochs",
    "save_steps",
    "save_total_limit",
];

/// A list, where it is not empty.
fn set<T: Serialize>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

/// Every setting of a run under the name of its flag, as a checkpoint keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunSettings(Settings);

impl RunSettings {
    /// The settings of a run of `team`, which learns `adapters` on the weights that have the hash `base_model_sha256`, where that is
    /// known.
    pub fn new(
        config: &TrainConfig,
        team: &TeamConfig,
        adapters: &AdapterSet,
        base_model_sha256: Option<&str>,
    ) -> Self {
        let mut all = Settings::of(config);
        all.add("", team);
        all.add("adapter_scope", &adapters.scope);
        all.add("base_model_sha256", &base_model_sha256);
        for (name, adapter) in &adapters.adapters {
            let c = &adapter.config;
            let adapter = json!({
                "lora_r": c.r,
                "lora_alpha": c.lora_alpha,
                "target_modules": c.target_modules,
                "rank_pattern": c.rank_pattern,
                "alpha_pattern": c.alpha_pattern,
                "use_rslora": c.use_rslora,
                "lora_dropout": (c.lora_dropout > 0.0).then_some(c.lora_dropout),
                "exclude_modules": c.exclude_modules,
                "layers_to_transform": set(&c.layers_to_transform),
                "layers_pattern": set(&c.layers_pattern),
            });
            all.add(&format!("adapter[{name}]"), &adapter);
        }
        Self(all)
    }

    /// The same with how the base weights are stored and what is computed in.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.0.add("dtype", &precision.weights);
        self.0.add("precision", &precision.compute);
        self
    }

    /// The same with what is recomputed.
    pub fn with_recompute(mut self, recompute: Recompute) -> Self {
        self.0.add("recompute", &recompute);
        self
    }

    /// What was recomputed; everything, before that could be set.
    pub fn recompute(&self) -> Recompute {
        self.0.get("recompute").unwrap_or(Recompute::Always)
    }

    /// What is other in `now`, a sentence each: what a run that goes on may not change, and what it may.
    pub fn changes(&self, now: &Self) -> [Vec<String>; 2] {
        let mut changes = [Vec::new(), Vec::new()];
        let untaught = TrainConfig::default();
        let [before, now] = [self, now].map(|Self(settings)| {
            let mut all = settings.clone();
            // Runs that were begun before these could be set had them.
            all.add_missing("dtype", &WeightDtype::default());
            all.add_missing("precision", &ComputeDtype::default());
            all.add_missing("recompute", &Recompute::Always);
            all.add_missing("adam_beta1", &untaught.adam_beta1);
            all.add_missing("adam_beta2", &untaught.adam_beta2);
            all.add_missing("adam_epsilon", &untaught.adam_epsilon);
            all.add_missing("teacher", &untaught.teacher);
            all.add_missing("distill_weight", &untaught.distill_weight);
            all.add_missing("teacher_tokens", &untaught.teacher_tokens);
            all
        });
        for d in before.differences(&now) {
            let free = usize::from(FREE.contains(&d.name.as_str()));
            changes[free].push(format!("`{}` was {} and is now {}", d.name, d.before, d.now));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_does_not_go_on_with_weights_stored_in_another_way() {
        let bf16 = Precision::stored(WeightDtype::Bf16);
        let [f32, bf16] = [Precision::default(), bf16].map(|p| RunSettings::default().with_precision(p));
        for before in [&f32, &RunSettings::default()] {
            let [refused, _] = before.changes(&bf16);
            assert_eq!(refused, ["`dtype` was \"f32\" and is now \"bf16\""]);
            assert_eq!(before.changes(&f32), [vec![], vec![]] as [Vec<String>; 2]);
        }
    }

    #[test]
    fn some_settings_may_change() {
        let of = |settings| RunSettings(Settings::of(&settings)).with_precision(Precision::default());
        let before = of(json!({"learning_rate": 0.1, "max_steps": 4}));
        let now = of(json!({"learning_rate": 0.2, "max_steps": null}));
        let [refused, applied] = before.changes(&now);
        assert_eq!(refused, ["`learning_rate` was 0.1 and is now 0.2"]);
        assert_eq!(applied, ["`max_steps` was 4 and is now not set"]);
    }
}
