//! The tokenizer of a model, with its chat template and the token that ends a turn.

use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use serde_json::{Value, json};
use tokenizers::PostProcessor;

use super::added_tokens;
use super::chat::ChatTemplate;
use super::gguf_tokenizer;
use super::words::Words;
use crate::error::{Error, Result};
use crate::files;
use crate::files::MAX_LONG_TEXT;
use crate::guard::guarded;

/// Special tokens that a chat template may name: their names in `tokenizer_config.json`, and those of their ids in GGUF files.
const SPECIAL_TOKENS: [(&str, &str); 7] = [
    ("bos_token", "bos"),
    ("eos_token", "eos"),
    ("unk_token", "unknown"),
    ("sep_token", "seperator"),
    ("pad_token", "padding"),
    ("cls_token", "cls"),
    ("mask_token", "mask"),
];

/// How many times as long a normalizer or decoder may make a text.
const MAX_GROWTH: usize = 1000;

const UNUSABLE: &str = "this is no tokenizer that can be used";

/// Text to token ids and back.
pub struct Tokenizer {
    /// Of the file, for messages.
    path: PathBuf,
    pub(super) inner: tokenizers::Tokenizer,
    words: Option<Words>,
    chat_template: Option<ChatTemplate>,
    end_of_turn: u32,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("end_of_turn", &self.end_of_turn)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face folder; `None` when the folder has no `tokenizer.json`.
    ///
    /// Tokens that only `added_tokens_decoder` of `tokenizer_config.json` names are added.
    /// The chat template is `chat_template.jinja` or, without that file, the `chat_template` of
    /// `tokenizer_config.json` (of several named ones, `default`). The end of a turn is the `eos_token` of
    /// `tokenizer_config.json` or `special_tokens_map.json`, else the first `eos_token_id` of `config.json`
    /// or `generation_config.json`.
    ///
    /// # Errors
    /// Names the file and field that is unreadable, or says that no file names the end of a turn.
    pub fn from_folder(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("tokenizer.json");
        let Some(bytes) = read_optional(&path)? else { return Ok(None) };
        let mut inner = called(&path, "this is no tokenizer that can be read", || {
            tokenizers::Tokenizer::from_bytes(bytes)
        })?;
        let config_path = dir.join("tokenizer_config.json");
        let named = [read_json(&config_path)?, read_json(&dir.join("special_tokens_map.json"))?];
        added_tokens::add(&mut inner, &named[0]).map_err(|m| Error::file(&config_path, m))?;
        let named_token = |key: &str| named.iter().find_map(|file| token_text(file.get(key)?));

        let end_of_turn = match named_token("eos_token") {
            Some(token) => inner.token_to_id(token).ok_or_else(|| {
                Error::file(&config_path, format!("field `eos_token`: the tokenizer has no token `{token}`"))
            })?,
            None => eos_id(dir)?,
        };
        let eos_text = inner.id_to_token(end_of_turn).ok_or_else(|| {
            Error::file(dir, format!("field `eos_token_id`: the tokenizer has no token {end_of_turn}"))
        })?;

        let jinja_path = dir.join("chat_template.jinja");
        let (template_path, source) = match read_optional(&jinja_path)? {
            Some(bytes) => {
                let text = String::from_utf8(bytes).map_err(|e| Error::file(&jinja_path, e))?;
                (jinja_path, Some(text))
            }
            None => {
                let source = template_source(&named[0]).map_err(|m| Error::file(&config_path, m))?;
                (config_path, source)
            }
        };
        let tokens = SPECIAL_TOKENS.iter().filter_map(|&(name, _)| match name {
            "eos_token" => Some((name, eos_text.as_str())),
            _ => Some((name, named_token(name)?)),
        });
        let tokens: Vec<(&str, &str)> = tokens.collect();
        let chat_template = source
            .map(|source| ChatTemplate::new(&source, &tokens))
            .transpose()
            .map_err(|e| Error::file(template_path, e))?;
        Self::new(&path, inner, chat_template, end_of_turn).map(Some)
    }

    /// Builds the tokenizer that the GGUF file at `path` embeds, read into `content`.
    ///
    /// # Errors
    /// Names the metadata field that is missing or not supported.
    pub fn from_gguf(path: &Path, content: &Content) -> Result<Self> {
        let inner = guarded(|| gguf_tokenizer::build(content))
            .unwrap_or_else(|panic| Err(format!("its tokenizer cannot be read: {panic}")))
            .map_err(|m| Error::file(path, m))?;
        let token = |name: &str| {
            let id = gguf_tokenizer::token_id(content, &format!("tokenizer.ggml.{name}_token_id"))?;
            Some((id, inner.id_to_token(id)?))
        };
        let Some((end_of_turn, _)) = token("eos") else {
            return Err(Error::file(
                path,
                "field `tokenizer.ggml.eos_token_id` is missing or names no token",
            ));
        };
        let tokens = SPECIAL_TOKENS.map(|(name, stored)| Some((name, token(stored)?.1)));
        let tokens: Vec<(&str, &str)> =
            tokens.iter().flatten().map(|(name, text)| (*name, text.as_str())).collect();
        let chat_template = match content.metadata.contains_key("tokenizer.chat_template") {
            false => None,
            true => Some(
                gguf_tokenizer::string(content, "tokenizer.chat_template")
                    .map_err(Error::invalid)
                    .and_then(|source| ChatTemplate::new(source, &tokens))
                    .map_err(|e| Error::file(path, e))?,
            ),
        };
        Self::new(path, inner, chat_template, end_of_turn)
    }

    fn new(
        path: &Path,
        mut inner: tokenizers::Tokenizer,
        chat_template: Option<ChatTemplate>,
        end_of_turn: u32,
    ) -> Result<Self> {
        // A file may ask for texts to be cut or filled up; what we encode stays as it is.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(Error::invalid)?;
        check_growth(path, "normalizer", &json!(inner.get_normalizer()))?;
        check_growth(path, "decoder", &json!(inner.get_decoder()))?;
        let words = called(path, UNUSABLE, || Ok(Words::of(&inner)))?;
        let tokenizer = Self { path: path.into(), words, inner, chat_template, end_of_turn };
        // What panics on any text does so here and not after hours. A vocabulary may lack these words.
        called(path, UNUSABLE, || {
            let ids = tokenizer.inner.encode_fast("a B\n\n 12, é!", true);
            let _ = ids.map(|ids| tokenizer.inner.decode(ids.get_ids(), true));
            Ok(tokenizer)
        })
    }

    /// What `call` to the library returns. It may panic, for example where a regular expression of the file takes too many steps on a
    /// text.
    fn call<T>(&self, what: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        called(&self.path, what, call)
    }

    /// The token ids of `text`. Special tokens written out in the text are recognised; none are added.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.call("the text cannot be tokenised", || {
            let by_words = self.words.as_ref().and_then(|words| words.encode(&self.inner, text));
            let whole = || Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec());
            by_words.unwrap_or_else(whole)
        })
    }

    /// The token ids of a prompt that no chat template made: with the special tokens that the tokenizer puts around a text, such as the one
    /// that begins it.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let adds = || Ok(self.inner.get_post_processor().is_some_and(|p| p.added_tokens(false) > 0));
        if !self.call("the text cannot be tokenised", adds)? {
            return self.encode(text);
        }
        self.call("the text cannot be tokenised", || {
            Ok(self.inner.encode_fast(text, true)?.get_ids().to_vec())
        })
    }

    /// Which of the tokens of `text`, those of [`Tokenizer::encode`] or [`Tokenizer::encode_plain`], the bytes of `part` stand in.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub(crate) fn tokens_of(&self, text: &str, plain: bool, part: Range<usize>) -> Result<Range<usize>> {
        self.call("the text cannot be tokenised", || {
            let encoding = self.inner.encode(text, plain)?;
            let offsets = encoding.get_offsets();
            let inside = |&(from, to): &(usize, usize)| from < part.end && to > part.start;
            let behind = |&(from, to): &(usize, usize)| from < to && from >= part.start;
            let first = offsets.iter().position(inside).or_else(|| offsets.iter().position(behind));
            let first = first.unwrap_or(offsets.len());
            Ok(first..offsets.iter().rposition(inside).map_or(first, |last| last + 1))
        })
    }

    /// The text of `ids`, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.call("the token ids cannot be decoded", || self.inner.decode(ids, true))
    }

    /// The special token that is written as `text`.
    pub(super) fn special_token(&self, text: &str) -> Option<u32> {
        self.inner.get_added_vocabulary().is_special_token(text).then(|| self.inner.token_to_id(text))?
    }

    /// Number of tokens, added ones included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that ends the assistant's turn.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }
}

/// What `call` to the library of tokenizers returns; that it panics is an error of the file at `path` as well.
fn called<T>(path: &Path, what: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let outcome = guarded(call).map_err(|panic| format!("its tokenizer gave up: {panic}"));
    let outcome = outcome.and_then(|outcome| outcome.map_err(|e| e.to_string()));
    outcome.map_err(|e| Error::file(path, format!("{what}: {e}")))
}

/// Refuses a part of a tokenizer whose replacements make texts without bounds.
fn check_growth(path: &Path, field: &str, part: &Value) -> Result<()> {
    if growth(part) <= MAX_GROWTH {
        return Ok(());
    }
    Err(Error::file(path, format!("field `{field}`: it makes texts more than {MAX_GROWTH} times as long")))
}

/// How many times as long `part` makes a text at most. A regular expression may match one character.
fn growth(part: &Value) -> usize {
    let chars = |text: &Value| text.as_str().map_or(0, |text| text.chars().count());
    match part["type"].as_str() {
        Some("Replace") => chars(&part["content"]) / chars(&part["pattern"]["String"]).max(1),
        Some("Prepend") => chars(&part["prepend"]) + 1,
        Some("Sequence") => {
            let parts = ["normalizers", "decoders"].iter().filter_map(|key| part[key].as_array()).flatten();
            parts.map(growth).fold(1, |all, one| all.saturating_mul(one.max(1)))
        }
        _ => 1,
    }
}

/// The file's content, `None` when there is no such file.
fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match files::read(path, MAX_LONG_TEXT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(path, format!("the file cannot be read: {e}"))),
    }
}

/// The JSON in the file, null when there is no such file.
fn read_json(path: &Path) -> Result<Value> {
    match read_optional(path)? {
        Some(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| Error::file(path, format!("malformed JSON: {e}")))
        }
        None => Ok(Value::Null),
    }
}

/// A special token is written as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// `chat_template` is a string, or a list of `{name, template}` of which `default` is taken.
fn template_source(config: &Value) -> std::result::Result<Option<String>, String> {
    let source = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list
            .iter()
            .find(|item| item.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|item| item.get("template")?.as_str())
            .ok_or("field `chat_template`: the list has no template named `default`")?,
        Some(value) => {
            value.as_str().ok_or("field `chat_template` must be a string or a list of {name, template}")?
        }
    };
    Ok(Some(source.to_string()))
}

/// The first `eos_token_id` of the model's configuration files.
fn eos_id(dir: &Path) -> Result<u32> {
    for name in ["config.json", "generation_config.json"] {
        let path = dir.join(name);
        let config = read_json(&path)?;
        let id = match config.get("eos_token_id") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(ids)) => ids.first().and_then(Value::as_u64),
            Some(id) => id.as_u64(),
        };
        return id.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            Error::file(&path, "field `eos_token_id` must be a token id or a list of token ids")
        });
    }
    let message = "no file says which token ends a turn; set `eos_token` in tokenizer_config.json";
    Err(Error::file(dir, message))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::text::chat::{ChatMessage, Thinking};
    use crate::text::gguf_tokenizer::tests::content;

    /// A byte-level tokenizer whose turns end with `<end>`.
    pub fn tiny(chat_template: Option<&str>) -> Tokenizer {
        let inner = gguf_tokenizer::build(&content("smollm", &["a b"], &[("<end>", 3), ("<s>", 3)])).unwrap();
        let tokens = [("bos_token", "<s>"), ("eos_token", "<end>")];
        let chat_template = chat_template.map(|t| ChatTemplate::new(t, &tokens).unwrap());
        Tokenizer::new("tokenizer.json".as_ref(), inner, chat_template, 257).unwrap()
    }

    /// A folder with the tiny tokenizer and the given JSON files.
    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut inner = tiny(None).inner;
        let truncation = tokenizers::TruncationParams { max_length: 2, ..Default::default() };
        inner.with_truncation(Some(truncation)).unwrap();
        inner.save(dir.path().join("tokenizer.json"), false).unwrap();
        for (name, value) in files {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn open(files: &[(&str, Value)]) -> std::result::Result<Tokenizer, String> {
        let dir = folder(files);
        let name = dir.path().display().to_string();
        Tokenizer::from_folder(dir.path()).map(Option::unwrap).map_err(|e| e.to_string().replace(&name, "m"))
    }

    fn opening(tokenizer: &Tokenizer) -> String {
        tokenizer
            .chat_template()
            .unwrap()
            .render(&[ChatMessage::new("user", "x")], None, true, Thinking::Auto)
            .unwrap()
    }

    #[test]
    fn a_folder_gives_ids_end_of_turn_and_chat_template() {
        let config = json!({"eos_token": {"content": "<end>"}, "bos_token": "<s>",
            "pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "chat_template": [{"name": "tools", "template": "t"},
                {"name": "default", "template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ mask_token }}"}]});
        let tokenizer = open(&[("tokenizer_config.json", config.clone())]).unwrap();
        assert_eq!((tokenizer.end_of_turn(), tokenizer.vocab_size()), (257, 259));
        let ids = tokenizer.encode("abé<end>").unwrap();
        assert_eq!((ids.len(), ids[3], tokenizer.decode(&ids).unwrap().as_str()), (4, 257, "abé"));
        assert_eq!(opening(&tokenizer), "<s><end><pad><unk>");
        let files = [("tokenizer_config.json", config), ("chat_template.jinja", json!("from a file"))];
        assert_eq!(opening(&open(&files).unwrap()), "from a file");
    }

    #[test]
    fn plain_prompts_begin_as_the_tokenizer_begins_texts() {
        let dir = folder(&[("tokenizer_config.json", json!({"eos_token": "<end>"}))]);
        let path = dir.path().join("tokenizer.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        file["post_processor"] = json!({"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [258], "tokens": ["<s>"]}}});
        std::fs::write(&path, file.to_string()).unwrap();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap().unwrap();
        let ids = tokenizer.encode("ab").unwrap();
        assert_eq!(tokenizer.encode_plain("ab").unwrap(), [&[258], &ids[..]].concat());
        assert_eq!(tiny(None).encode_plain("ab").unwrap(), ids);
    }

    /// The tiny tokenizer with `parts` of its file replaced.
    fn changed(parts: &[(&str, Value)]) -> Result<Tokenizer> {
        let dir = folder(&[("tokenizer_config.json", json!({"eos_token": "<end>"}))]);
        let path = dir.path().join("tokenizer.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (part, value) in parts {
            file[part] = value.clone();
        }
        std::fs::write(&path, file.to_string()).unwrap();
        Tokenizer::from_folder(dir.path()).map(Option::unwrap)
    }

    fn split(regex: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
    }

    #[test]
    fn a_tokenizer_that_panics_is_an_error_of_its_file() {
        let error = |part, value| changed(&[(part, value)]).unwrap_err().to_string();
        for message in [
            error("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
            error("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAA="})),
            error("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""})),
        ] {
            assert!(message.contains("tokenizer.json: ") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn replacements_without_bounds_are_refused() {
        let replace =
            |by: usize| json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(by)});
        let sequence =
            |by| json!({"type": "Sequence", "normalizers": [replace(by), replace(by), replace(by)]});
        for normalizer in
            [replace(2000), sequence(11), json!({"type": "Prepend", "prepend": "a".repeat(2000)})]
        {
            let error = changed(&[("normalizer", normalizer)]).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json: field `normalizer`"), "{error}");
        }
        changed(&[("normalizer", sequence(9))]).unwrap();
    }

    #[test]
    fn a_regular_expression_that_takes_too_many_steps_is_an_error() {
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let sequence = json!({"type": "Sequence", "pretokenizers": [split("(a+)+$"), byte_level]});
        for pre_tokenizer in [sequence, split("(a+)+$")] {
            let tokenizer = changed(&[("pre_tokenizer", pre_tokenizer)]).unwrap();
            let error = tokenizer.encode(&format!("{}!", "a".repeat(40))).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json: the text cannot be tokenised"), "{error}");
            tokenizer.encode("baa").unwrap();
        }
    }

    #[test]
    fn the_end_of_turn_falls_back_to_the_models_configuration() {
        let config = ("config.json", json!({"eos_token_id": null}));
        let generation = ("generation_config.json", json!({"eos_token_id": [258, 1]}));
        let tokenizer = open(&[config, generation]).unwrap();
        assert_eq!(tokenizer.end_of_turn(), 258);
        assert!(tokenizer.chat_template().is_none());
        let map = ("special_tokens_map.json", json!({"eos_token": "<end>"}));
        assert_eq!(open(&[map, ("config.json", json!({"eos_token_id": 258}))]).unwrap().end_of_turn(), 257);
    }

    #[test]
    fn what_is_wrong_in_a_folder_names_file_and_field() {
        assert!(open(&[]).unwrap_err().starts_with("m: no file says which token ends a turn"));
        for (config, message) in [
            (json!({"eos_token": "<nope>"}), "field `eos_token`: the tokenizer has no token `<nope>`"),
            (json!({"eos_token": "<end>", "chat_template": 3}), "field `chat_template` must be a string"),
            (json!({"eos_token": "<end>", "chat_template": []}), "field `chat_template`: the list has no"),
            (json!({"eos_token": "<end>", "chat_template": "{% if"}), "the chat template is not valid"),
            (json!("{"), "malformed JSON"),
        ] {
            let error = open(&[("tokenizer_config.json", config)]).unwrap_err();
            assert!(error.starts_with(&format!("m/tokenizer_config.json: {message}")), "{error}");
        }
        assert!(
            open(&[("config.json", json!({"eos_token_id": -1}))]).unwrap_err().contains("must be a token id")
        );
        assert!(open(&[("config.json", json!({"eos_token_id": 999}))]).unwrap_err().contains("no token 999"));
        assert!(open(&[("tokenizer.json", json!({}))]).unwrap_err().starts_with("m/tokenizer.json: "));
        assert!(Tokenizer::from_folder(tempfile::tempdir().unwrap().path()).unwrap().is_none());
    }

    #[test]
    fn a_gguf_file_brings_its_chat_template_and_end_of_turn() {
        use candle_core::quantized::gguf_file::Value;
        let mut content = content("smollm", &[], &[("<end>", 3)]);
        let template = Value::String("{{ bos_token }}|{{ eos_token }}".into());
        content.metadata.insert("tokenizer.chat_template".into(), template);
        let tokenizer = Tokenizer::from_gguf("m.gguf".as_ref(), &content).unwrap();
        assert_eq!((tokenizer.end_of_turn(), opening(&tokenizer).as_str()), (256, "|<end>"));
        // `content` names no other special token, so that it begins no text with one unless told to.
        assert_eq!(tokenizer.encode_plain("a").unwrap(), tokenizer.encode("a").unwrap());
        content.metadata.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(256));
        content.metadata.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(true));
        let tokenizer = Tokenizer::from_gguf("m.gguf".as_ref(), &content).unwrap();
        assert_eq!(opening(&tokenizer), "<end>|<end>");
        assert_eq!(tokenizer.encode_plain("a").unwrap()[0], 256);
        content.metadata.remove("tokenizer.ggml.eos_token_id");
        let error = Tokenizer::from_gguf("m.gguf".as_ref(), &content).unwrap_err().to_string();
        assert!(error.starts_with("m.gguf: field `tokenizer.ggml.eos_token_id`"), "{error}");
    }

    /// Ids from the `tokenizer.json` of SmolLM2, computed with Hugging Face's `tokenizers`.
    #[test]
    fn smollm2_from_gguf_gives_the_ids_of_its_tokenizer_json() {
        let Some(path) = std::env::var_os("DIFFMAS_SMOLLM2_GGUF") else {
            eprintln!(
                "SKIPPED: set DIFFMAS_SMOLLM2_GGUF to SmolLM2-135M-Instruct.Q4_1.gguf to run this test"
            );
            return;
        };
        let path = Path::new(&path);
        let content = Content::read(&mut std::fs::File::open(path).unwrap()).unwrap();
        let tokenizer = Tokenizer::from_gguf(path, &content).unwrap();
        assert_eq!((tokenizer.end_of_turn(), tokenizer.vocab_size()), (2, 49152));
        let user = ChatMessage::new("user", "What is the capital of France?");
        let text = tokenizer.chat_template().unwrap().render(&[user], None, true, Thinking::Auto).unwrap();
        let question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
        assert!(text.starts_with("<|im_start|>system\nYou are a helpful") && text.ends_with(question));
        let ids = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198];
        assert_eq!(tokenizer.encode(question).unwrap(), ids);
        let varied: &[(&str, &[u32])] = &[
            (
                "x = 3.14159 * (y2 - 12345) # ok",
                &[
                    104, 446, 216, 35, 30, 33, 36, 33, 37, 41, 1672, 365, 105, 34, 731, 216, 33, 34, 35, 36,
                    37, 25, 907, 10907,
                ],
            ),
            (
                "日本語 😀👩\u{200d}🚀 é e\u{301}",
                &[
                    23274, 115, 40993, 179, 120, 248, 40303, 218, 10813, 235, 119, 321, 231, 10813, 244, 218,
                    26411, 297, 151, 219,
                ],
            ),
            ("  a\t\tb \n\n\n   c  ", &[216, 253, 197, 197, 82, 38028, 11181, 265, 256]),
            (
                "It's <|im_end|> Ⅷ²½ it'LL",
                &[1589, 506, 216, 2, 216, 173, 223, 117, 19133, 16738, 357, 23, 16421],
            ),
        ];
        for (text, ids) in varied {
            assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
        }
    }
}
