//! The fields of a JSON object, read so that every error names the file and the field.

use super::bounded::{MAX_TEXT, read_text};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One JSON object of a configuration file.
#[derive(Debug, Clone)]
pub struct Fields {
    path: PathBuf,
    /// Names of the objects around this one, each followed by a dot.
    within: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or is not a JSON object.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_TEXT)
            .map_err(|error| Error::file(path, format!("the file cannot be read: {error}")))?;
        Self::parse(path, &text)
    }

    /// Reads `text`, which errors call the file at `path`.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Self { path: path.into(), within: String::new(), map }),
            Ok(_) => Err(Error::file(path, "the file must hold one JSON object")),
            Err(error) => {
                Err(Error::line(path, error.line(), format!("the file is not valid JSON: {error}")))
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every name in the object, in the file's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The field's plain value; `None` when it is absent.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// The field `name`; `None` when it is absent or null.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| self.error(name, format!("has a value that cannot be used: {error}"))),
        }
    }

    /// The field `name`.
    ///
    /// # Errors
    /// When it is absent, null or of another type.
    pub fn require<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.get(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// The object in the field `name`; `None` when it is absent or null.
    ///
    /// # Errors
    /// When it is something else.
    pub fn object(&self, name: &str) -> Result<Option<Self>> {
        let within = format!("{}{name}.", self.within);
        Ok(self.get::<Map<_, _>>(name)?.map(|map| Self { path: self.path.clone(), within, map }))
    }

    /// An error about the field `name`, whose name is the sentence's subject.
    pub fn error(&self, name: &str, predicate: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("the field `{}{name}` {predicate}", self.within))
    }
}

/// Whether a switch is at rest: null, false, an empty text, list or object.
pub fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(Path::new("dir/config.json"), text).unwrap()
    }

    #[test]
    fn a_wrong_type_is_told_with_file_and_field() {
        let error = fields(r#"{"rope": {"factor": "eight"}}"#).object("rope").unwrap().unwrap();
        let error = error.get::<f64>("factor").unwrap_err().to_string();
        assert!(error.starts_with("dir/config.json: the field `rope.factor` has a value"), "{error}");
    }

    #[test]
    fn null_counts_as_absent_and_a_required_field_must_be_there() {
        let fields = fields(r#"{"a": null, "b": 3}"#);
        assert_eq!(fields.get::<usize>("a").unwrap(), None);
        assert_eq!(fields.require::<usize>("b").unwrap(), 3);
        assert_eq!(
            fields.require::<usize>("c").unwrap_err().to_string(),
            "dir/config.json: the field `c` is missing"
        );
    }

    #[test]
    fn broken_json_is_told_with_its_line() {
        let error = Fields::parse(Path::new("c.json"), "{\n\"a\": }").unwrap_err().to_string();
        assert!(error.starts_with("c.json, line 2: "), "{error}");
    }
}
