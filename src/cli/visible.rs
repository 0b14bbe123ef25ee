//! What terminals take for commands, made visible: texts of models and files must not move the cursor, name the window or turn
//! the direction of writing.

use std::borrow::Cow;

/// JSON `text` with the same characters as its own `\u001b`.
pub fn visible_json(text: &str) -> Cow<'_, str> {
    escaped(text, orders, |c| format!("\\u{:04x}", u32::from(c)))
}

/// `text` with control characters other than line breaks and tabs, and those that order directions of writing, as `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    except(text, |_| false)
}

/// As [`visible`], but the characters that `kept` names stay.
pub fn except(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    escaped(text, |c| orders(c) && !kept(c), |c| c.escape_unicode().to_string())
}

fn escaped(text: &str, which: impl Fn(char) -> bool, how: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&which) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if which(c) {
            out.push_str(&how(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn orders(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_orders_a_terminal_about_is_shown_and_the_rest_stays() {
        let plain = "a\tb\né 👩\u{200d}🚀 العربية";
        assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
        let text = "\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\r\u{202e}\u{2066}\u{200f}\0";
        let shown = r"\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\u{d}\u{202e}\u{2066}\u{200f}\u{0}";
        assert_eq!(visible(text), shown);
        assert_eq!(visible_json("{\"a\": \"\u{202e}\u{9b}\"}"), r#"{"a": "\u202e\u009b"}"#);
        assert_eq!(except("\u{1b}[1m\r", |c| c == '\u{1b}'), "\u{1b}[1m\\u{d}");
    }
}
