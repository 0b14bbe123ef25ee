//! Values of flags.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use diffmas::files::NamedEnum;

/// A number that is one: no `nan`, no `inf`.
pub fn number(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err("it must be a finite number".into()),
    }
}

/// One of the names of `T`, which help and errors list.
pub fn one_of<T: NamedEnum>() -> impl TypedValueParser<Value = T> {
    let names = T::choices().into_iter().map(|(name, what)| PossibleValue::new(name).help(what));
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}
