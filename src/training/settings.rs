//! What a run is trained with, so that it goes on with the same.

use std::collections::{BTreeMap, BTreeSet};

use burn::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TrainConfig;
use crate::agents::{AdapterSet, TeamConfig};
use crate::checkpoint::TargetModules;

/// Settings that say how long a run goes on and what it keeps, not what it learns.
const FREE: [&str; 5] =
    ["max_skipped_updates", "max_steps", "num_train_epochs", "save_steps", "save_total_limit"];

/// Every setting of a run under the name of its flag, as a checkpoint keeps them. Settings of one agent or phase stand under its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunSettings(BTreeMap<String, Value>);

impl RunSettings {
    /// The settings of a run of `team`, which learns `adapters`.
    pub fn new<B: Backend>(config: &TrainConfig, team: &TeamConfig, adapters: &AdapterSet<B>) -> Self {
        let mut all = BTreeMap::new();
        flatten("", serde_json::to_value(config).expect("settings are plain data"), &mut all);
        flatten("", serde_json::to_value(team).expect("settings are plain data"), &mut all);
        let scope = serde_json::to_value(adapters.scope).expect("settings are plain data");
        all.insert("adapter_scope".into(), scope);
        for (name, adapter) in &adapters.adapters {
            let c = &adapter.config;
            let target_modules = match &c.target_modules {
                TargetModules::List(names) => serde_json::json!(names),
                TargetModules::Regex(pattern) => serde_json::json!(pattern),
            };
            let adapter = serde_json::json!({
                "lora_r": c.r,
                "lora_alpha": c.lora_alpha,
                "target_modules": target_modules,
                "rank_pattern": c.rank_pattern,
                "alpha_pattern": c.alpha_pattern,
                "use_rslora": c.use_rslora,
            });
            flatten(&format!("adapter[{name}]"), adapter, &mut all);
        }
        Self(all)
    }

    /// What is other in `now`, a sentence each: what a run that goes on may not change, and what it may.
    pub fn changes(&self, now: &Self) -> [Vec<String>; 2] {
        let mut changes = [Vec::new(), Vec::new()];
        let names: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        for name in names {
            let (before, after) = (self.0.get(name), now.0.get(name));
            if before != after {
                let free = usize::from(FREE.contains(&name.as_str()));
                changes[free].push(format!("`{name}` was {} and is now {}", shown(before), shown(after)));
            }
        }
        changes
    }
}

/// Takes `value`, which stands at `path`, apart into `all`: fields by their names, tables of a list by theirs.
fn flatten(path: &str, value: Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            fields.into_iter().for_each(|(name, value)| flatten(&format!("{path}{dot}{name}"), value, all));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (i, item) in items.into_iter().enumerate() {
                let name = item.get("name").and_then(Value::as_str);
                let path = format!("{path}[{}]", name.map_or_else(|| i.to_string(), str::to_string));
                // The order of agents and phases is a setting, too.
                all.insert(path.clone(), Value::from(i));
                flatten(&path, item, all);
            }
        }
        value => {
            all.insert(path.to_string(), value);
        }
    }
}

/// A value as a sentence has it.
fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "not set".to_string(), Value::to_string);
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_compared_one_by_one_and_some_may_change() {
        let settings = |value: Value| {
            let mut all = BTreeMap::new();
            flatten("", value, &mut all);
            RunSettings(all)
        };
        let before = settings(json!({"learning_rate": 0.1, "max_steps": 4, "seed": null,
            "agents": [{"name": "a", "latent_steps": 2}, {"name": "b", "reads": ["a"]}]}));
        assert_eq!(settings(json!({"a": {"b": {"c": 1}}})).0.into_keys().collect::<Vec<_>>(), ["a.b.c"]);
        assert_eq!(before.changes(&before), [Vec::<String>::new(), Vec::new()]);
        let now = settings(json!({"learning_rate": 0.2, "max_steps": null,
            "agents": [{"name": "a", "latent_steps": 3}, {"name": "b", "reads": ["a"], "user": "x".repeat(99)}]}));
        let [refused, applied] = before.changes(&now);
        assert_eq!(
            refused[..2],
            [
                "`agents[a].latent_steps` was 2 and is now 3".to_string(),
                format!("`agents[b].user` was not set and is now \"{}…", "x".repeat(59)),
            ]
        );
        assert_eq!(refused[2..], ["`learning_rate` was 0.1 and is now 0.2"]);
        assert_eq!(applied, ["`max_steps` was 4 and is now not set"]);
    }
}
