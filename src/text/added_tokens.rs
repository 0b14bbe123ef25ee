//! Tokens that stand in `added_tokens_decoder` of `tokenizer_config.json`, but not in `tokenizer.json`.

use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

const FIELD: &str = "added_tokens_decoder";

/// Adds to `tokenizer` those of the tokens of `config`, a `tokenizer_config.json`, that it lacks, in the order of their ids, as transformers does.
///
/// # Errors
/// Names the entry that is no token, or whose id is not the next one.
pub(super) fn add(tokenizer: &mut Tokenizer, config: &Value) -> Result<(), String> {
    let entries = match config.get(FIELD) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(format!("field `{FIELD}` must be an object of tokens by id")),
    };
    let mut tokens = BTreeMap::new();
    for (key, entry) in entries {
        let wrong = || format!("field `{FIELD}.{key}` is no token with an id");
        tokens.insert(key.parse::<u32>().map_err(|_| wrong())?, token(entry).ok_or_else(wrong)?);
    }
    for (id, token) in tokens {
        if tokenizer.token_to_id(&token.content).is_some() {
            continue;
        }
        let text = token.content.clone();
        let added =
            if token.special { tokenizer.add_special_tokens([token]) } else { tokenizer.add_tokens([token]) };
        added.map_err(|e| format!("field `{FIELD}.{id}`: {e}"))?;
        if let Some(given) = tokenizer.token_to_id(&text).filter(|given| *given != id) {
            return Err(format!(
                "field `{FIELD}.{id}`: `{text}` is not in tokenizer.json, where the next free id is {given}"
            ));
        }
    }
    Ok(())
}

/// An entry; switches that are absent are off, but `normalized` is as `special` is not.
fn token(entry: &Value) -> Option<AddedToken> {
    let switch = |name: &str, default| match entry.get(name) {
        None => Some(default),
        Some(value) => value.as_bool(),
    };
    let special = switch("special", false)?;
    let token = AddedToken::from(entry.get("content")?.as_str()?, special);
    Some(
        token
            .normalized(switch("normalized", !special)?)
            .single_word(switch("single_word", false)?)
            .lstrip(switch("lstrip", false)?)
            .rstrip(switch("rstrip", false)?),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::gguf_tokenizer;
    use serde_json::json;

    fn tiny() -> Tokenizer {
        gguf_tokenizer::build(&gguf_tokenizer::tests::content("smollm", &[], &[("<end>", 3)])).unwrap()
    }

    #[test]
    fn tokens_that_are_missing_are_added_with_their_ids() {
        let mut tokenizer = tiny();
        let config = json!({"added_tokens_decoder": {
            "258": {"content": "<b>", "special": true}, "257": {"content": "<a>"}, "256": {"content": "<end>"}}});
        add(&mut tokenizer, &config).unwrap();
        let ids = tokenizer.encode("<a><b><end>", false).unwrap().get_ids().to_vec();
        assert_eq!(ids, [257, 258, 256]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "<a>");
    }

    #[test]
    fn what_is_no_token_or_has_no_place_is_refused_by_name() {
        for (tokens, message) in [
            (json!([]), "field `added_tokens_decoder` must be"),
            (json!({"x": {"content": "<a>"}}), "field `added_tokens_decoder.x` is no token"),
            (json!({"257": {"content": 3}}), "field `added_tokens_decoder.257` is no token"),
            (json!({"300": {"content": "<a>"}}), "field `added_tokens_decoder.300`: `<a>` is not in"),
        ] {
            let error = add(&mut tiny(), &json!({"added_tokens_decoder": tokens})).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
