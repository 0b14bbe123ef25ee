//! Settings by name, compared one by one.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Settings under their names: `learning_rate`; of one agent or phase, `agents[critic].latent_steps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<String, Value>);

/// A setting that is not the same in two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting.
    pub name: String,
    /// What it was, as a sentence has it; `not set` where it was not there.
    pub before: String,
    /// What it is now.
    pub now: String,
}

impl Settings {
    /// The settings of a struct.
    ///
    /// # Panics
    /// If `value` has parts that JSON cannot hold.
    pub fn of(value: &impl Serialize) -> Self {
        let mut all = Self::default();
        all.add("", value);
        all
    }

    /// Adds a value, or the fields of a struct under `name.`.
    ///
    /// # Panics
    /// If `value` has parts that JSON cannot hold.
    pub fn add(&mut self, name: &str, value: &impl Serialize) {
        flatten(name, serde_json::to_value(value).expect("settings are plain data"), &mut self.0);
    }

    /// Adds a value where there is none of the name.
    pub fn add_missing(&mut self, name: &str, value: &impl Serialize) {
        if !self.0.contains_key(name) {
            self.add(name, value);
        }
    }

    /// The value of a name, where there is one that is a `T`.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.0.get(name)?).ok()
    }

    /// What is other in `now`, by name.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let names: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        let pairs = names.into_iter().map(|name| (name, self.0.get(name), now.0.get(name)));
        pairs
            .filter(|(_, before, now)| before != now)
            .map(|(name, before, now)| Difference {
                name: name.clone(),
                before: shown(before),
                now: shown(now),
            })
            .collect()
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
    fn settings_are_compared_one_by_one() {
        assert_eq!(Settings::of(&json!({"a": {"b": {"c": 1}}})).0.into_keys().collect::<Vec<_>>(), ["a.b.c"]);
        let before = Settings::of(&json!({"learning_rate": 0.1, "seed": null,
            "agents": [{"name": "a", "latent_steps": 2}, {"name": "b", "reads": ["a"]}]}));
        assert_eq!(before.differences(&before), []);
        let now = Settings::of(&json!({"learning_rate": 0.2,
            "agents": [{"name": "a", "latent_steps": 3}, {"name": "b", "reads": ["a"], "user": "x".repeat(99)}]}));
        let difference = |name: &str, before: &str, now: &str| Difference {
            name: name.into(),
            before: before.into(),
            now: now.into(),
        };
        assert_eq!(
            before.differences(&now),
            [
                difference("agents[a].latent_steps", "2", "3"),
                difference("agents[b].user", "not set", &format!("\"{}…", "x".repeat(59))),
                difference("learning_rate", "0.1", "0.2"),
            ]
        );
    }
}
