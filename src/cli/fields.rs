//! Fields beside a question: `NAME=VALUE`.

use diffmas::{Error, Result};
use serde_json::{Map, Value};

/// What a question brings along itself, and what agents find.
pub const OWN: [&str; 3] = ["question", "messages", "inbox"];

/// Checks one pair.
pub fn field(pair: &str) -> std::result::Result<String, String> {
    let (name, _) = pair.split_once('=').ok_or("it has no `=`; write NAME=VALUE")?;
    if name.split('.').any(|part| part.trim().is_empty()) {
        return Err("it has no name before the `=`; write NAME=VALUE".into());
    }
    if OWN.contains(&name) {
        return Err(format!("`{name}` is no field of one's own"));
    }
    Ok(pair.to_string())
}

/// The fields of a line; dots in names lead into objects.
///
/// # Errors
/// If a pair is none, or a name is there twice.
pub fn fields(pairs: &[String]) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    for pair in pairs {
        let refuse = |what: &str| Error::invalid(format!("--field {pair}: {what}"));
        let pair = field(pair).map_err(|e| refuse(&e))?;
        let (name, text) = pair.split_once('=').unwrap_or_default();
        let (path, last) = name.rsplit_once('.').map_or((None, name), |(path, last)| (Some(path), last));
        let mut table = &mut all;
        for part in path.into_iter().flat_map(|path| path.split('.')) {
            let inner = table.entry(part).or_insert_with(|| Value::Object(Map::new()));
            table = inner.as_object_mut().ok_or_else(|| refuse(&format!("`{part}` is a value, too")))?;
        }
        if table.insert(last.into(), value(text)).is_some() {
            return Err(refuse("the name is there twice"));
        }
    }
    Ok(all)
}

/// A list or an object of JSON, or a text.
fn value(text: &str) -> Value {
    let json: Option<Value> = serde_json::from_str(text).ok();
    json.filter(|json| json.is_array() || json.is_object()).unwrap_or_else(|| text.into())
}

/// An error of a prompt that lacks a field, and what gives it.
pub fn with_hint(error: Error, hint: &str) -> Error {
    let message = error.to_string();
    if message.contains(" has no field `") { Error::invalid(format!("{message}; {hint}")) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(pairs: &[&str]) -> std::result::Result<Value, String> {
        let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
        fields(&pairs).map(Value::from).map_err(|e| e.to_string())
    }

    #[test]
    fn pairs_become_fields_and_dots_lead_into_objects() {
        let all = of(&["a=1=2", "b.c=x", "b.d=[1, \"y\"]", "e={", "f="]).unwrap();
        assert_eq!(all, json!({"a": "1=2", "b": {"c": "x", "d": [1, "y"]}, "e": "{", "f": ""}));
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for (pairs, sentence) in [
            (&["a"][..], "--field a: it has no `=`"),
            (&["=x"], "--field =x: it has no name"),
            (&["a..b=x"], "--field a..b=x: it has no name"),
            (&["question=x"], "--field question=x: `question` is no field of one's own"),
            (&["a=x", "a=y"], "--field a=y: the name is there twice"),
            (&["a=x", "a.b=y"], "--field a.b=y: `a` is a value, too"),
        ] {
            assert!(of(pairs).unwrap_err().starts_with(sentence), "{pairs:?}");
        }
    }
}
