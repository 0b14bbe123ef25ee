//! Values of flags.

use std::ffi::OsStr;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command};
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

/// A value that `T` reads, of which completions offer names; help tells them in the words of the flag.
pub struct Offered<T> {
    names: Vec<&'static str>,
    value: PhantomData<fn() -> T>,
}

/// `T`, of whose names all are offered.
pub fn offered<T: NamedEnum>() -> Offered<T> {
    offering(T::choices().into_iter().map(|(name, _)| name))
}

/// `T`, of which `names` are offered.
pub fn offering<T>(names: impl IntoIterator<Item = &'static str>) -> Offered<T> {
    Offered { names: names.into_iter().collect(), value: PhantomData }
}

impl<T> Clone for Offered<T> {
    fn clone(&self) -> Self {
        Self { names: self.names.clone(), value: PhantomData }
    }
}

impl<T: FromStr<Err: Display> + Clone + Send + Sync + 'static> TypedValueParser for Offered<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let parse = |text: &str| text.parse::<T>().map_err(|e| e.to_string());
        TypedValueParser::parse_ref(&parse, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().copied().map(PossibleValue::new)))
    }
}
