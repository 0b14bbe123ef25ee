//! What lines must hold, and what values are called in messages about them.

use serde_json::Value;

/// Whether a line must say what the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// For training and evaluation.
    Required,
    /// For inference: a line may lack the answer; `null` or an empty one counts as lacking.
    Optional,
}

/// What a value is, if it is there.
pub(super) fn kind_of(value: Option<&Value>) -> &'static str {
    value.map_or("nothing", kind)
}

/// What a value is.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
