//! Text as it grows token by token: only whole characters and emoji, and nothing of a text that ends the answer.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use regex::Regex;
use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use super::Tokenizer;
use crate::error::{Error, Result};
use crate::guard::guarded;

type Decoding<'a> = DecodeStream<
    'a,
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// One character as a reader sees it, as far as emoji go: flags, keycaps, skin tones, and people joined to families are one. The
/// group `open` matches where more may follow.
static CHARACTER: LazyLock<Regex> = LazyLock::new(|| {
    let (picture, flag) = (r"\p{Extended_Pictographic}", r"\p{Regional_Indicator}");
    let more = r"[\p{M}\p{Emoji_Modifier}\x{E0020}-\x{E007F}]*";
    let joined = format!(r"{picture}{more}(?:\x{{200D}}{picture}{more})*\x{{200D}}?");
    Regex::new(&format!(r"(?s)(?P<open>{joined}|{flag}{flag}?{more}|[0-9#*]\p{{M}}*)|."))
        .expect("a valid expression")
});

/// The text of one answer as its tokens come. Made by [`Tokenizer::stream`].
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// None once it has failed.
    decoding: Option<Decoding<'a>>,
    ids: Vec<u32>,
    stop: Vec<String>,
    /// Special tokens among the stop texts, which decoding leaves out.
    stop_tokens: Vec<u32>,
    /// All that has been decoded, up to the text that ended the answer.
    text: String,
    /// How much of `text` has been given out.
    given: usize,
    stopped: bool,
}

impl Tokenizer {
    /// The text of an answer as its tokens come, ended by any of the texts `stop`. Special tokens, which are no part of the text, end
    /// it where their names are among those.
    pub fn stream(&self, stop: &[String]) -> TextStream<'_> {
        TextStream::new(self, self.inner.decode_stream(true), stop)
    }
}

impl<'a> TextStream<'a> {
    fn new(tokenizer: &'a Tokenizer, decoding: Decoding<'a>, stop: &[String]) -> Self {
        let stop_tokens = stop.iter().filter_map(|text| tokenizer.special_token(text)).collect();
        Self {
            tokenizer,
            decoding: Some(decoding),
            ids: Vec::new(),
            stop: stop.to_vec(),
            stop_tokens,
            text: String::new(),
            given: 0,
            stopped: false,
        }
    }

    /// Takes the next token and returns the text that cannot change any more.
    ///
    /// Held back are characters that are not whole, emoji that the next token may continue, and what may be the beginning of a
    /// stop text. A token after a stop text gives nothing.
    ///
    /// # Errors
    /// If the tokenizer cannot decode the token.
    pub fn push(&mut self, token: u32) -> Result<&str> {
        if self.stopped {
            return Ok("");
        }
        if self.stop_tokens.contains(&token) {
            self.complete()?;
            self.stopped = true;
            return Ok(self.give(self.text.len()));
        }
        self.ids.push(token);
        let Some(more) = self.step(token)? else { return Ok("") };
        self.extend(&more);
        Ok(self.give(if self.stopped { self.text.len() } else { self.settled() }))
    }

    /// The text that the next token adds. Where the text before it changes with it, as bytes do that are no character, the tokens
    /// decoded as a whole tell.
    fn step(&mut self, token: u32) -> Result<Option<String>> {
        if let Some(decoding) = &mut self.decoding {
            match guarded(|| decoding.step(token)) {
                Ok(Ok(more)) => return Ok(more),
                _ => self.decoding = None,
            }
        }
        let whole = self.tokenizer.decode(&self.ids)?;
        let more = whole.strip_prefix(self.text.as_str()).filter(|more| !more.ends_with('\u{fffd}'));
        Ok(more.map(str::to_string))
    }

    /// Whether a stop text has ended the answer.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The rest of the text, once no token comes any more; bytes that are no character show as `\u{FFFD}`.
    ///
    /// # Errors
    /// If the tokenizer cannot decode the tokens.
    pub fn finish(&mut self) -> Result<&str> {
        self.complete()?;
        Ok(self.give(self.text.len()))
    }

    /// Makes the text that of the tokens decoded as a whole.
    fn complete(&mut self) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        let whole = self.tokenizer.decode(&self.ids)?;
        match whole.strip_prefix(self.text.as_str()) {
            Some(more) => self.extend(more),
            None => {
                self.text.clear();
                self.extend(&whole);
                self.given = self.text.floor_char_boundary(self.given);
            }
        }
        Ok(())
    }

    /// The whole text so far, without the stop text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Appends to the text, and cuts it where a stop text begins.
    fn extend(&mut self, more: &str) {
        let before = self.text.len();
        self.text.push_str(more);
        let first = |stop: &String| {
            let from = self.text.floor_char_boundary(before.saturating_sub(stop.len()));
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        };
        if let Some(at) = self.stop.iter().filter_map(first).min() {
            self.text.truncate(at);
            self.stopped = true;
        }
    }

    /// The end of the text that no further token changes.
    fn settled(&self) -> usize {
        let text = &self.text[self.given..];
        let whole = match CHARACTER.captures_iter(text).last() {
            Some(last) if last.name("open").is_some() => last.get(0).map_or(0, |m| m.start()),
            _ => text.len(),
        };
        let may_begin = |stop: &String| {
            let begins = text.char_indices().map(|(at, _)| at).find(|&at| stop.starts_with(&text[at..]));
            begins.unwrap_or(text.len())
        };
        let safe = self.stop.iter().map(may_begin).min().unwrap_or(text.len());
        self.given + whole.min(safe)
    }

    fn give(&mut self, to: usize) -> &str {
        let from = std::mem::replace(&mut self.given, to);
        &self.text[from..to]
    }
}

/// The texts of a batch's answers, one stream a row.
pub struct TextRows<'a> {
    rows: Vec<TextStream<'a>>,
    failed: Option<Error>,
}

impl<'a> TextRows<'a> {
    /// A stream for each answer, ended by any of the texts that `stops` holds for it.
    pub fn new(tokenizer: &'a Tokenizer, stops: impl IntoIterator<Item = impl AsRef<[String]>>) -> Self {
        Self { rows: stops.into_iter().map(|stop| tokenizer.stream(stop.as_ref())).collect(), failed: None }
    }

    /// Takes the next token of a row and shows the text that it settles; `Break` once the row's answer has ended.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn push(&mut self, row: usize, token: u32, show: impl FnOnce(&str)) -> ControlFlow<()> {
        match self.rows[row].push(token) {
            Ok(text) => show(text),
            Err(e) => self.failed = Some(e),
        }
        if self.failed.is_some() || self.rows[row].stopped() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Shows what the rows still hold back, and returns each row's whole text; `show` is told the row.
    ///
    /// # Errors
    /// If the tokenizer could not decode a token.
    pub fn finish(self, mut show: impl FnMut(usize, &str)) -> Result<Vec<String>> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let finish = |(row, mut stream): (usize, TextStream<'a>)| {
            show(row, stream.finish()?);
            Ok(stream.text)
        };
        self.rows.into_iter().enumerate().map(finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::tiny;

    /// What a stream gives for each byte of `text` (each is a token), and for its end.
    fn pieces(text: &str, stop: &[&str]) -> Vec<String> {
        let tokenizer = tiny(None);
        let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
        let mut stream = tokenizer.stream(&stop);
        let ids = tokenizer.encode(text).unwrap();
        let mut all: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap().to_string()).collect();
        all.push(stream.finish().unwrap().to_string());
        assert_eq!(all.concat(), stream.text());
        all.retain(|piece| !piece.is_empty());
        all
    }

    #[test]
    fn characters_and_emoji_come_whole() {
        let scotland = "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}";
        let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
        let keycap = "1\u{fe0f}\u{20e3}";
        for whole in ["é", "日", "😀", "👩\u{200d}🚀", "🇫🇷", "👍🏽", "❤\u{fe0f}", keycap, family, scotland]
        {
            assert_eq!(pieces(whole, &[]), [whole]);
            let text = format!("x{whole}y{whole}");
            let given = pieces(&text, &[]);
            assert_eq!(given.concat(), text);
            assert_eq!(given.iter().filter(|piece| piece.contains(whole)).count(), 2, "{given:?}");
        }
        assert_eq!(pieces("🇫🇷🇩🇪", &[]), ["🇫🇷", "🇩🇪"]);
        assert_eq!(pieces("😀😀é", &[]), ["😀", "😀é"]);
        assert_eq!(pieces("12 é", &[]), ["1", "2 ", "é"]);
    }

    #[test]
    fn bytes_that_are_no_character_show_as_the_replacement_character_at_the_end() {
        let tokenizer = tiny(None);
        let broken = &tokenizer.encode("a😀").unwrap()[..3];
        let mut stream = tokenizer.stream(&[]);
        let given: String = broken.iter().map(|&id| stream.push(id).unwrap().to_string()).collect();
        assert_eq!(given, "a");
        assert!(stream.finish().unwrap().starts_with('\u{fffd}'));
        assert_eq!(stream.text(), tokenizer.decode(broken).unwrap());
    }

    #[test]
    fn text_ends_before_a_stop_text_and_nothing_of_it_is_given() {
        assert_eq!(pieces("one\n\ntwo", &["\n\n"]), ["o", "n", "e"]);
        assert_eq!(pieces("c\nd\n\ne", &["\n\n"]), ["c", "\nd"]);
        assert_eq!(pieces("eef!", &["ef"]).concat(), "e");
        assert_eq!(pieces("xxSTOP yEND", &["END", "STOP"]).concat(), "xx");
        assert_eq!(pieces("no end: EN", &["END"]).concat(), "no end: EN");
        assert_eq!(pieces("où😀ça", &["😀"]).concat(), "où");
    }

    #[test]
    fn a_special_token_among_the_stop_texts_ends_the_answer() {
        let tokenizer = tiny(None);
        let mut stream = tokenizer.stream(&["<s>".to_string()]);
        let ids = tokenizer.encode("ab<s>c").unwrap();
        let given: String = ids.iter().map(|&id| stream.push(id).unwrap().to_string()).collect();
        assert!(stream.stopped());
        assert_eq!((given.as_str(), stream.finish().unwrap()), ("ab", ""));
        assert_eq!(stream.text(), "ab");
    }

    #[test]
    fn bytes_that_are_no_character_do_not_end_an_answer() {
        let vocab: Vec<(String, u32)> =
            ["a", "<0xC3>", "<0xA9>", "<0xFF>", "<end>"].into_iter().map(String::from).zip(0..).collect();
        let decoder =
            serde_json::json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
        let vocab: serde_json::Map<_, _> = vocab.into_iter().map(|(k, v)| (k, v.into())).collect();
        let file = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "vocab": vocab, "merges": []}});
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "<end>"}"#).unwrap();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap().unwrap();
        for ids in [
            &[1, 2, 2, 0][..],
            &[0, 1, 2, 3, 0, 1, 2],
            &[2, 0],
            &[3, 3, 1, 2, 0],
            &[1, 2, 1, 2, 3, 0, 0],
            &[0, 1],
        ] {
            let mut stream = tokenizer.stream(&[]);
            for &id in ids {
                stream.push(id).unwrap();
            }
            stream.finish().unwrap();
            assert_eq!(stream.text(), tokenizer.decode(ids).unwrap(), "{ids:?}");
        }
    }

    #[test]
    fn each_row_of_a_batch_ends_by_itself() {
        let tokenizer = tiny(None);
        let mut rows = TextRows::new(&tokenizer, [vec!["d".to_string()], vec!["d".to_string()]]);
        let ids = tokenizer.encode("cde").unwrap();
        let mut shown = String::new();
        assert!(rows.push(0, ids[0], |t| shown.push_str(t)).is_continue());
        assert!(rows.push(1, ids[2], |t| shown.push_str(t)).is_continue());
        assert!(rows.push(0, ids[1], |t| shown.push_str(t)).is_break());
        assert_eq!(rows.finish(|_, t| shown.push_str(t)).unwrap(), ["c", "e"]);
        assert_eq!(shown, "ce");
    }
}
