//! Data in lines: one JSON object a line.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use super::kind::kind;
use crate::error::{Error, Result};
use crate::files::{UniqueJson, read_line};

/// What files of other kinds begin with, and what to do with them.
const OTHERS: [(&[u8], &str); 6] = [
    (
        b"\xff\xfe",
        "the file is UTF-16, but must be UTF-8; PowerShell writes that with `Out-File -Encoding utf8`",
    ),
    (
        b"\xfe\xff",
        "the file is UTF-16, but must be UTF-8; PowerShell writes that with `Out-File -Encoding utf8`",
    ),
    (b"\x1f\x8b", "the file is compressed; unpack it with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "the file is compressed; unpack it with `unzstd`"),
    (b"PK\x03\x04", "the file is a ZIP archive; unpack it with `unzip`"),
    (b"BZh", "the file is compressed; unpack it with `bunzip2`"),
];

/// Calls `each` with the number, the bytes and the object of every line of `file` that is not blank, and returns how many lines there are; nothing
/// once it says that this is enough. The first line has `before` lines before it; errors call the file `path`.
///
/// # Errors
/// Names file and line: what `each` says, malformed JSON; a file of another kind.
pub(super) fn for_each(
    path: &Path,
    file: &Path,
    before: usize,
    each: &mut impl FnMut(usize, usize, Map<String, Value>) -> std::result::Result<bool, String>,
) -> Result<Option<usize>> {
    let unreadable = |e: std::io::Error| format!("the file cannot be read: {e}");
    let mut file = BufReader::new(File::open(file).map_err(|e| Error::file(path, unreadable(e)))?);
    let start = file.fill_buf().map_err(|e| Error::file(path, unreadable(e)))?;
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(Error::file(path, what));
    }
    let mut line = Vec::new();
    for count in 0.. {
        let index = before + count + 1;
        line.clear();
        if !read_line(&mut file, &mut line).map_err(|e| Error::line(path, index, unreadable(e)))? {
            return Ok(Some(count));
        }
        let mark = if count == 0 { "\u{feff}" } else { "" };
        let raw = line.strip_prefix(mark.as_bytes()).unwrap_or(&line);
        if raw.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let more = object(raw).and_then(|fields| each(index, raw.len(), fields));
        if !more.map_err(|message| Error::line(path, index, message))? {
            break;
        }
    }
    Ok(None)
}

/// The JSON object on a line.
fn object(raw: &[u8]) -> std::result::Result<Map<String, Value>, String> {
    let UniqueJson(value) = parse(raw)?;
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Array(_) => Err(
            "expected a JSON object, found a list; a data file is no JSON array but holds one JSON object a \
                                line, which `jq -c .[] FILE` makes of an array"
                .into(),
        ),
        other => Err(format!("expected a JSON object, found {}", kind(&other))),
    }
}

/// The JSON value on a line. Python's numbers that JSON has no form for, `NaN` and `Infinity`, are null.
fn parse(raw: &[u8]) -> std::result::Result<UniqueJson, String> {
    let error = match serde_json::from_slice(raw) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let (text, longer) = without_nan(raw);
    let error = match &text {
        Cow::Borrowed(_) => error,
        Cow::Owned(text) => match serde_json::from_slice(text) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        },
    };
    let column = error.column() - longer.iter().filter(|at| **at < error.column()).count();
    if error.is_eof() && raw.trim_ascii_start().starts_with(b"[") {
        return Err("the file is a JSON array, but must hold one JSON object a line, which `jq -c .[] FILE` makes of it".into());
    }
    let hint = if error.is_eof() { "; a line holds one whole JSON object" } else { "" };
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    Err(format!("malformed JSON at column {column}: {what}{hint}"))
}

/// `raw` with `null` for numbers that are none, outside of texts; and behind which bytes it is longer by one.
fn without_nan(raw: &[u8]) -> (Cow<'_, [u8]>, Vec<usize>) {
    const NULL: &[u8] = b"null";
    let (mut out, mut longer, mut kept) = (Vec::new(), Vec::new(), 0);
    let (mut at, mut in_text) = (0, false);
    while at < raw.len() {
        let names = [&b"-Infinity"[..], b"Infinity", b"NaN"];
        let name = names.into_iter().find(|name| !in_text && raw[at..].starts_with(name));
        match (raw[at], name) {
            (_, Some(name)) => {
                out.extend_from_slice(&raw[kept..at]);
                out.extend_from_slice(NULL);
                if name.len() < NULL.len() {
                    longer.push(out.len());
                }
                out.resize(out.len() + name.len().saturating_sub(NULL.len()), b' ');
                at += name.len() - 1;
                kept = at + 1;
            }
            (b'"', None) => in_text = !in_text,
            (b'\\', None) if in_text => at += 1,
            _ => {}
        }
        at += 1;
    }
    if kept == 0 {
        return (Cow::Borrowed(raw), longer);
    }
    out.extend_from_slice(&raw[kept..]);
    (Cow::Owned(out), longer)
}
