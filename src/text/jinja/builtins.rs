//! The environment of templates: its functions, and where its operators, filters and methods come from.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::globals::{cycler, joiner};

use super::filters::{add_filters, add_tests};
use super::methods::method;
use super::operators::{OPERATORS, slice};
use super::values::{
    ITEM, Result, check_len, count_written, invalid, items, made, str, strict, text, tuple, written_len,
};

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
            let empty = name == "~" || name == "%" && left.as_str().is_some();
            let undefined = left.is_undefined() || right.is_undefined();
            if name != "in" && undefined && (strict(state) || !empty) {
                return Err(Error::from(ErrorKind::UndefinedError));
            }
            operator(&left, &right)
        });
    }
    environment.add_function("[:]", slice);
    environment.add_function("(,)", |items: Rest<Value>| tuple(items.0, 0));
    environment.add_function("small()", |value: Value| written_len(&value).map(|_| value));
    environment.add_function("ordered()", |value: Value| match value.is_undefined() {
        true => Err(Error::from(ErrorKind::UndefinedError)),
        false => written_len(&value).map(|_| value),
    });
    add_filters(environment);
    add_tests(environment);
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
