//! Whether a text says an expected answer: values are compared as values, everything else word by word.
//!
//! What is compared is the part of the answer that claims to be the result: what follows the last `####`, else the last `\boxed{…}`, else
//! what follows the last "answer is" or "answer:", else all of it. Markdown and LaTeX around it do not count, nor do case and punctuation;
//! signs and operators do. A number is the last one of an answer that marks nothing, the first one behind a mark. Of an answer `A. bank`
//! to a choice, the letter says as much as the text.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Whether `answer` says `gold`.
pub fn says(gold: &str, answer: &str) -> bool {
    let wanted = plain(marked(gold).unwrap_or(gold));
    if tokens(&wanted).is_empty() {
        return gold.trim() == answer.trim();
    }
    let (said, marked) = match marked(answer) {
        Some(said) => (plain(said), true),
        None => (plain(answer), false),
    };
    // Behind a mark, another sentence may follow: "The answer is blue. I hope this helps."
    let first = SENTENCE_END.find(&said).filter(|_| marked).map(|end| &said[..=end.start()]);
    [Some(said.as_str()), first].into_iter().flatten().any(|said| same(&wanted, said, marked))
}

static MARK: LazyLock<Regex> =
    LazyLock::new(|| expression(r"(?i)\banswer\b[^.:=\n]{0,60}?(?:\b(?:is|was)\b\s*:?|[:=])\s*"));
static SENTENCE_END: LazyLock<Regex> = LazyLock::new(|| expression(r"[.!?](?:\s|$)|\n"));
static CHOICE: LazyLock<Regex> = LazyLock::new(|| {
    expression(r"(?s)^(?i:(?:option|choice)\s+)?[(\[]?(?P<letter>[A-Ja-j])(?:[)\].:]+(?:\s+(?P<rest>.*))?)?$")
});
static EMPHASIS: LazyLock<Regex> = LazyLock::new(|| {
    expression(
        r"(^|[\s(\[>:=\x22'])(?:\*{1,3}|_{1,3}|`+)([^\s*_`](?:[^*_`\n]*[^\s*_`])?)(?:\*{1,3}|_{1,3}|`+)",
    )
});
static FRACTION: LazyLock<Regex> =
    LazyLock::new(|| expression(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))"));
static WRAPPED: LazyLock<Regex> =
    LazyLock::new(|| expression(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"));
static SPACING: LazyLock<Regex> =
    LazyLock::new(|| expression(r"\\(?:left|right|displaystyle|quad|qquad|[,;:! ()\[\]])|\^\s*\{?\\circ\}?"));
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    expression(
        r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<power>[eE][+-]?\d+\b)?|(?P<word>[\p{L}_](?:[\p{L}\p{N}_]|['’]\p{L})*)|(?P<sign>[-+*/=<>≤≥≠^%&|~!√∞()])",
    )
});

fn expression(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid regular expression")
}

/// The part of a text that claims to be the result, where something marks it.
fn marked(text: &str) -> Option<&str> {
    if let Some((_, after)) = text.rsplit_once("####") {
        return Some(after);
    }
    if let Some(inside) = text.rfind("\\boxed{").and_then(|at| braced(&text[at + "\\boxed".len()..])) {
        return Some(inside);
    }
    MARK.find_iter(text).last().map(|mark| &text[mark.end()..]).filter(|after| !after.trim().is_empty())
}

/// What stands between the brace that `text` starts with and the one that closes it.
fn braced(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[1..at]);
        }
    }
    None
}

/// LaTeX's signs, and signs that look alike.
const SIGNS: [(&str, &str); 16] = [
    ("\\cdot", "*"),
    ("\\times", "*"),
    ("\\div", "/"),
    ("\\leq", "≤"),
    ("\\geq", "≥"),
    ("\\le", "≤"),
    ("\\ge", "≥"),
    ("\\neq", "≠"),
    ("\\infty", "∞"),
    ("\\sqrt", "√"),
    ("\\%", "%"),
    ("×", "*"),
    ("·", "*"),
    ("÷", "/"),
    ("–", "-"),
    ("−", "-"),
];

/// The text without Markdown's emphasis and LaTeX's typesetting.
fn plain(text: &str) -> String {
    let text = FRACTION.replace_all(text, |c: &Captures<'_>| {
        let part = |a: usize, b: usize| c.get(a).or(c.get(b)).map_or("", |m| m.as_str().trim());
        format!("({})/({})", part(1, 2), part(3, 4))
    });
    let text = WRAPPED.replace_all(&text, "$1");
    let text = SPACING.replace_all(&text, " ");
    let text = SIGNS.iter().fold(text.into_owned(), |text, (latex, sign)| text.replace(latex, sign));
    let text = EMPHASIS.replace_all(&text, "$1$2");
    text.replace(['$', '€', '£', '{', '}', '\\'], " ").trim().to_string()
}

/// What a text consists of.
#[derive(Clone, Debug)]
enum Token {
    Number(Number),
    Word(String),
    Sign(char),
}

/// A number: its digits where it has a plain decimal form, and its value.
#[derive(Clone, Debug)]
struct Number {
    decimal: Option<String>,
    value: f64,
}

impl Number {
    fn read(digits: &str, power: &str) -> Option<Self> {
        let digits = digits.replace(',', "");
        let value = format!("{digits}{power}").parse().ok()?;
        let (whole, part) = digits.split_once('.').unwrap_or((&digits, ""));
        let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
        Some(Self { decimal: power.is_empty().then(|| format!("{whole}.{part}")), value })
    }

    fn negative(self) -> Self {
        Self { decimal: self.decimal.map(|d| format!("-{d}")), value: -self.value }
    }

    fn over(&self, other: &Self) -> Self {
        Self { decimal: None, value: self.value / other.value }
    }

    fn percent(&self) -> Self {
        Self { decimal: None, value: self.value / 100.0 }
    }

    /// Digit by digit where both have digits, so that no two long numbers are taken for one.
    fn is(&self, other: &Self) -> bool {
        match (&self.decimal, &other.decimal) {
            (Some(a), Some(b)) => a == b || (self.value == 0.0 && other.value == 0.0),
            _ => (self.value - other.value).abs() <= 1e-9 * self.value.abs().max(other.value.abs()),
        }
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.is(b),
            (Self::Word(a), Self::Word(b)) => a == b,
            (Self::Sign(a), Self::Sign(b)) => a == b,
            _ => false,
        }
    }
}

/// The words, numbers and signs of a plain text; a sign before a number and a fraction are part of the number.
fn tokens(text: &str) -> Vec<Token> {
    let text = &without_idle_brackets(text);
    let mut all: Vec<Token> = Vec::new();
    let mut end = 0;
    for found in TOKEN.captures_iter(text) {
        let whole = found.get(0).expect("a match");
        let touching = whole.start() == end;
        let next = text[whole.end()..].chars().next();
        end = whole.end();
        if let Some(digits) = found.name("number") {
            let power = found.name("power").map_or("", |p| p.as_str());
            if let Some(number) = Number::read(digits.as_str(), power) {
                push_number(&mut all, number, touching);
            }
        } else if let Some(word) = found.name("word") {
            all.push(Token::Word(word.as_str().to_lowercase().replace('’', "'")));
        } else {
            let sign = whole.as_str().chars().next().expect("a sign");
            let long = matches!(all.last(), Some(Token::Word(word)) if word.chars().count() > 1);
            let hyphen = sign == '-' && touching && long && next.is_some_and(char::is_alphanumeric);
            // What ends a sentence or begins a list is punctuation, no operator.
            let ends = sign == '!' && next != Some('=');
            let begins = "-*>+".contains(sign) && all.is_empty() && next.is_some_and(char::is_whitespace);
            if !(hyphen || ends || begins) {
                all.push(Token::Sign(sign));
            }
        }
    }
    all
}

/// The text without brackets that hold all of it, or nothing that an operator could bind differently.
fn without_idle_brackets(text: &str) -> String {
    let (mut open, mut idle) = (Vec::new(), Vec::new());
    for (at, c) in text.char_indices() {
        match (c, c == ')') {
            ('(', _) => open.push(at),
            (_, true) => {
                let Some(from) = open.pop() else { continue };
                let whole = text[..from].trim().is_empty() && text[at + 1..].trim().is_empty();
                let inside = text[from + 1..at].trim().trim_start_matches(['-', '+']);
                if whole || !inside.contains(['+', '-', '*', '/', '=', '<', '>', '^', '%', '√']) {
                    idle.extend([from, at]);
                }
            }
            _ => {}
        }
    }
    text.char_indices().filter(|(at, _)| !idle.contains(at)).map(|(_, c)| c).collect()
}

/// Adds a number, which takes a sign or the first half of a fraction before it into itself.
fn push_number(all: &mut Vec<Token>, number: Number, touching: bool) {
    // After a number or a variable it is an operator.
    let signed = |rest: &[Token]| match rest.last() {
        Some(Token::Number(_)) => false,
        Some(Token::Word(word)) => word.chars().count() > 1,
        _ => true,
    };
    match &all[..] {
        [.., Token::Number(over), Token::Sign('/')] if touching => {
            let number = over.over(&number);
            all.truncate(all.len() - 2);
            all.push(Token::Number(number));
        }
        [rest @ .., Token::Sign(sign @ ('-' | '+'))] if touching && signed(rest) => {
            let number = if *sign == '-' { number.negative() } else { number };
            all.pop();
            all.push(Token::Number(number));
        }
        _ => all.push(Token::Number(number)),
    }
}

/// Whether `said` says `wanted`, which is neither empty nor marked any more.
fn same(wanted: &str, said: &str, marked: bool) -> bool {
    let (gold, answer) = (tokens(wanted), tokens(said));
    if gold == answer {
        return true;
    }
    if let Some(numbers) = value(&gold) {
        let claimed = claimed(&answer, marked);
        return claimed.is_some_and(|said| said.iter().any(|s| numbers.iter().any(|n| n.is(s))));
    }
    let article = |t: &Token| matches!(t, Token::Word(w) if ["a", "an", "the"].contains(&w.as_str()));
    if marked && answer.split_first().is_some_and(|(first, rest)| article(first) && rest == gold) {
        return true;
    }
    decides(&gold, said) || same_choice(wanted, said)
}

/// Whether an answer begins with the decision that is wanted, and goes on behind punctuation: "Yes, because …".
fn decides(gold: &[Token], said: &str) -> bool {
    let [Token::Word(gold)] = gold else { return false };
    let begins = said.get(..gold.len()).is_some_and(|start| start.eq_ignore_ascii_case(gold));
    ["yes", "no", "true", "false"].contains(&gold.as_str())
        && begins
        && said[gold.len()..].starts_with([',', '.', ';', ':', '!', '-'])
}

/// Whether both are the same choice: one letter, one text, or both.
fn same_choice(wanted: &str, said: &str) -> bool {
    match (choice(wanted), choice(said)) {
        (Some((a, gold)), Some((b, answer))) => {
            let (gold, answer) = (tokens(gold), tokens(answer));
            a.eq_ignore_ascii_case(&b) && (gold.is_empty() || answer.is_empty() || gold == answer)
        }
        (Some((_, gold)), None) => !tokens(gold).is_empty() && tokens(gold) == tokens(said),
        (None, Some((_, answer))) => tokens(answer) == tokens(wanted),
        (None, None) => false,
    }
}

/// The letter of a choice, `A`, `(A)` or `A. bank`, and the text after it.
fn choice(text: &str) -> Option<(char, &str)> {
    let found = CHOICE.captures(text.trim())?;
    let (letter, rest) = (found.name("letter")?, found.name("rest").map_or("", |m| m.as_str()));
    Some((letter.as_str().chars().next()?, rest))
}

/// The values that a text of one number can mean: of `50 %` both 50 and a half.
fn value(tokens: &[Token]) -> Option<Vec<Number>> {
    match tokens {
        [Token::Number(n)] => Some(vec![n.clone()]),
        [Token::Number(n), Token::Sign('%')] => Some(vec![n.clone(), n.percent()]),
        [Token::Number(whole), Token::Number(part)]
            if part.decimal.is_none() && part.value.abs() < 1.0 && whole.value.fract() == 0.0 =>
        {
            let part = part.value.abs().copysign(whole.value);
            Some(vec![Number { decimal: None, value: whole.value + part }])
        }
        _ => None,
    }
}

/// The number that an answer claims, the first behind a mark and else the last, as [`value`] reads it.
fn claimed(said: &[Token], marked: bool) -> Option<Vec<Number>> {
    let is_number = |t: &Token| matches!(t, Token::Number(_));
    let at = if marked { said.iter().position(is_number) } else { said.iter().rposition(is_number) }?;
    // `x = 5`, but not `x - 5`: an operator before a number makes it a part of something else.
    let alone = |at: usize| !matches!(at.checked_sub(1).map(|i| &said[i]), Some(Token::Sign(s)) if "-+*/^<>≤≥≠√".contains(*s));
    let part = |from: usize| (1..=2).rev().find_map(|n| said.get(from..from + n).and_then(value));
    if !alone(at) {
        return None;
    }
    let mixed = at.checked_sub(1).filter(|_| !marked).and_then(|before| value(said.get(before..=at)?));
    mixed.or_else(|| part(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `gold`, an answer, and whether it is right.
    const CASES: [(&str, &str, bool); 109] = [
        // Words, whatever case, space and punctuation.
        ("bank", " Bank.", true),
        ("bank", "a bank", false),
        ("bank", "the river bank", false),
        ("department store", "department  store", true),
        ("department store", "store department", false),
        ("well-known", "well known", true),
        ("COVID-19", "covid 19", true),
        ("don't", "don’t", true),
        ("São Paulo", "são paulo", true),
        ("São Paulo", "Sao Paulo", false),
        ("...", "!", false),
        ("...", " ...", true),
        ("bank", "", false),
        ("no", "No!", true),
        ("yes", "Yes, because it is.", true),
        ("yes", "Yes it is", false),
        ("yes", "No, yes", false),
        // A character of several bytes before the word.
        ("no", "“no, never”", false),
        ("yes", "👍yes, always", false),
        // Numbers as values.
        ("18", "9 * 2 = 18", true),
        ("18", "She makes $18.", true),
        ("18", "18 eggs, then 19", false),
        ("18", "18.0", true),
        ("18", "18.5", false),
        ("18", "180", false),
        ("0.5", ".5", true),
        ("0.50", "0.5", true),
        ("1,000", "It is 1000", true),
        ("1000000", "1,000,000", true),
        ("1000", "1e3", true),
        ("1e3", "1000", true),
        ("7", "007", true),
        ("9007199254740993", "9007199254740992", false),
        ("9007199254740993", "9,007,199,254,740,993", true),
        ("10", "10 km", true),
        ("10 km", "10km", true),
        ("10 km", "10 m", false),
        ("0", "-0", true),
        ("3", "3-5", false),
        ("5", "3-5", false),
        // Signs.
        ("-5", "-5", true),
        ("-5", "5", false),
        ("5", "-5", false),
        ("-5", "−5", true),
        ("-5", "The temperature was -5 degrees", true),
        ("5", "The temperature was -5 degrees", false),
        ("5", "+5", true),
        ("-3", "x = -3", true),
        ("3", "x = -3", false),
        ("3", "5 - 3", false),
        ("2", "5 - 3 = 2", true),
        ("5", "- 5", true),
        // Fractions and percentages.
        ("1/2", "0.5", true),
        ("1/2", "2/4", true),
        ("1/2", "1/3", false),
        ("0.25", "1/4", true),
        ("1/2", "1", false),
        ("2", "1/2", false),
        ("-1/2", "-0.5", true),
        ("1 1/2", "1.5", true),
        ("3/2", "1 1/2", true),
        ("\\frac{1}{2}", "1/2", true),
        ("\\frac{1}{2}", "\\dfrac12", true),
        ("\\frac{1}{2}", "$\\frac{1}{3}$", false),
        ("-\\frac{3}{4}", "-0.75", true),
        ("50%", "50 %", true),
        ("50%", "50", true),
        ("50%", "0.5", true),
        ("50%", "5%", false),
        ("50\\%", "50%", true),
        // Operators and other mathematics.
        ("x+1", "x-1", false),
        ("x+1", "x + 1", true),
        ("x-1", "x 1", false),
        ("<", ">", false),
        ("a<b", "a<b", true),
        ("C++", "C", false),
        ("C++", "c++", true),
        ("2^3", "2*3", false),
        ("2 \\times 3", "2*3", true),
        ("(x+1)/2", "\\frac{x+1}{2}", true),
        ("x+1/2", "\\frac{x+1}{2}", false),
        ("(1, 2)", "(1,2)", true),
        ("(1, 2)", "(2,1)", false),
        ("2\\sqrt{3}", "$2 \\sqrt{3}$", true),
        ("90", "90^\\circ", true),
        ("x = 4", "$x=4$", true),
        ("\\text{east}", "East", true),
        // Marks.
        ("18", "some work\n#### 18", true),
        ("18", "18 is not it\n#### 19", false),
        ("4", "so \\boxed{4}, which is less than 5", true),
        ("\\frac{1}{2}", "\\boxed{\\frac{1}{2}}", true),
        ("blue", "\\boxed{\\text{blue}}", true),
        ("blue", "The answer is: blue", true),
        ("blue", "The answer is blue. I hope this helps.", true),
        ("blue", "So the final answer is **blue**.", true),
        ("blue", "The answer is not blue", false),
        ("blue", "Answer: green", false),
        ("the bank", "The answer is a bank", false),
        ("bank", "The correct answer is the bank.", true),
        ("5", "The answer is 5 of 12 eggs.", true),
        ("12", "The answer is 5 of 12 eggs.", false),
        ("blue", "**blue**", true),
        ("blue", "`blue`", true),
        // Choices.
        ("A. bank", "A", true),
        ("A. bank", "(A)", true),
        ("A. bank", "bank", true),
        ("A. bank", "B. bank", false),
        ("A", "The answer is (A) bank.", true),
        ("bank", "A) bank", true),
    ];

    #[test]
    fn answers_are_judged_as_people_would() {
        let wrong: Vec<String> = CASES
            .iter()
            .filter(|(gold, answer, right)| says(gold, answer) != *right)
            .map(|(gold, answer, right)| format!("{gold:?} / {answer:?} is {right}"))
            .collect();
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    }
}
