//! Methods of values: Python's, within bounds.

use minijinja::value::{ValueKind, from_args};
use minijinja::{FormatStyle, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::operators::{format, joined};
use super::values::{ITEM, Result, check_len, invalid, is_list, items, list, str, text, tuple};

pub(super) fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match value.as_str() {
        Some(text) => match string_method(text, name, args)? {
            Some(answer) => Ok(answer),
            None => unknown_method_callback(state, value, name, args),
        },
        None if value.kind() == ValueKind::Map && name == "items" => {
            from_args::<()>(args)?;
            pairs(value)
        }
        None if is_list(value) && name == "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| &item == wanted);
            at.map(Value::from).ok_or_else(|| invalid("index: the list has no such item"))
        }
        None => unknown_method_callback(state, value, name, args),
    }
}

/// The keys of a mapping with their values.
pub(super) fn pairs(value: &Value) -> Result<Value> {
    let pair = |key: Value| tuple(vec![key.clone(), value.get_item(&key)?], 0);
    let keys = if value.is_undefined() { Vec::new() } else { items(value)? };
    list(keys.into_iter().map(pair).collect::<Result<_>>()?, 0)
}

/// Python's methods of `str` that minijinja does not have, or has without bounds.
fn string_method(value: &str, name: &str, args: &[Value]) -> Result<Option<Value>> {
    let word = || from_args::<(&str,)>(args).map(|(word,)| word);
    let none = || from_args::<()>(args);
    let answer = match name {
        "format" => format(FormatStyle::StrFormat, value, args)?,
        "replace" => {
            let (old, new, count) = from_args(args)?;
            replaced(value, old, new, count)?
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            join_texts(items(values)?.into_iter().map(Ok), value)?
        }
        "count" => Value::from(times_found(value, word()?)),
        "removeprefix" => text(value.strip_prefix(word()?).unwrap_or(value))?,
        "removesuffix" => text(value.strip_suffix(word()?).unwrap_or(value))?,
        "partition" => parts(value.split_once(separator(word()?)?), word()?, [value, "", ""])?,
        "rpartition" => parts(value.rsplit_once(separator(word()?)?), word()?, ["", "", value])?,
        "rsplit" => rsplit(value, args)?,
        "split" | "splitlines" => {
            check_len(pieces(value, args.first()).checked_mul(ITEM))?;
            return Ok(None);
        }
        "find" => Value::from(find(value, args, false)?),
        "rfind" => Value::from(find(value, args, true)?),
        "index" | "rindex" => match find(value, args, name == "rindex")? {
            -1 => return Err(invalid(format!("{name}: the text is not found"))),
            at => Value::from(at),
        },
        "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            let (width, fill) = (usize::try_from(width).unwrap_or(0), fill.unwrap_or(' '));
            match name {
                "ljust" => pad(value, width, fill, |_, _| 0)?,
                "rjust" => pad(value, width, fill, |missing, _| missing)?,
                _ => pad(value, width, fill, |missing, width| missing / 2 + (missing & width & 1))?,
            }
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let sign = if value.starts_with(['+', '-']) { &value[..1] } else { "" };
            let width = usize::try_from(width).unwrap_or(0).saturating_sub(sign.len());
            let digits = pad(&value[sign.len()..], width, '0', |missing, _| missing)?;
            joined(&Value::from(sign), &digits)?
        }
        "swapcase" => {
            none()?;
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            };
            text(value.chars().map(swap).collect::<String>())?
        }
        "isupper" | "islower" => {
            none()?;
            let (upper, lower) = (value.contains(char::is_uppercase), value.contains(char::is_lowercase));
            Value::from(if name == "isupper" { upper && !lower } else { lower && !upper })
        }
        "casefold" => {
            none()?;
            text(value.to_lowercase().replace('ß', "ss"))?
        }
        _ => {
            // Python says no to all of these of an empty text; a loop over no characters says yes.
            let asked = name.starts_with("is") && name != "isascii";
            return Ok((asked && value.is_empty()).then(|| Value::from(false)));
        }
    };
    Ok(Some(answer))
}

fn separator(word: &str) -> Result<&str> {
    if word.is_empty() { Err(invalid("the separator is empty")) } else { Ok(word) }
}

fn parts(found: Option<(&str, &str)>, separator: &str, otherwise: [&str; 3]) -> Result<Value> {
    let parts = found.map_or(otherwise, |(before, after)| [before, separator, after]);
    tuple(parts.map(Value::from).to_vec(), 0)
}

fn rsplit(value: &str, args: &[Value]) -> Result<Value> {
    check_len(pieces(value, args.first()).checked_mul(ITEM))?;
    let (by, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
    let mut found: Vec<Value> = match by {
        Some(by) => value.rsplitn(most, separator(by)?).map(Value::from).collect(),
        None => {
            let (mut found, mut rest) = (Vec::new(), value.trim_end());
            while !rest.is_empty() {
                // The last piece keeps the white space in it and before it.
                let more = found.len() + 1 < most;
                let space = rest.char_indices().rfind(|(_, c)| more && c.is_whitespace());
                let word = space.map_or(0, |(at, c)| at + c.len_utf8());
                found.push(Value::from(&rest[word..]));
                rest = rest[..word].trim_end();
            }
            found
        }
    };
    found.reverse();
    list(found, 0)
}

/// Where the text of the arguments begins, in characters, -1 if nowhere.
fn find(value: &str, args: &[Value], last: bool) -> Result<i64> {
    let (word, start, stop): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let chars: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
    let len = chars.len() as i64 - 1;
    let clip = |at: i64| (if at < 0 { at.saturating_add(len) } else { at }).clamp(0, len) as usize;
    let (start, stop) = (start.map_or(0, clip), stop.map_or(len as usize, clip));
    if start > stop {
        return Ok(-1);
    }
    let part = &value[chars[start]..chars[stop]];
    let found = if last { part.rfind(word) } else { part.find(word) };
    Ok(found.map_or(-1, |at| (start + part[..at].chars().count()) as i64))
}

/// How many pieces a text is split into by a text, or by white space.
pub(super) fn pieces(value: &str, by: Option<&Value>) -> usize {
    match by.and_then(Value::as_str) {
        Some(by) => times_found(value, by),
        None => value.matches(char::is_whitespace).count(),
    }
}

/// How often `old` is replaced in `text` at most; an empty text stands before each character and at the end.
pub(super) fn times_found(text: &str, old: &str) -> usize {
    text.matches(old).count()
}

/// Python's `str.replace`, of all if `count` is negative.
pub(super) fn replaced(value: &str, old: &str, new: &str, count: Option<i64>) -> Result<Value> {
    let count = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let grown = times_found(value, old).min(count).checked_mul(new.len());
    check_len(grown.and_then(|n| n.checked_add(value.len())))?;
    text(value.replacen(old, new, count))
}

pub(super) fn join_texts(values: impl Iterator<Item = Result<Value>>, separator: &str) -> Result<Value> {
    let mut out = String::new();
    for (index, value) in values.enumerate() {
        let value = str(&value?)?;
        check_len(out.len().checked_add(value.len() + separator.len()))?;
        out.push_str(if index > 0 { separator } else { "" });
        out.push_str(&value);
    }
    text(out)
}

/// Python's `str.center`: the odd space is on the left where the width is odd.
pub(super) fn center(value: &str, width: Option<usize>) -> Result<Value> {
    pad(value, width.unwrap_or(80), ' ', |missing, width| missing / 2 + (missing & width & 1))
}

/// `value` filled up with `fill` to `width` characters; `left` says how many of the missing ones are put before it.
fn pad(value: &str, width: usize, fill: char, left: fn(usize, usize) -> usize) -> Result<Value> {
    let missing = width.saturating_sub(value.chars().count());
    check_len(missing.checked_mul(fill.len_utf8()).and_then(|n| n.checked_add(value.len())))?;
    let left = left(missing, width);
    let fill = |count: usize| std::iter::repeat_n(fill, count);
    text(fill(left).chain(value.chars()).chain(fill(missing - left)).collect::<String>())
}
