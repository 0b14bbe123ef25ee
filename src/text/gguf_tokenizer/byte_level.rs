//! Byte-level BPE (`tokenizer.ggml.model = "gpt2"`). Files name the pre-tokenizer only, so that its rules stand here; a name that is not known is
//! refused, as wrong ids would go unnoticed.

use candle_core::quantized::gguf_file::Content;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{SplitDelimiterBehavior, Tokenizer};

use super::pieces::{Pieces, Result, string, strings};

/// Llama 3's rule; Qwen 2 and 3 differ in the number of digits taken together.
const SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

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
        // llama.cpp has the rule of Qwen2 for both; the second is DeepSeek-R1-Distill-Qwen's.
        "qwen2" | "deepseek-r1-qwen" => {
            Rules { pre_tokenizer: split("")?, nfc: true, begins: false, ignore_merges: false }
        }
        "llama-bpe" | "llama3" | "llama-v3" => {
            Rules { pre_tokenizer: split("{1,3}")?, nfc: false, begins: true, ignore_merges: true }
        }
        "gpt-2" | "gpt2" => {
            Rules { pre_tokenizer: gpt2.into(), nfc: false, begins: false, ignore_merges: false }
        }
        _ => {
            return Err(format!(
                "field `tokenizer.ggml.pre`: the pre-tokenizer `{name}` is not supported (supported: \
                 smollm, qwen2, deepseek-r1-qwen, llama-bpe, gpt-2); use the model's Hugging Face folder"
            ));
        }
    })
}

/// The tokenizer of the metadata `content` without added tokens, and whether a text begins with the token that begins texts where the file does
/// not say.
pub(super) fn build(content: &Content, pieces: &Pieces<'_>) -> Result<(Tokenizer, bool)> {
    let pre = string(content, "tokenizer.ggml.pre").map_err(|e| {
        format!(
            "{e}: nothing says how text is cut into words, and wrong ids would go unnoticed; convert the file anew, or use the model's \
             Hugging Face folder"
        )
    })?;
    let rules = rules(pre)?;
    let merges = strings(content, "tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((a, b)) => Ok((a.to_string(), b.to_string())),
            None => Err(format!("field `tokenizer.ggml.merges`: `{merge}` is no pair")),
        })
        .collect::<Result<Vec<_>>>()?;
    let bpe = BPE::builder()
        .vocab_and_merges(pieces.vocab(), merges)
        .ignore_merges(rules.ignore_merges)
        .build()
        .map_err(|e| format!("field `tokenizer.ggml.merges`: {e}"))?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(rules.pre_tokenizer));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    if rules.nfc {
        tokenizer.with_normalizer(Some(NFC)).map_err(|e| e.to_string())?;
    }
    Ok((tokenizer, rules.begins))
}
