//! Writes JSON exactly as Python's `json.dumps` does, which chat templates expect of `tojson`.

use serde_json::Value;

/// The arguments of `json.dumps` that templates may set.
#[derive(Debug, Clone)]
pub struct JsonStyle {
    /// Put each item on a line of its own, indented by this text per level.
    pub indent: Option<String>,
    /// Written between items.
    pub item_separator: String,
    /// Written between key and value.
    pub key_separator: String,
    /// Write everything outside ASCII as `\uXXXX`.
    pub ensure_ascii: bool,
    /// Order the keys of objects.
    pub sort_keys: bool,
}

impl JsonStyle {
    /// Python's defaults; they depend on whether the text is indented.
    pub fn new(indent: Option<String>) -> Self {
        let item_separator = if indent.is_some() { "," } else { ", " }.to_string();
        Self { indent, item_separator, key_separator: ": ".into(), ensure_ascii: false, sort_keys: false }
    }

    /// The JSON text of `value`; nothing if it has more than `limit` bytes.
    pub fn dumps(&self, value: &Value, limit: usize) -> Option<String> {
        let mut out = String::new();
        self.write(&mut out, value, 0, limit);
        (out.len() <= limit).then_some(out)
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize, limit: usize) {
        match value {
            _ if out.len() > limit => {}
            Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
            Value::String(s) => self.write_string(out, s),
            Value::Array(items) if items.is_empty() => out.push_str("[]"),
            Value::Object(items) if items.is_empty() => out.push_str("{}"),
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.start_item(out, index, depth + 1);
                    self.write(out, item, depth + 1, limit);
                }
                self.end_items(out, depth);
                out.push(']');
            }
            Value::Object(items) => {
                let mut items: Vec<_> = items.iter().collect();
                if self.sort_keys {
                    items.sort_by_key(|&(key, _)| key);
                }
                out.push('{');
                for (index, (key, item)) in items.into_iter().enumerate() {
                    self.start_item(out, index, depth + 1);
                    self.write_string(out, key);
                    out.push_str(&self.key_separator);
                    self.write(out, item, depth + 1, limit);
                }
                self.end_items(out, depth);
                out.push('}');
            }
        }
    }

    fn start_item(&self, out: &mut String, index: usize, depth: usize) {
        if index > 0 {
            out.push_str(&self.item_separator);
        }
        self.end_items(out, depth);
    }

    fn end_items(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        // serde_json escapes quotes, backslashes and control characters as Python does.
        let quoted = Value::from(text).to_string();
        for c in quoted.chars() {
            if c.is_ascii() || !self.ensure_ascii {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Expected: Python's json.dumps(value, ensure_ascii=False) with the arguments named in the test.
    #[test]
    fn the_defaults_are_pythons() {
        let value =
            json!({"b": [1, 2.0, -3.5, null, true], "a": {"x": "<é\n\"\\\u{1}\u{7f}😀>"}, "e": [], "f": {}});
        assert_eq!(
            JsonStyle::new(None).dumps(&value, 200).unwrap(),
            "{\"b\": [1, 2.0, -3.5, null, true], \"a\": {\"x\": \"<é\\n\\\"\\\\\\u0001\u{7f}😀>\"}, \
             \"e\": [], \"f\": {}}"
        );
    }

    #[test]
    fn indent_and_sorted_keys_are_pythons() {
        let style = JsonStyle { sort_keys: true, ..JsonStyle::new(Some("  ".into())) };
        let text = style.dumps(&json!({"b": [1, {}], "a": "x"}), 99).unwrap();
        assert_eq!(text, "{\n  \"a\": \"x\",\n  \"b\": [\n    1,\n    {}\n  ]\n}");
    }

    #[test]
    fn ensure_ascii_writes_surrogate_pairs() {
        let style = JsonStyle { ensure_ascii: true, ..JsonStyle::new(None) };
        assert_eq!(style.dumps(&json!("é😀"), 20).unwrap(), "\"\\u00e9\\ud83d\\ude00\"");
        assert_eq!(style.dumps(&json!("é😀"), 19), None);
    }
}
