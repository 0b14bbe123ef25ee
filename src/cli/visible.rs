//! What terminals take for commands, made visible: texts of models and files must not move the cursor, name the window or turn
//! the direction of writing.

use std::borrow::Cow;

/// `text` with control characters other than line breaks and tabs, and those that order directions of writing, as `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    except(text, |_| false)
}

/// As [`visible`], but the characters that `kept` names stay.
pub fn except(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let orders = |c: char| orders(c) && !kept(c);
    if !text.contains(orders) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if orders(c) {
            out.extend(c.escape_unicode());
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
        assert_eq!(except("\u{1b}[1m\r", |c| c == '\u{1b}'), "\u{1b}[1m\\u{d}");
    }
}
