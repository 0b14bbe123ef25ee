//! The functions, filters and methods of templates: minijinja's within bounds, and Python's where those differ.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, FormatStyle, State, UndefinedBehavior, Value};
use minijinja::{filters, format_filter, tests};
use minijinja_contrib::globals::{cycler, joiner};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::values::{
    ITEM, MAX_TEXT, Result, check_len, count_written, invalid, is_list, items, list, made, repr, str, text,
    written_len,
};
use crate::text::python_json::JsonStyle;

/// The widest that a template pads or indents, and the longest part that it asks for.
const MAX_WIDTH: i64 = 10_000;

/// Puts everything into `environment` that templates may call.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(|state, value, name, args| {
        args.iter().try_for_each(|arg| written_len(arg).map(|_| ()))?;
        made(method(state, value, name, args)?, Some(value))
    });
    environment.set_formatter(|out, _, value| {
        let text = str(value)?;
        count_written(text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.remove_global("debug");
    environment.add_function("cycler", |items: Rest<Value>| {
        count_items(items.len())?;
        cycler(items.0)
    });
    let namespace = environment.globals().find(|(name, _)| *name == "namespace").map(|(_, value)| value);
    let namespace = namespace.unwrap_or_default();
    environment.add_function("namespace", move |state: &State, args: Rest<Value>| {
        count_items(args.iter().filter_map(Value::len).sum())?;
        namespace.call(state, &args)
    });
    environment.add_function("dict", dict);
    environment.add_function("joiner", joiner);
    environment.add_function("raise_exception", |message: Value| -> Result<Value> {
        Err(invalid(&*str(&message)?))
    });
    environment.add_function("strftime_now", strftime_now);
    for (name, operator) in OPERATORS {
        environment.add_function(name, move |state: &State, left: Value, right: Value| {
            if name != "in" && (left.is_undefined() || right.is_undefined()) && (strict(state) || name != "~")
            {
                return Err(Error::from(ErrorKind::UndefinedError));
            }
            operator(&left, &right)
        });
    }
    environment.add_function("[:]", slice);
    environment.add_function("small()", |value: Value| written_len(&value).map(|_| value));
    add_filters(environment);
    add_tests(environment);
}

fn strict(state: &State) -> bool {
    matches!(state.undefined_behavior(), UndefinedBehavior::Strict)
}

type Operator = fn(&Value, &Value) -> Result<Value>;

const OPERATORS: [(&str, Operator); 6] =
    [("+", plus), ("*", times), ("%", modulo), ("//", floor_div), ("~", joined), ("in", is_in)];

/// Two numbers as Python computes with them.
enum Numbers {
    Whole(i128, i128),
    Float(f64, f64),
}

fn numbers(left: &Value, right: &Value) -> Option<Numbers> {
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

fn whole(value: Option<i128>) -> Result<Value> {
    let value = value.ok_or_else(|| invalid("a number is too large, or a division is by zero"))?;
    Ok(i64::try_from(value).map_or_else(|_| Value::from(value), Value::from))
}

fn unsupported(op: &str, left: &Value, right: &Value) -> Error {
    let (left, right) = (left.kind(), right.kind());
    invalid(format!("tried to use {op} operator on unsupported types {left} and {right}"))
}

fn plus(left: &Value, right: &Value) -> Result<Value> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        check_len(left.len().checked_add(right.len()))?;
        return text([left, right].concat());
    }
    if is_list(left) && is_list(right) {
        let mut all = items(left)?;
        all.extend(items(right)?);
        return list(all, 0);
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
    let many = items(many)?;
    check_len(many.len().checked_mul(count))?;
    list(std::iter::repeat_n(many, count).flatten().collect(), 0)
}

fn modulo(left: &Value, right: &Value) -> Result<Value> {
    if let Some(style) = left.as_str() {
        let args = if is_list(right) { items(right)? } else { vec![right.clone()] };
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

fn joined(left: &Value, right: &Value) -> Result<Value> {
    let (left, right) = (str(left)?, str(right)?);
    check_len(left.len().checked_add(right.len()))?;
    text([&*left, &*right].concat())
}

fn is_in(needle: &Value, hay: &Value) -> Result<Value> {
    written_len(needle)?;
    Ok(Value::from(match hay.kind() {
        ValueKind::Undefined => false,
        ValueKind::String => {
            let needle = needle.as_str().ok_or_else(|| invalid("only a text can be in a text"))?;
            hay.as_str().is_some_and(|hay| hay.contains(needle))
        }
        ValueKind::Map => hay.as_object().is_some_and(|hay| hay.get_value(needle).is_some()),
        _ => hay.try_iter()?.any(|item| &item == needle),
    }))
}

/// `value[start:stop:step]`.
fn slice(value: Value, start: Value, stop: Value, step: Value) -> Result<Value> {
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
    list(indices(all.len(), start, stop, step).map(|i| all[i].clone()).collect(), 0)
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

fn dict(pairs: Option<Value>, named: Kwargs) -> Result<Value> {
    let mut all: Vec<(Value, Value)> = Vec::new();
    if let Some(pairs) = &pairs {
        for item in items(pairs)? {
            all.push(match pairs.kind() {
                ValueKind::Map => (item.clone(), pairs.get_item(&item)?),
                _ => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            });
        }
    }
    for name in named.args() {
        all.push((Value::from(name), named.get(name)?));
    }
    count_items(all.len())?;
    Ok(Value::from_iter(all))
}

/// Counts items of what is no list or text and is not looked for when it is gone.
fn count_items(items: usize) -> Result<()> {
    count_written(items.saturating_mul(2 * ITEM))
}

/// The local time in Python's `strftime` notation.
fn strftime_now(format: &str) -> Result<Value> {
    use std::fmt::Write;
    let mut now = String::new();
    check_len(format.len().checked_mul(64))?;
    write!(now, "{}", chrono::Local::now().format(format))
        .map_err(|_| invalid(format!("strftime_now: bad format `{format}`")))?;
    text(now)
}

/// `style % args` or `style.format(args)`.
fn format(style: FormatStyle, pattern: &str, args: &[Value]) -> Result<Value> {
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

fn tojson(value: &Value, options: Kwargs) -> Result<Value> {
    let indent = match options.get::<Option<Value>>("indent")?.filter(|v| !v.is_none()) {
        None => None,
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_string()),
            // A width that no template means is not worth its memory.
            None => Some(" ".repeat(indent.as_usize().unwrap_or(0).min(64))),
        },
    };
    let mut style = JsonStyle::new(indent);
    style.ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(separators)
            .map_err(|_| invalid("tojson: `separators` must be a pair"))?;
        (style.item_separator, style.key_separator) = (item, key);
    }
    options.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|e| {
        Error::new(ErrorKind::BadSerialization, format!("tojson: the value is not JSON: {e}"))
    })?;
    text(style.dumps(&json, MAX_TEXT).ok_or_else(|| invalid("tojson: the JSON is too large"))?)
}

/// What a filter does with a text, as opposed to a value.
const OF_TEXT: [&str; 16] = [
    "lower",
    "upper",
    "title",
    "capitalize",
    "replace",
    "trim",
    "escape",
    "e",
    "safe",
    "indent",
    "center",
    "wordcount",
    "truncate",
    "string",
    "format",
    "split",
];

/// What does not look into its value, which may be a whole conversation.
const SHALLOW: [&str; 6] = ["length", "count", "default", "d", "first", "last"];

/// What takes a text for its characters.
const OF_ITEMS: [&str; 15] = [
    "batch",
    "chain",
    "groupby",
    "list",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "slice",
    "sort",
    "unique",
    "zip",
];

fn add_filters(environment: &mut Environment<'_>) {
    macro_rules! bounded {
        ($($name:literal: $filter:expr),* $(,)?) => {
            $(add_filter(environment, $name, Value::from_function($filter));)*
        };
    }
    bounded! {
        "abs": filters::abs, "attr": filters::attr, "batch": filters::batch, "bool": filters::bool,
        "capitalize": filters::capitalize, "center": center, "chain": filters::chain, "count": filters::length,
        "d": filters::default, "default": filters::default, "dictsort": filters::dictsort, "e": escape,
        "escape": escape, "first": filters::first, "float": float,
        "format": |pattern: &str, args: Rest<Value>| format(FormatStyle::Printf, pattern, &args),
        "groupby": filters::groupby, "indent": filters::indent, "int": int, "items": filters::items,
        "join": join, "last": filters::last, "length": filters::length, "lines": filters::lines,
        "list": filters::list, "lower": filters::lower, "map": filters::map, "max": filters::max,
        "min": filters::min, "pprint": |value: Value| repr(&value).and_then(text),
        "reject": filters::reject, "rejectattr": filters::rejectattr, "replace": replace,
        "reverse": filters::reverse, "round": round, "safe": |text: Value| text,
        "select": filters::select, "selectattr": filters::selectattr, "slice": filters::slice,
        "sort": filters::sort, "split": filters::split, "string": |text: Value| text, "sum": sum,
        "title": filters::title, "tojson": tojson, "trim": filters::trim, "truncate": truncate,
        "unique": filters::unique, "upper": filters::upper, "urlencode": filters::urlencode,
        "wordcount": |text: &str| text.split_whitespace().count(), "zip": filters::zip,
    }
}

fn add_filter(environment: &mut Environment<'_>, name: &'static str, filter: Value) {
    environment.add_filter(name, move |state: &State, args: Rest<Value>| {
        let mut args = args.0;
        for arg in args.iter().filter(|_| !SHALLOW.contains(&name)) {
            written_len(arg)?;
        }
        if let Some(value) = args.first_mut() {
            if value.is_undefined()
                && let Some(answer) = of_undefined(state, name)?
            {
                return Ok(answer);
            }
            if OF_TEXT.contains(&name) && value.as_str().is_none() {
                *value = Value::from(str(value)?);
            }
        }
        check_growth(name, &args)?;
        made(filter.call(state, &args)?, args.first())
    });
}

/// What a filter makes of an undefined value, where that is not what minijinja's makes of it: an error if undefined values are
/// errors, else what Jinja's makes of an empty text or list.
fn of_undefined(state: &State, name: &str) -> Result<Option<Value>> {
    match name {
        "default" | "d" => Ok(None),
        _ if strict(state) => Err(Error::from(ErrorKind::UndefinedError)),
        "length" | "count" | "wordcount" => Ok(Some(Value::from(0))),
        "first" | "last" | "min" | "max" => Ok(Some(Value::UNDEFINED)),
        "tojson" => Err(Error::new(ErrorKind::UndefinedError, "tojson: the value is undefined")),
        _ => Ok(None),
    }
}

/// Refuses arguments with which the filter would make far more than it is given.
fn check_growth(name: &str, args: &[Value]) -> Result<()> {
    let given = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
    let widths = matches!(name, "indent" | "batch" | "slice" | "center" | "truncate" | "round");
    let largest = if widths { args.iter().skip(1).map(largest_number).max().unwrap_or(0) } else { 0 };
    if largest > MAX_WIDTH {
        return Err(invalid(format!("{name}: the limit of a width or count is {MAX_WIDTH}")));
    }
    let value = given(0);
    let grown = match name {
        "indent" => value.split('\n').count().checked_mul(largest as usize),
        "e" | "escape" => value.matches(['<', '>', '&', '"', '\'']).count().checked_mul(5),
        "split" | "lines" => pieces(value, args.get(1)).checked_mul(ITEM),
        _ if OF_ITEMS.contains(&name) => value.len().checked_mul(ITEM),
        _ => Some(0),
    };
    check_len(grown.and_then(|grown| grown.checked_add(value.len())))
}

/// How many pieces a text is split into by a text, or by white space.
fn pieces(value: &str, by: Option<&Value>) -> usize {
    match by.and_then(Value::as_str) {
        Some(by) => times_found(value, by),
        None => value.matches(char::is_whitespace).count(),
    }
}

/// How often `old` is replaced in `text` at most; an empty text stands before each character and at the end.
fn times_found(text: &str, old: &str) -> usize {
    text.matches(old).count()
}

/// The largest number of an argument or of the named arguments in it.
fn largest_number(arg: &Value) -> i64 {
    let size = |v: &Value| v.as_i64().map_or(0, i64::saturating_abs);
    match arg.kind() {
        ValueKind::Map => {
            let values = arg.try_iter().into_iter().flatten().filter_map(|key| arg.get_item(&key).ok());
            values.map(|value| size(&value)).max().unwrap_or(0)
        }
        ValueKind::Number if arg.as_i64().is_none() => i64::MAX,
        _ => size(arg),
    }
}

/// `int(value, default, base)`.
fn int(value: &Value, default: Option<Value>, base: Option<u32>) -> Result<Value> {
    let otherwise = || default.unwrap_or(Value::from(0));
    let Some(text) = value.as_str() else {
        let whole = numbers(value, &Value::from(0)).map(|numbers| match numbers {
            Numbers::Whole(a, _) => whole(Some(a)),
            Numbers::Float(a, _) if a.is_finite() => whole(Some(a.trunc() as i128)),
            Numbers::Float(..) => Ok(Value::from(0)),
        });
        return whole.unwrap_or_else(|| Ok(otherwise()));
    };
    let base = base.filter(|base| (2..=36).contains(base)).unwrap_or(10);
    let digits = text.trim().replace('_', "");
    let parsed = i128::from_str_radix(&digits, base).ok();
    let parsed =
        parsed.or_else(|| digits.parse::<f64>().ok().filter(|f| f.is_finite()).map(|f| f.trunc() as i128));
    parsed.map_or_else(|| Ok(otherwise()), |parsed| whole(Some(parsed)))
}

fn float(value: &Value, default: Option<Value>) -> Value {
    let parsed = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None => match numbers(value, &Value::from(0.0)) {
            Some(Numbers::Float(a, _)) => Some(a),
            _ => None,
        },
    };
    parsed.map_or_else(|| default.unwrap_or(Value::from(0.0)), Value::from)
}

/// Jinja's `round`, which gives floats.
fn round(value: f64, precision: Option<i32>, method: Option<&str>, options: Kwargs) -> Result<f64> {
    let precision = precision.or(options.get("precision")?).unwrap_or(0);
    let method = method.or(options.get("method")?).unwrap_or("common");
    options.assert_all_used()?;
    let scale = 10_f64.powi(precision);
    let scaled = value * scale;
    Ok(match method {
        "ceil" => scaled.ceil(),
        "floor" => scaled.floor(),
        "common" => scaled.round_ties_even(),
        _ => return Err(invalid("round: the method must be common, ceil or floor")),
    } / scale)
}

fn sum(values: &Value, attribute: Option<&str>, start: Option<Value>, options: Kwargs) -> Result<Value> {
    let attribute = attribute.or(options.get("attribute")?);
    let start = start.or(options.get("start")?).unwrap_or(Value::from(0));
    options.assert_all_used()?;
    let values = if values.is_undefined() { Vec::new() } else { items(values)? };
    let part = |item: Value| attribute.map_or(Ok(item.clone()), |name| item.get_attr(name));
    values.into_iter().map(part).try_fold(start, |sum, value| plus(&sum, &value?))
}

/// Jinja's `escape`.
fn escape(value: &str) -> Result<Value> {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    text(out)
}

fn replace(value: &str, old: Value, new: Value, count: Option<i64>) -> Result<Value> {
    replaced(value, &str(&old)?, &str(&new)?, count)
}

/// Python's `str.replace`, of all if `count` is negative.
fn replaced(value: &str, old: &str, new: &str, count: Option<i64>) -> Result<Value> {
    let count = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let grown = times_found(value, old).min(count).checked_mul(new.len());
    check_len(grown.and_then(|n| n.checked_add(value.len())))?;
    text(value.replacen(old, new, count))
}

fn join(values: &Value, separator: Option<&str>, options: Kwargs) -> Result<Value> {
    let separator = separator.or(options.get("d")?).unwrap_or_default();
    let attribute: Option<&str> = options.get("attribute")?;
    options.assert_all_used()?;
    let attribute = |item: Value| match attribute {
        Some(name) => item.get_attr(name),
        None => Ok(item),
    };
    let values = if values.is_undefined() { Vec::new() } else { items(values)? };
    join_texts(values.into_iter().map(attribute), separator)
}

fn join_texts(values: impl Iterator<Item = Result<Value>>, separator: &str) -> Result<Value> {
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
fn center(value: &str, width: Option<usize>) -> Result<Value> {
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

/// Jinja's `truncate`.
fn truncate(
    value: &str,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<&str>,
    options: Kwargs,
) -> Result<Value> {
    let length = length.or(options.get("length")?).unwrap_or(255);
    let kill = killwords.or(options.get("killwords")?).unwrap_or(false);
    let end = end.or(options.get("end")?).unwrap_or("...");
    let leeway = options.get::<Option<usize>>("leeway")?.unwrap_or(5);
    options.assert_all_used()?;
    if value.chars().count() <= length.saturating_add(leeway) {
        return text(value);
    }
    let cut: String = value.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept =
        if kill { cut.as_str() } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words) };
    text([kept, end].concat())
}

fn add_tests(environment: &mut Environment<'_>) {
    // These compare what they are given, or make a text of it.
    macro_rules! bounded {
        ($($name:literal: $test:expr),*) => {
            $({
                let test = Value::from_function($test);
                environment.add_test($name, move |state: &State, args: Rest<Value>| {
                    args.iter().try_for_each(|arg| written_len(arg).map(|_| ()))?;
                    test.call(state, &args).map(|answer| answer.is_true())
                });
            })*
        };
    }
    bounded! {
        "eq": tests::is_eq, "equalto": tests::is_eq, "==": tests::is_eq, "ne": tests::is_ne, "!=": tests::is_ne,
        "lt": tests::is_lt, "lessthan": tests::is_lt, "<": tests::is_lt, "le": tests::is_le, "<=": tests::is_le,
        "gt": tests::is_gt, "greaterthan": tests::is_gt, ">": tests::is_gt, "ge": tests::is_ge, ">=": tests::is_ge,
        "sameas": tests::is_sameas, "startingwith": tests::is_startingwith, "endingwith": tests::is_endingwith, "lower": tests::is_lower,
        "upper": tests::is_upper, "in": |needle: Value, hay: Value| is_in(&needle, &hay)
    }
    environment
        .add_test("callable", |value: Value| value.as_object().is_some() && value.kind() == ValueKind::Plain);
}

fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match value.as_str() {
        Some(text) => match string_method(text, name, args)? {
            Some(answer) => Ok(answer),
            None => unknown_method_callback(state, value, name, args),
        },
        None if is_list(value) && name == "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| &item == wanted);
            at.map(Value::from).ok_or_else(|| invalid("index: the list has no such item"))
        }
        None => unknown_method_callback(state, value, name, args),
    }
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
    list(parts.map(Value::from).to_vec(), 0)
}

fn rsplit(value: &str, args: &[Value]) -> Result<Value> {
    check_len(pieces(value, args.first()).checked_mul(ITEM))?;
    let (by, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
    let mut found: Vec<Value> = match by {
        Some(by) => value.rsplitn(most, separator(by)?).map(Value::from).collect(),
        None => {
            let words = value.trim();
            let mut found: Vec<&str> = words.rsplitn(most, char::is_whitespace).collect();
            found.iter_mut().for_each(|word| *word = word.trim());
            found.into_iter().filter(|word| !word.is_empty()).map(Value::from).collect()
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
