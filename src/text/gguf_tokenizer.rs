//! Builds the tokenizer that a GGUF file embeds, so that it gives the same ids as the `tokenizer.json` of the
//! same model.
//!
//! `candle-core` has such a conversion, but it reads `smollm` and `llama-bpe` as plain GPT-2 with a leading
//! space and drops user-defined tokens such as `<think>` when decoding; hence this one. GGUF files name the
//! pre-tokenizer only, so that its rules stand here; a name that is not known is refused, as wrong ids would
//! go unnoticed.

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::checkpoint::gguf::whole;

type Result<T> = std::result::Result<T, String>;

/// Llama 3's rule; Qwen 2 and 3 differ in the number of digits taken together.
const SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

// `tokenizer.ggml.token_type`
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;
const UNUSED: u32 = 5;

/// The rules that stand behind a name in `tokenizer.ggml.pre`.
struct Rules {
    pre_tokenizer: PreTokenizerWrapper,
    nfc: bool,
    /// Whether a text begins with the token that begins texts, where the file does not say.
    begins: bool,
    /// Whether a word that is in the vocabulary is taken whole without merging.
    ignore_merges: bool,
}

fn rules(name: &str) -> Result<Rules> {
    let split = |digits: &str| -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(SPLIT.replace("{DIGITS}", digits));
        let split =
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(|e| e.to_string())?;
        Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()]).into())
    };
    let gpt2 = ByteLevel::new(false, true, true);
    Ok(match name {
        "smollm" => {
            let pre_tokenizer = Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into();
            Rules { pre_tokenizer, nfc: false, begins: false, ignore_merges: false }
        }
        "qwen2" => Rules { pre_tokenizer: split("")?, nfc: true, begins: false, ignore_merges: false },
        "llama-bpe" | "llama3" | "llama-v3" => {
            Rules { pre_tokenizer: split("{1,3}")?, nfc: false, begins: true, ignore_merges: true }
        }
        "gpt-2" | "gpt2" => {
            Rules { pre_tokenizer: gpt2.into(), nfc: false, begins: false, ignore_merges: false }
        }
        _ => {
            return Err(format!(
                "field `tokenizer.ggml.pre`: the pre-tokenizer `{name}` is not supported (supported: \
                 smollm, qwen2, llama-bpe, gpt-2); use the model's Hugging Face folder"
            ));
        }
    })
}

/// The tokenizer in the metadata of `content`; the error is a message without the file.
pub fn build(content: &Content) -> Result<Tokenizer> {
    let model = string(content, "tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(format!(
            "field `tokenizer.ggml.model`: the tokenizer `{model}` is not supported, only byte-level BPE \
             (`gpt2`); use the model's Hugging Face folder"
        ));
    }
    let pre = string(content, "tokenizer.ggml.pre").map_err(|e| {
        format!(
            "{e}: nothing says how text is cut into words, and wrong ids would go unnoticed; convert the file anew, or use the model's \
             Hugging Face folder"
        )
    })?;
    let rules = rules(pre)?;
    let tokens = strings(content, "tokenizer.ggml.tokens")?;
    let types = match content.metadata.get("tokenizer.ggml.token_type") {
        None => Vec::new(),
        Some(Value::Array(types)) => {
            types.iter().map(number).collect::<Option<Vec<_>>>().ok_or_else(|| {
                "field `tokenizer.ggml.token_type` must be a list of unsigned numbers".to_string()
            })?
        }
        Some(_) => return Err("field `tokenizer.ggml.token_type` must be a list".into()),
    };
    let kind = |index: usize| types.get(index).copied().unwrap_or(1);

    // Converters fill the vocabulary up to the embedding's size with placeholders that no tokenizer.json has.
    let padding = |index: usize| kind(index) == UNUSED && tokens[index] == format!("[PAD{index}]");
    let vocab: Vocab = (0..tokens.len())
        .filter(|&index| !padding(index))
        .map(|index| (tokens[index].to_string(), index as u32))
        .collect();
    let merges = strings(content, "tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((a, b)) => Ok((a.to_string(), b.to_string())),
            None => Err(format!("field `tokenizer.ggml.merges`: `{merge}` is no pair")),
        })
        .collect::<Result<Vec<_>>>()?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(rules.ignore_merges)
        .build()
        .map_err(|e| format!("field `tokenizer.ggml.merges`: {e}"))?;

    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(rules.pre_tokenizer));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    if rules.nfc {
        tokenizer.with_normalizer(Some(NFC)).map_err(|e| e.to_string())?;
    }
    for (index, token) in tokens.iter().enumerate() {
        if matches!(kind(index), CONTROL | USER_DEFINED) && !token.is_empty() {
            let special = kind(index) == CONTROL;
            let added = AddedToken::from(token.to_string(), special).normalized(false);
            let count =
                if special { tokenizer.add_special_tokens([added]) } else { tokenizer.add_tokens([added]) };
            count.map_err(|e| format!("field `tokenizer.ggml.tokens[{index}]`: {e}"))?;
        }
    }
    let begins = match content.metadata.get("tokenizer.ggml.add_bos_token") {
        None => rules.begins,
        Some(Value::Bool(begins)) => *begins,
        Some(_) => return Err("field `tokenizer.ggml.add_bos_token` must be true or false".into()),
    };
    if let Some(bos) = token_id(content, "tokenizer.ggml.bos_token_id").filter(|_| begins) {
        let text = tokenizer.id_to_token(bos).ok_or("field `tokenizer.ggml.bos_token_id` names no token")?;
        let processor = TemplateProcessing::builder()
            .try_single(vec![text.as_str(), "$A"])
            .map_err(|e| format!("field `tokenizer.ggml.bos_token_id`: {e}"))?
            .special_tokens(vec![(text.clone(), bos)])
            .build()
            .map_err(|e| format!("field `tokenizer.ggml.bos_token_id`: {e}"))?;
        tokenizer.with_post_processor(Some(processor));
    }
    Ok(tokenizer)
}

/// A token id in the metadata.
pub fn token_id(content: &Content, key: &str) -> Option<u32> {
    content.metadata.get(key).and_then(number)
}

/// A text in the metadata.
pub fn string<'a>(content: &'a Content, key: &str) -> Result<&'a str> {
    match content.metadata.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("field `{key}` must be a string")),
        None => Err(format!("field `{key}` is missing; the file embeds no usable tokenizer")),
    }
}

fn strings<'a>(content: &'a Content, key: &str) -> Result<Vec<&'a str>> {
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

fn number(value: &Value) -> Option<u32> {
    whole(value)?.try_into().ok()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::VersionedMagic;

    /// Metadata of a GGUF file with the byte alphabet of `text`s, some merges and special tokens.
    pub fn content(pre: &str, merges: &[&str], extra: &[(&str, u32)]) -> Content {
        let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        alphabet.sort();
        let mut tokens: Vec<(String, u32)> = alphabet.into_iter().map(|c| (c, 1)).collect();
        tokens.extend(merges.iter().map(|merge| (merge.replace(' ', ""), 1)));
        tokens.extend(extra.iter().map(|&(token, kind)| (token.to_string(), kind)));
        let texts = |items: Vec<String>| Value::Array(items.into_iter().map(Value::String).collect());
        let metadata = [
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String(pre.into())),
            ("tokenizer.ggml.merges", texts(merges.iter().map(ToString::to_string).collect())),
            (
                "tokenizer.ggml.token_type",
                Value::Array(tokens.iter().map(|&(_, kind)| Value::I32(kind as i32)).collect()),
            ),
            ("tokenizer.ggml.eos_token_id", Value::U32(256 + merges.len() as u32)),
            ("tokenizer.ggml.tokens", texts(tokens.into_iter().map(|(token, _)| token).collect())),
        ];
        Content {
            magic: VersionedMagic::GgufV3,
            metadata: metadata.into_iter().map(|(key, value)| (key.to_string(), value)).collect(),
            tensor_infos: Default::default(),
            tensor_data_offset: 0,
        }
    }

    fn pieces(pre: &str, merges: &[&str], text: &str) -> Vec<String> {
        let tokenizer = build(&content(pre, merges, &[("<end>", CONTROL)])).unwrap();
        tokenizer.encode(text, false).unwrap().get_tokens().to_vec()
    }

    #[test]
    fn digits_are_grouped_as_each_family_groups_them() {
        let merges = ["1 2", "12 3", "Ġ a"];
        assert_eq!(pieces("smollm", &merges, "123 a"), ["1", "2", "3", "Ġa"]);
        assert_eq!(pieces("qwen2", &merges, "123 a"), ["1", "2", "3", "Ġa"]);
        assert_eq!(pieces("llama-bpe", &merges, "123 a"), ["123", "Ġa"]);
        assert_eq!(pieces("gpt-2", &merges, "1231 a"), ["123", "1", "Ġa"]);
    }

    #[test]
    fn no_space_is_put_in_front_and_qwen_composes_characters() {
        for pre in ["smollm", "qwen2", "llama-bpe", "gpt-2"] {
            assert_eq!(pieces(pre, &[], "a<end>b"), ["a", "<end>", "b"], "{pre}");
        }
        assert_eq!(pieces("qwen2", &[], "e\u{301}"), ["Ã", "©"]);
        assert_eq!(pieces("smollm", &[], "e\u{301}"), ["e", "Ì", "ģ"]);
    }

    #[test]
    fn llama_takes_known_words_whole() {
        // Without the merge `a b`, `abc` cannot be reached by merging.
        let content = content("llama-bpe", &["b c"], &[("<end>", CONTROL), ("abc", 1)]);
        let tokenizer = build(&content).unwrap();
        assert_eq!(tokenizer.encode("abc", false).unwrap().get_tokens(), ["abc"]);
    }

    #[test]
    fn user_defined_tokens_survive_decoding_and_padding_is_left_out() {
        let extra = [("<end>", CONTROL), ("<think>", USER_DEFINED), ("[PAD258]", UNUSED)];
        let tokenizer = build(&content("qwen2", &[], &extra)).unwrap();
        let ids = tokenizer.encode("<think>é<end>", false).unwrap().get_ids().to_vec();
        assert_eq!((ids[0], ids.len()), (257, 4));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "<think>é");
        assert_eq!(tokenizer.get_vocab_size(true), 258);
    }

    #[test]
    fn unknown_kinds_and_missing_fields_are_refused_by_name() {
        let error = build(&content("bloom", &[], &[])).unwrap_err();
        assert!(error.contains("pre-tokenizer `bloom` is not supported"), "{error}");
        for key in
            ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.pre"]
        {
            let mut content = content("qwen2", &[], &[]);
            content.metadata.remove(key);
            assert!(build(&content).unwrap_err().starts_with(&format!("field `{key}` is missing")));
        }
        let mut content = content("qwen2", &[], &[]);
        content.metadata.insert("tokenizer.ggml.model".into(), Value::String("llama".into()));
        assert!(build(&content).unwrap_err().contains("the tokenizer `llama` is not supported"));
    }
}
