//! What operators of templates compute: what they do in Python, within bounds.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, FormatStyle, Value, format_filter};

use super::values::{
    MAX_TEXT, Result, alike, check_len, invalid, is_list, is_tuple, items, str, text, written_len,
};

pub(super) type Operator = fn(&Value, &Value) -> Result<Value>;

pub(super) const OPERATORS: [(&str, Operator); 6] =
    [("+", plus), ("*", times), ("%", modulo), ("//", floor_div), ("~", joined), ("in", is_in)];

/// Two numbers as Python computes with them.
pub(super) enum Numbers {
    Whole(i128, i128),
    Float(f64, f64),
}

pub(super) fn numbers(left: &Value, right: &Value) -> Option<Numbers> {
    let number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    if !number(left) || !number(right) {
        return None;
    }
    let float = |v: &Value| v.kind() == ValueKind::Number && !v.is_integer();
    if !float(left) && !float(right) {
        let whole = |v: &Value| i128::try_from(v.clone()).ok();
        return Some(Numbers::Whole(whole(left)?, whole(right)?));
    }
    let float = |v: &Value| match v.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(v.is_true()))),
        _ => f64::try_from(v.clone()).ok(),
    };
    Some(Numbers::Float(float(left)?, float(right)?))
}

pub(super) fn whole(value: Option<i128>) -> Result<Value> {
    let value = value.ok_or_else(|| invalid("a number is too large, or a division is by zero"))?;
    Ok(i64::try_from(value).map_or_else(|_| Value::from(value), Value::from))
}

fn unsupported(op: &str, left: &Value, right: &Value) -> Error {
    let (left, right) = (left.kind(), right.kind());
    invalid(format!("tried to use {op} operator on unsupported types {left} and {right}"))
}

pub(super) fn plus(left: &Value, right: &Value) -> Result<Value> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        check_len(left.len().checked_add(right.len()))?;
        return text([left, right].concat());
    }
    if is_list(left) && is_list(right) {
        let mut all = items(left)?;
        all.extend(items(right)?);
        return alike(left, all);
    }
    match numbers(left, right) {
        Some(Numbers::Whole(a, b)) => whole(a.checked_add(b)),
        Some(Numbers::Float(a, b)) => Ok(Value::from(a + b)),
        None => Err(unsupported("+", left, right)),
    }
}

fn times(left: &Value, right: &Value) -> Result<Value> {
    match numbers(left, right) {
        Some(Numbers::Whole(a, b)) => return whole(a.checked_mul(b)),
        Some(Numbers::Float(a, b)) => return Ok(Value::from(a * b)),
        None => {}
    }
    let (many, count) = if left.is_integer() { (right, left) } else { (left, right) };
    if !count.is_integer() || many.as_str().is_none() && !is_list(many) {
        return Err(unsupported("*", left, right));
    }
    let count = i128::try_from(count.clone()).map_or(i128::MAX, |count| count.max(0));
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if let Some(many) = many.as_str() {
        check_len(many.len().checked_mul(count))?;
        return text(many.repeat(count));
    }
    let each = items(many)?;
    check_len(each.len().checked_mul(count))?;
    alike(many, std::iter::repeat_n(each, count).flatten().collect())
}

fn modulo(left: &Value, right: &Value) -> Result<Value> {
    if let Some(style) = left.as_str() {
        let args = if is_tuple(right) { items(right)? } else { vec![right.clone()] };
        return format(FormatStyle::Printf, style, &args);
    }
    match numbers(left, right) {
        Some(Numbers::Whole(a, b)) => {
            whole(a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }))
        }
        Some(Numbers::Float(a, b)) => Ok(Value::from(a - b * (a / b).floor())),
        None => Err(unsupported("%", left, right)),
    }
}

fn floor_div(left: &Value, right: &Value) -> Result<Value> {
    match numbers(left, right) {
        Some(Numbers::Whole(a, b)) => {
            let exact = |q: i128| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q };
            whole(a.checked_div(b).map(exact))
        }
        Some(Numbers::Float(a, b)) => Ok(Value::from((a / b).floor())),
        None => Err(unsupported("//", left, right)),
    }
}

pub(super) fn joined(left: &Value, right: &Value) -> Result<Value> {
    let (left, right) = (str(left)?, str(right)?);
    check_len(left.len().checked_add(right.len()))?;
    text([&*left, &*right].concat())
}

pub(super) fn is_in(needle: &Value, hay: &Value) -> Result<Value> {
    written_len(needle)?;
    Ok(Value::from(match hay.kind() {
        ValueKind::Undefined => false,
        ValueKind::None => return Err(invalid("none has no items")),
        ValueKind::String => {
            let needle = needle.as_str().ok_or_else(|| invalid("only a text can be in a text"))?;
            hay.as_str().is_some_and(|hay| hay.contains(needle))
        }
        ValueKind::Map => hay.as_object().is_some_and(|hay| hay.get_value(needle).is_some()),
        _ => hay.try_iter()?.any(|item| &item == needle),
    }))
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: Value, start: Value, stop: Value, step: Value) -> Result<Value> {
    let bound = |bound: &Value| match bound.is_none() {
        true => Ok(None),
        false => i64::try_from(bound.clone()).map(Some),
    };
    let (start, stop, step) = (bound(&start)?, bound(&stop)?, bound(&step)?.unwrap_or(1));
    if step == 0 {
        return Err(invalid("a slice has no step of 0"));
    }
    if let Some(chars) = value.as_str() {
        let chars: Vec<char> = chars.chars().collect();
        return text(indices(chars.len(), start, stop, step).map(|i| chars[i]).collect::<String>());
    }
    if !is_list(&value) {
        return Err(match value.is_undefined() {
            true => Error::from(ErrorKind::UndefinedError),
            false => invalid(format!("value of type {} cannot be sliced", value.kind())),
        });
    }
    let all = items(&value)?;
    alike(&value, indices(all.len(), start, stop, step).map(|i| all[i].clone()).collect())
}

/// The indices of a slice of `len` items, as Python counts them.
fn indices(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let len = len as i64;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clip = |bound: i64| (if bound < 0 { bound.saturating_add(len) } else { bound }).clamp(low, high);
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (start, stop) = (start.map_or(first, clip), stop.map_or(last, clip));
    let steps = std::iter::successors(Some(start), move |at| at.checked_add(step));
    steps.take_while(move |&at| if step > 0 { at < stop } else { at > stop }).map(|at| at as usize)
}

/// `style % args` or `style.format(args)`.
pub(super) fn format(style: FormatStyle, pattern: &str, args: &[Value]) -> Result<Value> {
    let widest = args.iter().map(written_len).try_fold(0, |widest, len| Ok::<_, Error>(len?.max(widest)))?;
    let opens = |c: char| matches!(c, '%' | '{');
    let widths = pattern.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    let widths = widths.map(|run| run.parse().unwrap_or(MAX_TEXT)).fold(0, usize::saturating_add);
    let parts = pattern.chars().filter(|&c| opens(c)).count();
    // A `*` takes its width from an argument.
    let starred = pattern.contains('*') || pattern.contains("{:{");
    let most = args.iter().filter_map(Value::as_i64).max().unwrap_or(0);
    let most = if starred { usize::try_from(most).unwrap_or(0) } else { 0 };
    let grown = widest.saturating_add(most).checked_mul(parts).and_then(|n| n.checked_add(widths));
    check_len(grown.and_then(|n| n.checked_add(pattern.len())))?;
    let args = args.iter().map(shown_argument).collect::<Result<Vec<_>>>()?;
    text(format_filter(style, pattern, &args)?)
}

/// An argument of `format` as Python writes it. Numbers stay for `%d`, and mappings for `%(name)s`, with values that are so.
fn shown_argument(value: &Value) -> Result<Value> {
    match value.kind() {
        ValueKind::Number | ValueKind::String => Ok(value.clone()),
        ValueKind::Map => {
            let pair = |key: Value| Ok((key.clone(), shown_argument(&value.get_item(&key)?)?));
            let pairs = items(value)?.into_iter().map(pair).collect::<Result<Vec<_>>>()?;
            Ok(match value.is_kwargs() {
                true => {
                    Kwargs::from_iter(pairs.into_iter().map(|(key, value)| (key.to_string(), value))).into()
                }
                false => pairs.into_iter().collect(),
            })
        }
        _ => text(str(value)?),
    }
}
