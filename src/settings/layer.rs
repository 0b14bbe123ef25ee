//! Tables of settings laid over each other: what stands higher wins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::schema::keys;
use crate::error::{Error, Result};

/// Settings from one place.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// What it says, by key.
    pub values: Map<String, Value>,
    /// The file that it stands in, and the line of each key.
    pub(super) source: Option<(PathBuf, BTreeMap<String, usize>)>,
}

/// Settings that exclude each other: the first, where it is on, and each of the others.
pub type Rivals<'a> = &'a [(&'a str, &'a [&'a str])];

/// Two settings of one layer that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// One of them.
    pub one: String,
    /// The other.
    pub other: String,
}

impl Layer {
    /// The fields of `value` that are not `None`.
    ///
    /// # Errors
    /// If a field has no form in JSON.
    pub fn of(value: &impl Serialize) -> Result<Self> {
        let mut value = serde_json::to_value(value)?;
        drop_nulls(&mut value);
        match value {
            Value::Object(values) => Ok(Self { values, source: None }),
            _ => unreachable!("settings are a struct"),
        }
    }

    /// Takes keys out, so that another layer holds them.
    pub fn take(&mut self, keys: &[&str]) -> Self {
        let taken = keys.iter().filter_map(|&key| Some((key.to_string(), self.values.shift_remove(key)?)));
        Self { values: taken.collect(), source: self.source.clone() }
    }

    /// Whether a setting is there, and is not `false`.
    fn has(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| *value != Value::Bool(false))
    }

    /// The first of two settings that cannot stand together.
    pub fn conflict(&self, rivals: Rivals<'_>) -> Option<Conflict> {
        pairs(rivals)
            .find(|(one, other)| self.has(one) && self.has(other))
            .map(|(one, other)| Conflict { one: one.into(), other: other.into() })
    }

    /// An error about a conflict here.
    fn refuse(&self, Conflict { one, other }: &Conflict) -> Error {
        let sentence = format!("`{one}` and `{other}` exclude each other; leave one of them out");
        match &self.source {
            Some((path, lines)) => {
                let line = lines.get(one).max(lines.get(other)).copied().unwrap_or(1);
                Error::line(path, line, sentence)
            }
            None => Error::invalid(sentence),
        }
    }
}

/// Leaves out what has no value, which TOML cannot write either.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn pairs<'a>(rivals: Rivals<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    rivals.iter().flat_map(|&(one, others)| others.iter().map(move |&other| (one, other)))
}

/// Layers, merged.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    values: Map<String, Value>,
}

impl Merged {
    /// `layers` laid over each other, the last on top. A setting takes away its rivals in lower layers.
    ///
    /// # Errors
    /// If rivals stand in one layer; where that is a file, it and the line are named.
    pub fn new(layers: impl IntoIterator<Item = Layer>, rivals: Rivals<'_>) -> Result<Self> {
        let mut merged = Self::default();
        for layer in layers {
            if let Some(conflict) = layer.conflict(rivals) {
                return Err(layer.refuse(&conflict));
            }
            for (one, other) in pairs(rivals) {
                if layer.has(one) {
                    merged.values.shift_remove(other);
                }
                if layer.has(other) {
                    merged.values.shift_remove(one);
                }
            }
            lay_over(&mut merged.values, layer.values);
        }
        Ok(merged)
    }

    /// These settings over those of `lower`.
    ///
    /// # Errors
    /// As [`Merged::new`].
    pub fn over(&self, lower: Layer, rivals: Rivals<'_>) -> Result<Self> {
        Self::new([lower, Layer { values: self.values.clone(), source: None }], rivals)
    }

    /// Whether a setting is there.
    pub fn says(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The struct `T` with the settings that are its fields, and its own defaults for the others.
    ///
    /// # Errors
    /// If a value does not fit; those that were read from a file have been checked where they stand.
    pub fn get<T: DeserializeOwned>(&self) -> Result<T> {
        let fields =
            keys::<T>().iter().filter_map(|&key| Some((key.to_string(), self.values.get(key)?.clone())));
        Ok(serde_json::from_value(Value::Object(fields.collect()))?)
    }

    /// As TOML, in the order of the layers.
    ///
    /// # Errors
    /// If a number is larger than those of TOML.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(&self.values)?)
    }
}

/// Lays `upper` over `lower`, key by key. `"NAME"` is short for a table NAME without settings: over a table of that name it changes
/// nothing.
pub fn lay_over(lower: &mut Map<String, Value>, upper: Map<String, Value>) {
    for (key, value) in upper {
        let named = |table: &Value| value.as_str().is_some_and(|name| is_table_of(table, name));
        if !lower.get(&key).is_some_and(named) {
            lower.insert(key, value);
        }
    }
}

/// Whether `value` is a choice, `name`, with settings of its own.
fn is_table_of(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|table| table.len() == 1 && table.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    const RIVALS: Rivals<'static> = &[("greedy", &["temperature", "top_k"]), ("resume", &["overwrite"])];

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default)]
    struct Drawing {
        greedy: bool,
        temperature: f64,
        top_k: usize,
    }

    impl Default for Drawing {
        fn default() -> Self {
            Self { greedy: false, temperature: 0.5, top_k: 7 }
        }
    }

    fn layer(value: Value) -> Layer {
        Layer::of(&value).unwrap()
    }

    fn drawing(layers: &[Value]) -> Drawing {
        Merged::new(layers.iter().cloned().map(layer), RIVALS).unwrap().get().unwrap()
    }

    #[test]
    fn what_stands_higher_wins_and_what_no_layer_says_has_its_default() {
        let d = drawing(&[json!({"temperature": 0.1, "top_k": 3, "other": 1}), json!({"temperature": 0.2})]);
        assert_eq!(d, Drawing { greedy: false, temperature: 0.2, top_k: 3 });
        assert_eq!(drawing(&[]), Drawing::default());
        assert_eq!(drawing(&[json!({"top_k": 3}), json!({"top_k": null})]).top_k, 3, "no value says nothing");
    }

    #[test]
    fn a_setting_takes_away_its_rivals_below_and_only_where_it_is_on() {
        let d = drawing(&[json!({"temperature": 0.1, "top_k": 3}), json!({"greedy": true})]);
        assert_eq!(d, Drawing { greedy: true, ..Drawing::default() });
        let d = drawing(&[json!({"greedy": true}), json!({"temperature": 0.1})]);
        assert_eq!(d, Drawing { temperature: 0.1, ..Drawing::default() });
        let d = drawing(&[json!({"temperature": 0.1}), json!({"greedy": false})]);
        assert_eq!(d, Drawing { temperature: 0.1, ..Drawing::default() });
    }

    #[test]
    fn rivals_in_one_layer_are_told() {
        let both = layer(json!({"greedy": true, "top_k": 3}));
        assert_eq!(both.conflict(RIVALS).unwrap(), Conflict { one: "greedy".into(), other: "top_k".into() });
        let error = Merged::new([both], RIVALS).unwrap_err().to_string();
        assert_eq!(error, "`greedy` and `top_k` exclude each other; leave one of them out");
        assert_eq!(layer(json!({"greedy": false, "top_k": 3})).conflict(RIVALS), None);
    }

    #[test]
    fn a_name_keeps_the_table_of_that_name() {
        let over = |lower: Value, upper: Value| {
            let mut table = json!({"channel": lower}).as_object().unwrap().clone();
            lay_over(&mut table, json!({"channel": upper}).as_object().unwrap().clone());
            table["channel"].clone()
        };
        let ring = json!({"ring": {"width": 5}});
        assert_eq!(over(ring.clone(), json!("ring")), ring);
        assert_eq!(over(ring.clone(), json!("trace")), json!("trace"));
        assert_eq!(over(ring.clone(), json!({"ring": {"width": 3}})), json!({"ring": {"width": 3}}));
        assert_eq!(over(json!("trace"), ring.clone()), ring);
    }
}
