//! Whether an answer is right, where the data has an answer that can be checked.

use std::sync::Arc;

use serde_json::Value;

use super::judge::says;
use crate::error::Result;
use crate::inference::DecodeOptions;
use crate::text::{TokenizedSample, Tokenizer};

/// Longest answer, in words, that is compared as a whole.
const WORDS: usize = 8;

/// How answers are written and read, to be checked.
#[derive(Clone, Debug)]
pub struct Checking {
    /// How the final agent writes.
    pub options: DecodeOptions,
    /// What makes text of its tokens; pre-tokenised data does without.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

impl Checking {
    /// Whether `token_ids` are a right answer to `sample`; `None` where that cannot be checked.
    ///
    /// # Errors
    /// If the tokens are no text.
    pub fn is_correct(&self, sample: &TokenizedSample, token_ids: &[u32]) -> Result<Option<bool>> {
        let Some(source) = &sample.source else { return Ok(None) };
        if source.ids.is_some() {
            let target = sample.target.as_deref().unwrap_or_default();
            return Ok(Some(self.options.without_end(target) == token_ids));
        }
        let (Some(gold), Some(tokenizer)) = (gold(sample), &self.tokenizer) else { return Ok(None) };
        Ok(Some(says(&gold, &tokenizer.decode(token_ids)?)))
    }

    /// Whether some answer of `samples` can be checked.
    pub fn applies(&self, samples: &[TokenizedSample]) -> bool {
        let ids = |s: &TokenizedSample| s.source.as_ref().is_some_and(|source| source.ids.is_some());
        samples.iter().any(|s| ids(s) || (self.tokenizer.is_some() && gold(s).is_some()))
    }
}

/// The answer that can be checked: the field `gold`, what follows `####` in the answer (as in GSM8K), or an answer of one short line.
pub(super) fn gold(sample: &TokenizedSample) -> Option<String> {
    let source = sample.source.as_ref()?;
    match source.fields.get("gold") {
        Some(Value::String(text)) => return Some(text.clone()),
        Some(Value::Number(number)) => return Some(number.to_string()),
        _ => {}
    }
    let answer = source.answer.as_ref()?.trim();
    match answer.rsplit_once("####") {
        Some((_, gold)) => Some(gold.trim().to_string()),
        None if answer.lines().count() == 1 && answer.split_whitespace().count() <= WORDS => {
            Some(answer.to_string())
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::Sample;

    #[test]
    fn only_short_or_marked_answers_can_be_checked() {
        let sample = |answer: &str, fields: Value| TokenizedSample {
            source: Some(Arc::new(Sample {
                fields: fields.as_object().unwrap().clone(),
                answer: Some(answer.into()),
                ..Sample::default()
            })),
            ..TokenizedSample::default()
        };
        assert_eq!(gold(&sample("bank", json!({}))).unwrap(), "bank");
        assert_eq!(gold(&sample("long work\n#### 5", json!({}))).unwrap(), "5");
        assert_eq!(gold(&sample("x", json!({"gold": 7}))).unwrap(), "7");
        assert_eq!(gold(&sample("one two three four five six seven eight nine", json!({}))), None);
    }
}
