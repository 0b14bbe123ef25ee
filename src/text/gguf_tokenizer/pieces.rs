//! What a GGUF file says of its tokens.

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::models::bpe::Vocab;

use crate::checkpoint::gguf::whole;

/// What is read, or a message without the file.
pub type Result<T> = std::result::Result<T, String>;

// `tokenizer.ggml.token_type`
pub const NORMAL: u32 = 1;
pub const CONTROL: u32 = 3;
pub const USER_DEFINED: u32 = 4;
pub const UNUSED: u32 = 5;

/// The tokens of a file by id, and of what kind each is.
pub struct Pieces<'a> {
    /// The tokens.
    pub tokens: Vec<&'a str>,
    kinds: Vec<u32>,
}

impl<'a> Pieces<'a> {
    /// Reads them.
    pub fn read(content: &'a Content) -> Result<Self> {
        let tokens = strings(content, "tokenizer.ggml.tokens")?;
        let kinds = match content.metadata.get("tokenizer.ggml.token_type") {
            None => Vec::new(),
            Some(Value::Array(types)) => {
                types.iter().map(number).collect::<Option<Vec<_>>>().ok_or_else(|| {
                    "field `tokenizer.ggml.token_type` must be a list of unsigned numbers".to_string()
                })?
            }
            Some(_) => return Err("field `tokenizer.ggml.token_type` must be a list".into()),
        };
        Ok(Self { tokens, kinds })
    }

    /// What kind of token an id is.
    pub fn kind(&self, index: usize) -> u32 {
        self.kinds.get(index).copied().unwrap_or(NORMAL)
    }

    /// The ids of all tokens but those that converters fill the vocabulary up with to the embedding's size, which no tokenizer.json has.
    pub fn vocab(&self) -> Vocab {
        let padding =
            |index: usize| self.kind(index) == UNUSED && self.tokens[index] == format!("[PAD{index}]");
        let real = (0..self.tokens.len()).filter(|&index| !padding(index));
        real.map(|index| (self.tokens[index].to_string(), index as u32)).collect()
    }
}

/// A token id in the metadata.
pub fn token_id(content: &Content, key: &str) -> Option<u32> {
    content.metadata.get(key).and_then(number)
}

/// A switch in the metadata.
pub fn flag(content: &Content, key: &str) -> Result<Option<bool>> {
    match content.metadata.get(key) {
        None => Ok(None),
        Some(Value::Bool(switch)) => Ok(Some(*switch)),
        Some(_) => Err(format!("field `{key}` must be true or false")),
    }
}

/// A text in the metadata.
pub fn string<'a>(content: &'a Content, key: &str) -> Result<&'a str> {
    match content.metadata.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("field `{key}` must be a string")),
        None => Err(format!("field `{key}` is missing; the file embeds no usable tokenizer")),
    }
}

/// A list of texts in the metadata.
pub fn strings<'a>(content: &'a Content, key: &str) -> Result<Vec<&'a str>> {
    let wrong = || format!("field `{key}` must be a list of strings");
    let values = match content.metadata.get(key) {
        Some(Value::Array(values)) => values,
        Some(_) => return Err(wrong()),
        None => return Err(format!("field `{key}` is missing; the file embeds no usable tokenizer")),
    };
    let text = |value: &'a Value| match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    };
    values.iter().map(text).collect::<Option<_>>().ok_or_else(wrong)
}

/// A number in the metadata.
fn number(value: &Value) -> Option<u32> {
    whole(value)?.try_into().ok()
}
