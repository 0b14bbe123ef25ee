//! The words of a text and their ids, for byte-level BPE tokenizers.
//!
//! `tokenizers` keeps account of where each byte of a text came from, which costs several times what its words do. Here the same
//! regular expressions, run by the same engine, cut slices out of the text; the tokenizer's own model gives the ids of each word, which are
//! remembered. Words do not depend on each other, so that the ids are the same.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use regex::Regex;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::utils::SysRegex;
use tokenizers::{Model, ModelWrapper, Tokenizer};

/// The rule of GPT-2, which `ByteLevel` brings along.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How many words are remembered, and of which length in bytes.
const MOST: usize = 1 << 16;
const LONGEST: usize = 64;

/// The characters that byte-level tokenizers write for bytes: those that can be seen for themselves, others from U+0100 on.
static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut others = '\u{100}'..;
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    std::array::from_fn(|i| match i as u8 {
        byte if seen(byte) => char::from(byte),
        _ => others.next().expect("there are characters enough"),
    })
});

/// What a step of the pre-tokenizer cuts out as words of their own; what lies between is cut by the next step.
enum Cut {
    /// Every digit.
    Digits,
    /// Every match.
    Matches(SysRegex),
}

/// The words of one tokenizer.
pub(super) struct Words {
    /// Matches tokens that are written out in the text, the longest first.
    added: Option<Regex>,
    cuts: Vec<Cut>,
    /// Whether texts are brought to the normal form C, which ASCII has.
    ascii_only: bool,
    known: RwLock<HashMap<String, Box<[u32]>>>,
}

impl Words {
    /// The words of `tokenizer`; `None` where it has a part whose work is not known here to be that of words alone.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let ascii_only = match tokenizer.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
        let added: Vec<_> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let plain = added.iter().all(|t| !(t.normalized || t.single_word || t.lstrip || t.rstrip));
        if model.dropout.is_some() || !plain {
            return None;
        }
        let mut added: Vec<String> = added.iter().map(|token| regex::escape(&token.content)).collect();
        added.sort_by_key(|token| std::cmp::Reverse(token.len()));
        let added = if added.is_empty() { None } else { Some(Regex::new(&added.join("|")).ok()?) };
        let steps = match tokenizer.get_pre_tokenizer()? {
            PreTokenizerWrapper::Sequence(steps) => steps.as_ref(),
            step => std::slice::from_ref(step),
        };
        let (PreTokenizerWrapper::ByteLevel(last), before) = steps.split_last()? else { return None };
        let mut cuts = before.iter().map(cut).collect::<Option<Vec<_>>>()?;
        if last.add_prefix_space {
            return None;
        }
        if last.use_regex {
            cuts.push(Cut::Matches(SysRegex::new(GPT2).ok()?));
        }
        Some(Self { added, cuts, ascii_only, known: RwLock::default() })
    }

    /// The ids of `text`, as `tokenizer` gives them; `None` for a text that it would normalise.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Option<tokenizers::Result<Vec<u32>>> {
        if self.ascii_only && !text.is_ascii() {
            return None;
        }
        let mut words = Vec::with_capacity(text.len() / 3);
        let mut done = 0;
        for token in self.added.iter().flat_map(|added| added.find_iter(text)) {
            split(&self.cuts, &text[done..token.start()], &mut |word| words.push((word, None)));
            words.push((token.as_str(), tokenizer.token_to_id(token.as_str())));
            done = token.end();
        }
        split(&self.cuts, &text[done..], &mut |word| words.push((word, None)));
        Some(self.ids(tokenizer, &words))
    }

    /// The ids of words; those of an added token are given.
    fn ids(&self, tokenizer: &Tokenizer, words: &[(&str, Option<u32>)]) -> tokenizers::Result<Vec<u32>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids = Vec::with_capacity(words.len() * 2);
        let mut fresh = Vec::new();
        for (word, id) in words {
            match (id, known.get(*word)) {
                (Some(id), _) => ids.push(*id),
                (None, Some(all)) => ids.extend_from_slice(all),
                (None, None) => {
                    let visible: String = word.bytes().map(|byte| CHARS[usize::from(byte)]).collect();
                    let tokens = tokenizer.get_model().tokenize(&visible)?;
                    let all: Box<[u32]> = tokens.into_iter().map(|token| token.id).collect();
                    ids.extend_from_slice(&all);
                    fresh.extend((word.len() <= LONGEST).then(|| (word.to_string(), all)));
                }
            }
        }
        let full = known.len() >= MOST;
        drop(known);
        if !full && !fresh.is_empty() {
            self.known.write().unwrap_or_else(PoisonError::into_inner).extend(fresh);
        }
        Ok(ids)
    }
}

/// What a step before the last cuts out; `None` for one that is not known here.
fn cut(step: &PreTokenizerWrapper) -> Option<Cut> {
    match step {
        PreTokenizerWrapper::Digits(digits) if digits.individual_digits => Some(Cut::Digits),
        PreTokenizerWrapper::Split(split) => match (&split.pattern, split.behavior, split.invert) {
            (SplitPattern::Regex(pattern), SplitDelimiterBehavior::Isolated, false) => {
                SysRegex::new(pattern).ok().map(Cut::Matches)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Calls `word` with every word of `text` in turn.
fn split<'t>(cuts: &[Cut], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    let Some((first, rest)) = cuts.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let mut done = 0;
    let mut isolate = |from: usize, to: usize| {
        split(rest, &text[done..from], word);
        split(rest, &text[from..to], word);
        done = to;
    };
    match first {
        Cut::Digits => text
            .char_indices()
            .filter(|(_, c)| c.is_numeric())
            .for_each(|(at, c)| isolate(at, at + c.len_utf8())),
        Cut::Matches(pattern) => pattern.find_iter(text).for_each(|(from, to)| isolate(from, to)),
    }
    split(rest, &text[done..], word);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::gguf_tokenizer::build;
    use crate::text::gguf_tokenizer::tests::content;
    use proptest::prelude::*;

    /// A tokenizer of each pre-tokenizer's rules, with a few merges and tokens one of which begins another.
    fn tokenizers() -> Vec<Tokenizer> {
        let merges = ["a b", "Ġ a", "ab c", "Ċ Ċ", "' s", "Ã ©", "1 2"];
        let tokens = [("<end>", 3), ("<end>>", 4), ("<s>", 3)];
        ["smollm", "qwen2", "llama-bpe", "gpt-2"]
            .map(|rules| build(&content(rules, &merges, &tokens)).unwrap())
            .into()
    }

    #[test]
    fn every_byte_has_the_character_of_byte_level_tokenizers() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert_eq!(alphabet, CHARS.iter().copied().collect());
        assert_eq!([b'!', b' ', b'\n', 0xAD].map(|byte| CHARS[usize::from(byte)]), ['!', 'Ġ', 'Ċ', 'Ń']);
    }

    proptest! {
        #[test]
        fn ids_are_those_of_the_tokenizer(parts in proptest::collection::vec(
            prop_oneof!["[abcs' 123\n]{0,8}", "[ \t\r\n]{0,4}", r"\PC{0,6}", Just("<end>".to_string()),
                Just("<end>>".to_string()), "<s?>?", "[é日👍\u{301}٣\u{a0}\u{2028}]{0,4}"], 0..12)) {
            static ALL: LazyLock<Vec<(Tokenizer, Words)>> = LazyLock::new(|| {
                let with_words = |t: Tokenizer| { let words = Words::of(&t).unwrap(); (t, words) };
                tokenizers().into_iter().map(with_words).collect()
            });
            let text = parts.concat();
            for (tokenizer, words) in &*ALL {
                let expected = tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
                // The second time out of memory.
                for _ in 0..2 {
                    match words.encode(tokenizer, &text) {
                        Some(ids) => prop_assert_eq!(ids.unwrap(), expected.clone()),
                        None => prop_assert!(words.ascii_only && !text.is_ascii()),
                    }
                }
            }
        }
    }

    #[test]
    fn tokenizers_with_other_parts_have_no_words_here() {
        let changed = |change: &dyn Fn(&mut Tokenizer)| {
            let mut tokenizer = tokenizers().remove(0);
            change(&mut tokenizer);
            Words::of(&tokenizer).is_none()
        };
        assert!(!changed(&|_| ()));
        assert!(changed(&|t| {
            t.with_normalizer(Some(tokenizers::normalizers::Lowercase)).unwrap();
        }));
        assert!(changed(&|t| {
            t.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::whitespace::Whitespace));
        }));
        let stripped = tokenizers::AddedToken::from("<x>", false).lstrip(true).normalized(false);
        assert!(changed(&|t| {
            t.add_tokens([stripped.clone()]).unwrap();
        }));
    }
}
