//! Values as Python shows them, and how much of them there may be.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Weak};

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, UndefinedBehavior, Value};

/// Bytes of one text, and of what is written in one go.
pub(super) const MAX_TEXT: usize = 8 << 20;
/// Bytes of the texts and lists that a rendering holds at the same time.
const MAX_HELD: usize = 32 << 20;
const MAX_DEPTH: usize = 100;
/// Smaller texts are bounded by the instructions that make them.
const SMALL: usize = 64;
/// What an item of a list takes, and what a list takes besides.
pub(super) const ITEM: usize = 64;

pub(super) type Result<T> = std::result::Result<T, Error>;

pub(super) fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// Whether what is undefined is an error.
pub(super) fn strict(state: &State) -> bool {
    matches!(state.undefined_behavior(), UndefinedBehavior::Strict)
}

fn too_large() -> Error {
    invalid(format!("a text or list is too large (limit: {} MB)", MAX_TEXT >> 20))
}

/// Whether `bytes` are few enough for one text.
pub(super) fn check_len(bytes: Option<usize>) -> Result<()> {
    bytes.filter(|&bytes| bytes <= MAX_TEXT).map(|_| ()).ok_or_else(too_large)
}

/// Something that a rendering made. It is counted until nothing holds it any more.
enum Held {
    Text(Weak<str>),
    List(Weak<Vec<Value>>, usize),
}

impl Held {
    /// Its address and its size; nothing if it is gone.
    fn size(&self) -> Option<(usize, usize)> {
        match self {
            Self::Text(text) => text.upgrade().map(|text| (text.as_ptr() as usize, text.len())),
            Self::List(list, bytes) => list.upgrade().map(|list| (Arc::as_ptr(&list) as usize, *bytes)),
        }
    }
}

/// What the rendering on this thread has written and made.
#[derive(Default)]
struct Account {
    written: usize,
    counted: usize,
    held: Vec<Held>,
}

thread_local! {
    static ACCOUNT: RefCell<Account> = RefCell::default();
}

/// Begins a rendering on this thread.
pub(super) fn start_account() {
    ACCOUNT.take();
}

/// Counts what is about to be written, to the prompt or to a variable.
pub(super) fn count_written(bytes: usize) -> Result<()> {
    ACCOUNT.with_borrow_mut(|account| {
        account.written += bytes;
        match account.written <= MAX_HELD {
            true => Ok(()),
            false => Err(invalid(format!("it makes more than {} MB", MAX_HELD >> 20))),
        }
    })
}

fn hold(held: Held, bytes: usize) -> Result<()> {
    ACCOUNT.with_borrow_mut(|account| {
        account.counted += bytes;
        account.held.push(held);
        if account.counted <= 2 * MAX_HELD {
            return Ok(());
        }
        let mut seen = HashSet::new();
        account.counted = 0;
        account.held.retain(|held| {
            let Some((address, bytes)) = held.size() else { return false };
            let new = seen.insert(address);
            account.counted += if new { bytes } else { 0 };
            new
        });
        match account.counted <= MAX_HELD {
            true => Ok(()),
            false => Err(invalid(format!("its variables hold more than {} MB", MAX_HELD >> 20))),
        }
    })
}

/// A text that the rendering made.
pub(super) fn text(text: impl Into<Arc<str>>) -> Result<Value> {
    let text = text.into();
    check_len(Some(text.len()))?;
    if text.len() >= SMALL {
        hold(Held::Text(Arc::downgrade(&text)), text.len())?;
    }
    Ok(Value::from(text))
}

/// Items that show as a tuple does, and that `%` takes one by one.
#[derive(Debug)]
struct Tuple(Arc<Vec<Value>>);

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

pub(super) fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<Tuple>().is_some()
}

/// A list that the rendering made; `texts` are the bytes of the texts that it does not share with others.
pub(super) fn list(items: Vec<Value>, texts: usize) -> Result<Value> {
    held(items, texts).map(Value::from_dyn_object)
}

/// As [`list`], a tuple.
pub(super) fn tuple(items: Vec<Value>, texts: usize) -> Result<Value> {
    Ok(Value::from_object(Tuple(held(items, texts)?)))
}

/// Part of the items of `value`, or more of them: a tuple if it is one, else a list.
pub(super) fn alike(value: &Value, items: Vec<Value>) -> Result<Value> {
    if is_tuple(value) { tuple(items, 0) } else { list(items, 0) }
}

fn held(items: Vec<Value>, texts: usize) -> Result<Arc<Vec<Value>>> {
    let bytes = items.len().checked_mul(ITEM).and_then(|bytes| bytes.checked_add(texts));
    check_len(bytes)?;
    let items = Arc::new(items);
    let bytes = bytes.unwrap_or_default();
    if bytes >= SMALL {
        hold(Held::List(Arc::downgrade(&items), bytes), bytes)?;
    }
    Ok(items)
}

/// The items of `value`, if they are not too many.
pub(super) fn items(value: &Value) -> Result<Vec<Value>> {
    let mut items = Vec::new();
    for item in value.try_iter()? {
        items.push(item);
        check_len(items.len().checked_mul(ITEM))?;
    }
    Ok(items)
}

pub(super) fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// What a filter or method returned, counted. A sequence that computes its items when asked becomes a list: chains of such would
/// be as deep as a template has steps. `from` is what it was made of.
pub(super) fn made(value: Value, from: Option<&Value>) -> Result<Value> {
    let texts = from.and_then(Value::as_str).map_or(0, str::len);
    match value.kind() {
        _ if is_tuple(&value) => Ok(value),
        ValueKind::String => match value.as_str().map_or(0, str::len) {
            0..SMALL => Ok(value),
            _ => text(value.to_str().unwrap_or_default()),
        },
        ValueKind::Seq | ValueKind::Iterable => {
            let items = items(&value)?;
            let inner = |item: &Value| if is_list(item) { (1 + item.len().unwrap_or(0)) * ITEM } else { 0 };
            let inner: usize = items.iter().map(inner).sum();
            list(items, texts + inner)
        }
        _ => Ok(value),
    }
}

/// The bytes of `value` written out, at most; an error if that is too much or too deep. What is held once and written often
/// counts as often.
pub(super) fn written_len(value: &Value) -> Result<usize> {
    let mut left = MAX_TEXT;
    measure(value, &mut left, 0)?;
    Ok(MAX_TEXT - left)
}

fn measure(value: &Value, left: &mut usize, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(invalid(format!("a value is nested deeper than {MAX_DEPTH} levels")));
    }
    let own = ITEM + value.as_str().map_or(0, str::len);
    *left = left.checked_sub(own).ok_or_else(too_large)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.try_for_each(|item| measure(&item, left, depth + 1))
        }
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            measure(&key, left, depth + 1)?;
            measure(&value.get_item(&key)?, left, depth + 1)
        }),
        _ => Ok(()),
    }
}

/// `str(value)`.
pub(super) fn str(value: &Value) -> Result<Arc<str>> {
    if let Some(text) = value.to_str() {
        return Ok(text);
    }
    written_len(value)?;
    let mut out = String::new();
    if !value.is_undefined() {
        write(&mut out, value)?;
    }
    Ok(out.into())
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String> {
    written_len(value)?;
    let mut out = String::new();
    write(&mut out, value)?;
    Ok(out)
}

fn write(out: &mut String, value: &Value) -> Result<()> {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if is_tuple(value) { ('(', ')') } else { ('[', ']') };
            out.push(open);
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write(out, &item)?;
            }
            // What tells one value in brackets from a tuple.
            out.push_str(if is_tuple(value) && value.len() == Some(1) { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write(out, &key)?;
                out.push_str(": ");
                write(out, &value.get_item(&key)?)?;
            }
            out.push('}');
        }
        // Macros, loops and the like, which may hold more than they show.
        _ => out.push_str("<object>"),
    }
    check_len(Some(out.len()))
}

/// `repr` of a number: floats have two digits and a sign in their exponents.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    if !float.is_finite() {
        return format!("{float}").to_lowercase();
    }
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, power) = exponent.strip_prefix('-').map_or(('+', exponent), |power| ('-', power));
            format!("{}e{sign}{power:0>2}", digits.strip_suffix(".0").unwrap_or(digits))
        }
    }
}

/// `repr` of a text.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected: Python's repr.
    #[test]
    fn values_show_as_in_python() {
        for (value, shown) in [
            (
                Value::from_serialize(serde_json::json!({"a": [1, 2.0, true, null, "x'y", "\n\u{7f}é"]})),
                "{'a': [1, 2.0, True, None, \"x'y\", '\\n\\x7fé']}",
            ),
            (Value::from(1e16), "1e+16"),
            (Value::from(1.5e-5), "1.5e-05"),
            (Value::from(0.1), "0.1"),
            (Value::from(f64::INFINITY), "inf"),
            (Value::from("a'\"\\"), "'a\\'\"\\\\'"),
            (Value::from(Vec::<Value>::new()), "[]"),
        ] {
            assert_eq!(repr(&value).unwrap(), shown);
        }
    }

    #[test]
    fn what_is_dropped_is_not_counted() {
        start_account();
        for _ in 0..100 {
            text("x".repeat(1 << 20)).unwrap();
        }
        let kept: Result<Vec<Value>> = (0..100).map(|_| text("x".repeat(1 << 20))).collect();
        assert!(kept.unwrap_err().to_string().contains("hold more than"));
    }

    #[test]
    fn shared_and_nested_values_are_measured_as_they_are_written() {
        let mut value = Value::from("x");
        for _ in 0..60 {
            value = Value::from(vec![value.clone(), value]);
        }
        assert!(str(&value).unwrap_err().to_string().contains("too large"));
        let mut value = Value::from("x");
        for _ in 0..200 {
            value = Value::from(vec![value]);
        }
        assert!(repr(&value).unwrap_err().to_string().contains("nested deeper"));
    }
}
