//! Builds the tokenizer that a GGUF file embeds, so that it gives the same ids as the `tokenizer.json` of the
//! same model.
//!
//! `candle-core` has such a conversion, but it reads `smollm` and `llama-bpe` as plain GPT-2 with a leading
//! space and drops user-defined tokens such as `<think>` when decoding; hence this one.

mod byte_level;
mod pieces;
mod sentencepiece;

use candle_core::quantized::gguf_file::Content;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::{AddedToken, Tokenizer};

use pieces::{CONTROL, Pieces, Result, USER_DEFINED, flag};
pub use pieces::{string, token_id};

/// The tokenizer in the metadata of `content`; the error is a message without the file.
pub fn build(content: &Content) -> Result<Tokenizer> {
    let model = string(content, "tokenizer.ggml.model")?;
    let pieces = Pieces::read(content)?;
    let (mut tokenizer, begins) = match model {
        "gpt2" => byte_level::build(content, &pieces)?,
        "llama" => sentencepiece::build(content, &pieces)?,
        _ => {
            return Err(format!(
                "field `tokenizer.ggml.model`: the tokenizer `{model}` is not supported, only byte-level BPE \
                 (`gpt2`) and SentencePiece (`llama`); use the model's Hugging Face folder"
            ));
        }
    };
    for (index, token) in pieces.tokens.iter().enumerate() {
        if matches!(pieces.kind(index), CONTROL | USER_DEFINED) && !token.is_empty() {
            let special = pieces.kind(index) == CONTROL;
            let added = AddedToken::from(token.to_string(), special).normalized(false);
            let count =
                if special { tokenizer.add_special_tokens([added]) } else { tokenizer.add_tokens([added]) };
            count.map_err(|e| format!("field `tokenizer.ggml.tokens[{index}]`: {e}"))?;
        }
    }
    let begins = flag(content, "tokenizer.ggml.add_bos_token")?.unwrap_or(begins);
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

#[cfg(test)]
pub mod tests {
    use super::pieces::UNUSED;
    use super::*;
    use candle_core::quantized::gguf_file::{Value, VersionedMagic};
    use serde::Deserialize;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

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
        assert_eq!(pieces("deepseek-r1-qwen", &merges, "123 a"), ["1", "2", "3", "Ġa"]);
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
        assert!(build(&content).unwrap_err().starts_with("field `tokenizer.ggml.scores` is missing"));
        content.metadata.insert("tokenizer.ggml.scores".into(), Value::Array(vec![Value::F32(0.0)]));
        assert!(build(&content).unwrap_err().starts_with("field `tokenizer.ggml.scores` must be a list"));
        content.metadata.insert("tokenizer.ggml.model".into(), Value::String("bert".into()));
        assert!(build(&content).unwrap_err().contains("the tokenizer `bert` is not supported"));
    }

    /// A model that `sentencepiece` trained, and the ids that it gives.
    #[derive(Deserialize)]
    struct SentencePiece {
        tokens: Vec<String>,
        scores: Vec<f32>,
        token_type: Vec<i32>,
        texts: Vec<(String, Vec<u32>)>,
    }

    /// `scripts/make_sentencepiece_fixture.py` made the numbers.
    #[test]
    fn sentencepiece_models_give_the_ids_of_sentencepiece_and_the_text_back() {
        let fixture: SentencePiece = serde_json::from_str(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/sentencepiece.json"
        )))
        .unwrap();
        let mut content = content("", &[], &[]);
        let field = |key: &str, value| (format!("tokenizer.ggml.{key}"), value);
        content.metadata = [
            field("model", Value::String("llama".into())),
            field("tokens", Value::Array(fixture.tokens.into_iter().map(Value::String).collect())),
            field("scores", Value::Array(fixture.scores.into_iter().map(Value::F32).collect())),
            field("token_type", Value::Array(fixture.token_type.into_iter().map(Value::I32).collect())),
            field("unknown_token_id", Value::U32(0)),
            field("bos_token_id", Value::U32(1)),
            field("eos_token_id", Value::U32(2)),
        ]
        .into();
        let tokenizer = build(&content).unwrap();
        for (text, ids) in &fixture.texts {
            assert_eq!(tokenizer.encode(text.as_str(), false).unwrap().get_ids(), ids, "{text:?}");
            assert_eq!(tokenizer.decode(ids, true).unwrap(), *text);
        }
        let begun = tokenizer.encode("a", true).unwrap();
        assert_eq!(begun.get_ids()[0], 1, "a text begins with the token for that");
    }

    /// The vectors of llama.cpp, `models/ggml-vocab-*.gguf` with `.inp` and `.out`.
    #[test]
    fn the_vocabularies_of_llama_cpp_give_its_ids() {
        let Some(dir) = std::env::var_os("DIFFMAS_GGML_VOCABS") else {
            eprintln!(
                "SKIPPED: set DIFFMAS_GGML_VOCABS to the folder models of llama.cpp's source to run this test"
            );
            return;
        };
        for name in ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"] {
            let path = std::path::Path::new(&dir).join(format!("ggml-vocab-{name}.gguf"));
            let content = Content::read(&mut std::fs::File::open(&path).unwrap()).unwrap();
            let tokenizer = build(&content).unwrap();
            let read = |end: &str| std::fs::read_to_string(format!("{}{end}", path.display())).unwrap();
            let (texts, ids) = (read(".inp"), read(".out"));
            let texts = texts.split("\n__ggml_vocab_test__\n");
            let mut checked = 0;
            for (text, ids) in texts.zip(ids.lines()) {
                let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
                assert_eq!(tokenizer.encode(text, false).unwrap().get_ids(), ids, "{name}: {text:?}");
                checked += 1;
            }
            assert!(checked > 40, "{name}: {checked} texts");
        }
    }
}
