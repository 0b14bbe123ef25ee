//! Reads a TOML file into any struct; a misspelt key is answered with the key that was probably meant.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::bounded::{MAX_TEXT, read_text};
use super::nearest::nearest;
use crate::error::{Error, Result};

/// Reads the TOML file at `path`.
///
/// With `#[serde(deny_unknown_fields)]` on the structs of `T`, an unknown key is an error that names the
/// file, the line and the nearest key that exists; unknown names of enum variants likewise.
///
/// # Errors
/// When the file cannot be read, is not TOML, or does not fit `T`.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = text_of(path)?;
    toml::from_str(&text).map_err(|e| explained(path, &text, &e))
}

/// The text of the TOML file at `path`, without a byte-order mark.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    let text =
        read_text(path, MAX_TEXT).map_err(|e| Error::file(path, format!("the file cannot be read: {e}")))?;
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}

/// What is wrong with `text`, the content of the file at `path`.
pub(crate) fn explained(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let message = explain(error.message());
    match error.span() {
        Some(span) => Error::line(path, line_of(text, span.start), message),
        None => Error::file(path, message),
    }
}

/// Line (from 1) of the byte at `offset`.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

/// Turns serde's `` unknown field `x`, expected one of `a`, `b` `` into a sentence with a suggestion. Other
/// messages stay as they are, on one line.
fn explain(message: &str) -> String {
    let what = if message.starts_with("unknown field") {
        "key"
    } else if message.starts_with("unknown variant") {
        "value"
    } else {
        return message.trim().replace('\n', "; ");
    };
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((&wrong, known)) = quoted.split_first() else {
        return message.to_string();
    };
    unknown(what, wrong, known)
}

/// The sentence about a name that is none of `known`.
pub(crate) fn unknown(what: &str, wrong: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return format!("unknown {what} `{wrong}`; none is known here");
    }
    let known_list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match nearest(wrong, known) {
        Some(right) => {
            format!("unknown {what} `{wrong}`; did you mean `{right}`? (known here: {known_list})")
        }
        None => format!("unknown {what} `{wrong}`; known here: {known_list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
        Green,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Part {
        name: String,
        #[serde(default)]
        latent_steps: usize,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        colour: Colour,
        #[serde(default)]
        parts: Vec<Part>,
    }

    fn read(text: &str) -> std::result::Result<File, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        read_toml(&path).map_err(|e| e.to_string().replace(&format!("{}", path.display()), "a.toml"))
    }

    #[test]
    fn a_correct_file_is_read() {
        let file = read("colour = \"green\"\n[[parts]]\nname = \"a\"\nlatent_steps = 3\n").unwrap();
        assert!(matches!(file.colour, Colour::Green));
        assert_eq!((file.parts[0].name.as_str(), file.parts[0].latent_steps), ("a", 3));
        assert!(matches!(read("\u{feff}colour = \"red\"").unwrap().colour, Colour::Red));
    }

    #[test]
    fn a_misspelt_key_names_line_and_nearest_key() {
        assert_eq!(
            read("color = \"red\"\n").unwrap_err(),
            "a.toml, line 1: unknown key `color`; did you mean `colour`? (known here: `colour`, `parts`)"
        );
        let nested =
            "colour = \"red\"\n\n[[parts]]\nname = \"é\"\n\n[[parts]]\nname = \"b\"\nlatent-step = 1\n";
        assert_eq!(
            read(nested).unwrap_err(),
            "a.toml, line 8: unknown key `latent-step`; did you mean `latent_steps`? \
             (known here: `name`, `latent_steps`)"
        );
    }

    #[test]
    fn a_key_that_is_far_from_all_lists_the_keys() {
        assert_eq!(
            read("colour = \"red\"\nwhatever = 1\n").unwrap_err(),
            "a.toml, line 2: unknown key `whatever`; known here: `colour`, `parts`"
        );
    }

    #[test]
    fn a_misspelt_value_gets_a_suggestion_too() {
        let error = read("colour = \"gren\"\n").unwrap_err();
        assert_eq!(
            error,
            "a.toml, line 1: unknown value `gren`; did you mean `green`? (known here: `red`, `green`)"
        );
    }

    #[test]
    fn wrong_types_missing_keys_and_broken_syntax_name_the_line() {
        let error = read("colour = \"red\"\n[[parts]]\nname = 3\n").unwrap_err();
        assert!(error.starts_with("a.toml, line 3: ") && error.contains("string"), "{error}");
        let error = read("colour = \"red\"\n[[parts]]\nlatent_steps = 3\n").unwrap_err();
        assert!(error.starts_with("a.toml, line 2: ") && error.contains("`name`"), "{error}");
        let error = read("colour = \"red\"\nparts = [[\n").unwrap_err();
        assert!(error.starts_with("a.toml, line "), "{error}");
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let error = read_toml::<File>(Path::new("/no/such/team.toml")).unwrap_err().to_string();
        assert!(error.starts_with("/no/such/team.toml: the file cannot be read"), "{error}");
    }
}
