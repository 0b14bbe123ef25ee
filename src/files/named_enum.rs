//! Settings that are one of several names.

use std::str::FromStr;

use super::nearest::nearest;
use crate::error::Error;

/// A setting that is one of several names.
pub trait NamedEnum: Copy + FromStr<Err = Error> + Send + Sync + 'static {
    /// Each name with one sentence about it, in the order of declaration.
    fn choices() -> Vec<(&'static str, String)>;
}

/// Defines an enum whose variants are written as lower-case names in files and on the command line.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal {
        $($(#[$($attribute:tt)+])* $variant:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$($attribute)+])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// The names, in the order of declaration.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name as it is written in files and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl $crate::files::NamedEnum for $name {
            fn choices() -> Vec<(&'static str, String)> {
                vec![$(($text, $crate::files::sentence(&[$(doc_line!($($attribute)+)),*]))),+]
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Error;

            fn from_str(text: &str) -> $crate::Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::files::unknown_name($what, text, Self::NAMES)),
                }
            }
        }
    };
}

/// The line of a doc comment; nothing for another attribute.
macro_rules! doc_line {
    (doc = $line:literal) => {
        $line
    };
    (default) => {
        ""
    };
}

/// The lines of a doc comment as one sentence without its full stop.
pub(crate) fn sentence(lines: &[&str]) -> String {
    let text = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    text.trim_end().trim_end_matches('.').to_string()
}

pub(crate) fn unknown_name(what: &str, text: &str, names: &[&str]) -> Error {
    let known = names.join(", ");
    Error::invalid(match nearest(text, names) {
        Some(right) => format!("unknown {what} `{text}`; did you mean `{right}`? (known: {known})"),
        None => format!("unknown {what} `{text}`; known: {known}"),
    })
}
