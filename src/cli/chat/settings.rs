//! What `/set` changes in a chat.

use diffmas::inference::GenerationConfig;
use diffmas::settings::Layer;
use diffmas::{Error, Result};
use serde_json::{Map, Value};

use crate::cli::fields::fields;

/// How answers are drawn, and the fields beside a question.
pub(super) struct Settings {
    pub generation: GenerationConfig,
    pub fields: Map<String, Value>,
    /// What the fields are made of.
    pairs: Vec<String>,
}

impl Settings {
    /// Settings to begin with; `pairs` are fields, `NAME=VALUE`.
    ///
    /// # Errors
    /// If a pair is none.
    pub fn new(generation: GenerationConfig, pairs: &[String]) -> Result<Self> {
        Ok(Self { generation, fields: fields(pairs)?, pairs: pairs.to_vec() })
    }

    /// Gives `name` the value `text`; `field.NAME` is a field.
    ///
    /// # Errors
    /// If there is no such setting, or the value does not fit it.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        if let Some(field) = name.strip_prefix("field.") {
            let begin = format!("{field}=");
            let mut pairs = self.pairs.clone();
            pairs.retain(|pair| !pair.starts_with(&begin));
            pairs.push(begin + text);
            (self.fields, self.pairs) = (fields(&pairs)?, pairs);
            return Ok(());
        }
        let mut values = Layer::of(&self.generation)?.values;
        let name = name.replace('-', "_");
        if !values.contains_key(&name) {
            let known: Vec<&str> = values.keys().map(String::as_str).collect();
            return Err(Error::invalid(format!(
                "there is no setting `{name}`; there are {}, and field.NAME",
                known.join(", ")
            )));
        }
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        let value = if values[&name].is_array() && !value.is_array() { vec![value].into() } else { value };
        if ["temperature", "top_k", "top_p", "min_p"].contains(&name.as_str()) {
            values.insert("greedy".into(), false.into());
        }
        values.insert(name.clone(), value);
        let generation: GenerationConfig = serde_json::from_value(values.into())
            .map_err(|e| Error::invalid(format!("{name} cannot be `{text}`: {e}")))?;
        generation.validate()?;
        self.generation = generation;
        Ok(())
    }

    /// One line a setting.
    pub fn describe(&self) -> Result<String> {
        let values = Layer::of(&self.generation)?.values.into_iter();
        let fields = self.fields.iter().map(|(name, value)| (format!("field.{name}"), value.clone()));
        let lines: Vec<String> =
            values.chain(fields).map(|(name, value)| format!("{name} {value}")).collect();
        Ok(lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_fields_are_set_by_name() {
        let mut all = Settings::new(GenerationConfig::default(), &["a.c=z".into(), "a.b=y".into()]).unwrap();
        all.generation.greedy = true;
        for (name, text) in
            [("temperature", "0.3"), ("max-new-tokens", "7"), ("stop", "END"), ("field.a.b", "x y")]
        {
            all.set(name, text).unwrap();
        }
        let expected = GenerationConfig {
            temperature: 0.3,
            max_new_tokens: 7,
            stop: vec!["END".into()],
            ..GenerationConfig::default()
        };
        assert_eq!(all.generation, expected, "a temperature takes the best token no more");
        assert_eq!((&all.fields["a"]["b"], &all.fields["a"]["c"]), (&"x y".into(), &"z".into()));
        assert!(all.describe().unwrap().ends_with("max_new_tokens 7\nfield.a {\"c\":\"z\",\"b\":\"x y\"}"));
        for (name, text, sentence) in [
            ("warmth", "1", "there is no setting `warmth`; there are greedy, temperature"),
            ("top_k", "many", "top_k cannot be `many`"),
            ("top_p", "2", "--top-p must be above 0"),
            ("field.question", "x", "--field question=x: `question` is no field"),
        ] {
            assert!(all.set(name, text).unwrap_err().to_string().starts_with(sentence), "{name}");
        }
        assert_eq!(all.generation, expected);
    }
}
