//! Filters and tests of templates: minijinja's within bounds, and Jinja's where those differ.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, FormatStyle, State, Value, filters, tests};

use super::methods::{center, join_texts, pairs, pieces, replaced};
use super::operators::{Numbers, format, is_in, numbers, plus, whole};
use super::values::{
    ITEM, MAX_TEXT, Result, check_len, invalid, items, list, made, repr, str, strict, text, tuple,
    written_len,
};
use crate::text::python_json::JsonStyle;

/// The widest that a template pads or indents, and the longest part that it asks for.
const MAX_WIDTH: i64 = 10_000;

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

/// What gives tuples, where minijinja gives lists.
const OF_TUPLES: [&str; 2] = ["dictsort", "zip"];

/// What does not look into its value, which may be a whole conversation.
const SHALLOW: [&str; 6] = ["length", "count", "default", "d", "first", "last"];

pub(super) fn add_filters(environment: &mut Environment<'_>) {
    macro_rules! bounded {
        ($($name:literal: $filter:expr),* $(,)?) => {
            $(add_filter(environment, $name, Value::from_function($filter));)*
        };
    }
    bounded! {
        "abs": filters::abs, "attr": filters::attr, "batch": filters::batch, "bool": filters::bool,
        "capitalize": filters::capitalize, "center": center, "chain": filters::chain, "count": filters::length,
        "d": filters::default, "default": filters::default, "dictsort": filters::dictsort,
        "e": escape, "escape": escape, "first": filters::first, "float": float,
        "format": |pattern: &str, args: Rest<Value>| format(FormatStyle::Printf, pattern, &args),
        "groupby": filters::groupby, "indent": filters::indent, "int": int, "items": pairs,
        "join": join, "last": filters::last, "length": filters::length, "lines": filters::lines,
        "list": |state: &State, values: Value| match values.is_none() {
            true => Err(invalid("none has no items")),
            false => filters::list(state, values),
        }, "lower": filters::lower, "map": filters::map, "max": filters::max,
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
        let answer = filter.call(state, &args)?;
        made(if OF_TUPLES.contains(&name) { as_tuples(answer)? } else { answer }, args.first())
    });
}

/// What a filter makes of an undefined value, where that is not what minijinja's makes of it: an error if undefined values are
/// errors, else what Jinja's makes of an empty text or list.
fn of_undefined(state: &State, name: &str) -> Result<Option<Value>> {
    match name {
        "default" | "d" => Ok(None),
        _ if strict(state) => Err(Error::from(ErrorKind::UndefinedError)),
        "length" | "count" | "wordcount" => Ok(Some(Value::from(0))),
        "int" | "float" => Err(Error::from(ErrorKind::UndefinedError)),
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

/// Lists in a list as tuples in it.
fn as_tuples(lists: Value) -> Result<Value> {
    let inner = items(&lists)?.iter().map(|inner| tuple(items(inner)?, 0)).collect::<Result<_>>()?;
    list(inner, 0)
}

/// Jinja's `truncate`.
fn truncate(value: &str, args: Rest<Value>) -> Result<Value> {
    let (length, killwords, end, leeway, options) =
        from_args::<(Option<usize>, Option<bool>, Option<&str>, Option<usize>, Kwargs)>(&args)?;
    let length = length.or(options.get("length")?).unwrap_or(255);
    let kill = killwords.or(options.get("killwords")?).unwrap_or(false);
    let end = end.or(options.get("end")?).unwrap_or("...");
    let leeway = leeway.or(options.get("leeway")?).unwrap_or(5);
    options.assert_all_used()?;
    if value.chars().count() <= length.saturating_add(leeway) {
        return text(value);
    }
    let cut: String = value.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept =
        if kill { cut.as_str() } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words) };
    text([kept, end].concat())
}

pub(super) fn add_tests(environment: &mut Environment<'_>) {
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
    environment.add_test("sequence", |state: &State, value: &Value| match value.is_undefined() {
        true if strict(state) => Err(Error::from(ErrorKind::UndefinedError)),
        // Jinja asks whether it has a length and items.
        undefined => Ok(undefined || tests::is_sequence(value) || value.as_str().is_some()),
    });
    environment
        .add_test("callable", |value: Value| value.as_object().is_some() && value.kind() == ValueKind::Plain);
}
