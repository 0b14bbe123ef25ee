//! What a hub answers, believed only in the forms that a hub has: nothing else reaches a path or a later request.

use crate::checkpoint::hash::{git_sha1_of, sha256_of};
use crate::checkpoint::safetensors::is_within;
use serde::Deserialize;
use std::io;
use std::path::Path;

/// The most files that a repository may list; the hub itself advises against more.
const MOST_FILES: usize = 100_000;
/// The longest name of a file, its folders included, and of each part of it.
const LONGEST: [usize; 2] = [1024, 255];
/// The largest file, which is that of the hub: 500 GB.
const LARGEST: u64 = 500_000_000_000;

/// Why an answer is not believed: a predicate of the hub.
type Believed<T> = Result<T, String>;

/// A repository's commit and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// The files, at most 100 000.
    pub files: Vec<ListedFile>,
}

/// A file that a repository lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Its path in the repository: relative, and nowhere out of it.
    pub name: String,
    /// Its size, where the hub tells it.
    pub bytes: Option<u64>,
}

impl Listing {
    /// Reads the hub's answer about a repository.
    ///
    /// # Errors
    /// When it is no such answer, or names a commit, file or size that cannot be one; a predicate of the hub.
    pub fn parse(json: &[u8]) -> Believed<Self> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
        }
        let answer: Answer = serde_json::from_slice(json)
            .map_err(|error| format!("answers with something else than a list of files: {error}"))?;
        let commit = commit(&answer.sha).ok_or_else(|| odd("names the commit", &answer.sha))?;
        if answer.siblings.len() > MOST_FILES {
            return Err(format!("lists {} files, more than {MOST_FILES}", answer.siblings.len()));
        }
        let checked = |file: Sibling| {
            if !is_file_name(&file.rfilename) {
                return Err(odd("names a file", &file.rfilename));
            }
            let bytes = file.size.map(size).transpose()?;
            Ok(ListedFile { name: file.rfilename, bytes })
        };
        Ok(Self { commit, files: answer.siblings.into_iter().map(checked).collect::<Believed<_>>()? })
    }

    /// The file of that name.
    pub fn file(&self, name: &str) -> Option<&ListedFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// What a hub names the content of a file by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Etag {
    /// Git's SHA-1, of small files.
    Git(String),
    /// The SHA-256, of large files.
    Sha256(String),
}

impl Etag {
    /// Reads an entity tag, `"…"` or `W/"…"`; `None` unless it is one of the hashes.
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix("W/").unwrap_or(text);
        let bare = bare.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(bare);
        hex(bare, 40).map(Self::Git).or_else(|| hex(bare, 64).map(Self::Sha256))
    }

    /// The hash, in small letters.
    pub fn hash(&self) -> &str {
        match self {
            Self::Git(hash) | Self::Sha256(hash) => hash,
        }
    }

    /// Whether a file has this content.
    pub(super) fn is_of(&self, path: &Path) -> io::Result<bool> {
        Ok(match self {
            Self::Git(hash) => git_sha1_of(path)? == *hash,
            Self::Sha256(hash) => sha256_of(path)? == *hash,
        })
    }
}

/// What the headers of answers say about one file. Those of a redirect count as those of the answer at its end do.
#[derive(Debug, Clone, Default)]
pub struct FileHeaders {
    linked: Option<String>,
    plain: Option<String>,
    commit: Option<String>,
    /// What `X-Linked-Size` says.
    linked_size: Option<String>,
}

impl FileHeaders {
    /// Takes in what a further answer says; `header` gives the value of a header.
    pub fn add<'a>(&mut self, header: impl Fn(&str) -> Option<&'a str>) {
        for (name, value) in [
            ("x-linked-etag", &mut self.linked),
            ("etag", &mut self.plain),
            ("x-repo-commit", &mut self.commit),
            ("x-linked-size", &mut self.linked_size),
        ] {
            *value = header(name).map(String::from).or(value.take());
        }
    }

    /// The hash of the file.
    ///
    /// # Errors
    /// When no answer gave one, or another commit than `asked`; a predicate of the hub.
    pub fn etag(&self, asked: &str) -> Believed<Etag> {
        if let Some(said) = &self.commit {
            let of = commit(said).ok_or_else(|| odd("names the commit", said))?;
            if of != asked {
                return Err(format!("gives the commit {of} for {asked}"));
            }
        }
        match self.linked.as_ref().or(self.plain.as_ref()) {
            Some(text) => Etag::parse(text).ok_or_else(|| odd("has the ETag", text)),
            None => Err("gives no ETag to check the content by".into()),
        }
    }

    /// The size of the file out of all that is said about it: `X-Linked-Size`, `listed`, and the last answer's `Content-Range` or
    /// `Content-Length`; `None` when nothing is.
    ///
    /// # Errors
    /// When they differ, or one is no size; a predicate of the hub.
    pub fn bytes(
        &self,
        listed: Option<u64>,
        range: Option<&str>,
        length: Option<u64>,
    ) -> Believed<Option<u64>> {
        let linked = self.linked_size.as_deref().map(number).transpose()?;
        let ranged = match range {
            Some(range) => ContentRange::parse(range)?.total,
            None => length,
        };
        let mut said = [listed, linked, ranged].into_iter().flatten();
        let Some(first) = said.next() else { return Ok(None) };
        match said.find(|other| *other != first) {
            Some(other) => Err(format!("gives both {first} and {other} bytes as the size")),
            None => size(first).map(Some),
        }
    }
}

/// `Content-Range`: which bytes of how many an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte.
    pub from: u64,
    /// All bytes of the file; `None` where that is left open.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes FROM-TO/TOTAL`.
    ///
    /// # Errors
    /// When it is something else; a predicate of the hub.
    pub fn parse(text: &str) -> Believed<Self> {
        let parse = || {
            let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (from, to) = range.split_once('-')?;
            let (from, to) = (number(from).ok()?, number(to).ok()?);
            let total = if total == "*" { None } else { Some(number(total).ok()?) };
            let fits = from <= to && total.is_none_or(|total| to < total);
            fits.then_some(Self { from, total })
        };
        parse().ok_or_else(|| odd("gives the range", text))
    }
}

/// The commit that `text` is: 40 hexadecimal digits, here in small letters.
pub fn commit(text: &str) -> Option<String> {
    hex(text, 40)
}

/// Whether `text` can be the path of a file in a repository, and lie under that path on this machine.
pub fn is_file_name(text: &str) -> bool {
    let part = |part: &str| !["", ".", ".."].contains(&part) && part.len() <= LONGEST[1];
    text.len() <= LONGEST[0]
        && is_within(text)
        && text.split('/').all(part)
        && !text.contains(|c: char| c.is_control() || is_unseen(c))
}

/// Whether a terminal shows nothing for `c`, or turns round what follows it.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` in small letters, if it is so many hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<String> {
    let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| text.to_ascii_lowercase())
}

/// A number of digits only; `u64`'s own reader takes a sign, too.
fn number(text: &str) -> Believed<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| odd("gives the size", text))
}

/// `bytes`, if a file can be that large.
fn size(bytes: u64) -> Believed<u64> {
    if bytes <= LARGEST { Ok(bytes) } else { Err(format!("gives {bytes} bytes as the size of a file")) }
}

/// A predicate about a `text` that is not what it should be, shortened and without what a terminal would obey.
fn odd(what: &str, text: &str) -> String {
    const SHOWN: usize = 80;
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if shown.len() < text.len() { " …" } else { "" };
    format!("{what} {shown:?}{more}, which cannot be one")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "c0ffee0000000000000000000000000000000000";

    fn listing(sha: &str, file: &str) -> Believed<Listing> {
        let answer = serde_json::json!({"sha": sha, "siblings": [{"rfilename": file, "size": 3}]});
        Listing::parse(answer.to_string().as_bytes())
    }

    #[test]
    fn commits_are_forty_digits() {
        assert_eq!(listing(&COMMIT.to_uppercase(), "a").unwrap().commit, COMMIT);
        for sha in
            ["", "main", "../../x", "/tmp/x", &COMMIT[1..], &format!("{COMMIT}0"), "g".repeat(40).as_str()]
        {
            assert!(listing(sha, "a").unwrap_err().contains("commit"), "{sha}");
        }
    }

    #[test]
    fn names_of_files_stay_in_the_repository() {
        for name in ["config.json", "onnx/model.onnx", ".gitattributes", "a b/c..d", "\u{e9}.gguf"] {
            assert_eq!(listing(COMMIT, name).unwrap().file(name).unwrap().bytes, Some(3));
        }
        let long = ["x".repeat(256), "x/".repeat(600) + "x"];
        for name in [
            "",
            "..",
            "../a",
            "a/../b",
            "/a",
            "a//b",
            "./a",
            "a/.",
            "a/",
            "a\\b",
            "a\0b",
            "\u{1b}[31m.gguf",
            "\u{202e}ffug.gguf",
        ]
        .into_iter()
        .chain(long.iter().map(String::as_str))
        {
            let error = listing(COMMIT, name).unwrap_err();
            assert!(error.starts_with("names a file ") && !error.contains(char::is_control), "{error}");
            assert!(error.len() < 500, "{error}");
        }
    }

    #[test]
    fn lists_that_are_none_and_too_many_files_are_refused() {
        for text in ["<html>login</html>", "[]", "{}", r#"{"sha": 1, "siblings": []}"#, &"[".repeat(100_000)]
        {
            assert!(Listing::parse(text.as_bytes()).unwrap_err().contains("list of files"));
        }
        let size = |size: &str| {
            let text =
                format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "a", "size": {size}}}]}}"#);
            Listing::parse(text.as_bytes())
        };
        assert!(size("null").is_ok() && size("-1").is_err() && size("1.5").is_err());
        assert!(size("1000000000000000000").unwrap_err().contains("1000000000000000000 bytes"));
        let many = vec![r#"{"rfilename": "a"}"#; MOST_FILES + 1].join(",");
        let text = format!(r#"{{"sha": "{COMMIT}", "siblings": [{many}]}}"#);
        assert!(Listing::parse(text.as_bytes()).unwrap_err().contains("more than 100000"));
    }

    #[test]
    fn entity_tags_are_one_of_two_hashes() {
        let (git, sha256) = ("a1".repeat(20), "B2".repeat(32));
        for text in [git.clone(), format!("\"{git}\""), format!("W/\"{git}\"")] {
            assert_eq!(Etag::parse(&text), Some(Etag::Git(git.clone())));
        }
        assert_eq!(Etag::parse(&format!("\"{sha256}\"")), Some(Etag::Sha256("b2".repeat(32))));
        for text in ["", "\"\"", "\"", "..", "/etc/passwd", "../../x", "a b", &git[1..], &format!("\"{git}")]
        {
            assert_eq!(Etag::parse(text), None, "{text}");
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> FileHeaders {
        let mut headers = FileHeaders::default();
        headers.add(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1));
        headers
    }

    #[test]
    fn the_linked_tag_comes_first_and_the_commit_must_be_the_one_asked_for() {
        let (git, sha256) = ("a1".repeat(20), "b2".repeat(32));
        let both = [("etag", "\"5f3-62\""), ("x-linked-etag", sha256.as_str()), ("x-repo-commit", COMMIT)];
        let mut two = headers(&both);
        two.add(|name| (name == "etag").then_some(git.as_str()));
        assert_eq!(two.etag(COMMIT), Ok(Etag::Sha256(sha256.clone())));
        assert!(two.etag(&"d".repeat(40)).unwrap_err().contains("for ddd"));
        assert!(headers(&both[..1]).etag(COMMIT).unwrap_err().contains("5f3-62"));
        assert!(headers(&[]).etag(COMMIT).unwrap_err().contains("no ETag"));
        assert!(headers(&[("etag", &git), ("x-repo-commit", "../x")]).etag(COMMIT).is_err());
    }

    #[test]
    fn all_that_is_said_of_a_size_must_agree() {
        let headers = headers(&[("x-linked-size", "10")]);
        assert_eq!(headers.bytes(None, None, None), Ok(Some(10)));
        assert_eq!(headers.bytes(Some(10), Some("bytes 0-0/10"), Some(1)), Ok(Some(10)));
        assert_eq!(headers.bytes(None, Some("bytes 0-0/*"), Some(1)), Ok(Some(10)));
        assert_eq!(FileHeaders::default().bytes(None, None, None), Ok(None));
        for (listed, range, length) in
            [(Some(11), None, None), (None, Some("bytes 0-0/11"), None), (None, None, Some(11))]
        {
            assert!(headers.bytes(listed, range, length).unwrap_err().contains("10"));
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(ContentRange::parse("bytes 3-9/10"), Ok(ContentRange { from: 3, total: Some(10) }));
        assert_eq!(ContentRange::parse("bytes 3-9/*"), Ok(ContentRange { from: 3, total: None }));
        for text in
            ["", "bytes 0-0/-5", "bytes 0-0/0", "bytes 9-3/10", "bytes +1-2/10", "3-9/10", "bytes 0-10/10"]
        {
            assert!(ContentRange::parse(text).is_err(), "{text}");
        }
    }
}
