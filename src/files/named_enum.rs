//! Settings that are one of several names.

use super::nearest::nearest;
use crate::error::Error;

/// Defines an enum whose variants are written as lower-case names in files and on the command line.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// The names, in the order of declaration.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name as it is written in files and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
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

pub(crate) fn unknown_name(what: &str, text: &str, names: &[&str]) -> Error {
    let known = names.join(", ");
    Error::invalid(match nearest(text, names) {
        Some(right) => format!("unknown {what} `{text}`; did you mean `{right}`? (known: {known})"),
        None => format!("unknown {what} `{text}`; known: {known}"),
    })
}
