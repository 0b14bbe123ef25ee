//! How people write a model of the hub: `ORG/NAME[@REVISION][:FILE.gguf]`.

use super::answer::is_file_name;
use std::fmt;

/// What a repository holds, as the hub tells repositories apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RepoType {
    /// Models and adapters.
    #[default]
    Model,
    /// Data sets.
    Dataset,
}

impl RepoType {
    /// Its name in the plural, as paths of the hub's interface and of its cache begin with it.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// What stands before the name of a repository in addresses of its page and its files.
    pub(super) fn prefix(self) -> Option<&'static str> {
        (self == Self::Dataset).then_some("datasets")
    }
}

/// A repository on the Hugging Face hub, at one revision, and which of its files is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// What it holds.
    pub repo_type: RepoType,
    /// `ORG/NAME`.
    pub repository: String,
    /// A branch, tag or commit.
    pub revision: Option<String>,
    /// A GGUF file in it; without one, its safetensors, or else its only GGUF file.
    pub file: Option<String>,
}

impl HubName {
    /// Reads `ORG/NAME[@REVISION][:FILE.gguf]`; `None` when `text` is something else, for instance a path.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = match rest.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (rest, None),
        };
        let (organisation, name) = repository.split_once('/')?;
        let plain = is_part(organisation) && is_part(name);
        let gguf = file.is_none_or(|file| is_file_name(file) && file.to_ascii_lowercase().ends_with(".gguf"));
        let revision_fits = revision.is_none_or(is_file_name);
        (plain && gguf && revision_fits).then(|| Self {
            repo_type: RepoType::Model,
            repository: repository.into(),
            revision: revision.map(Into::into),
            file: file.map(Into::into),
        })
    }

    /// The address of its page, after that of the hub.
    pub(super) fn page(&self) -> String {
        let prefix = self.repo_type.prefix().map_or(String::new(), |prefix| format!("{prefix}/"));
        format!("{prefix}{}", self.repository)
    }

    /// The branch, tag or commit that is asked for.
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

/// Whether `text` can be the name of an organisation or repository.
fn is_part(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.starts_with(['.', '-']) && !text.is_empty() && !text.contains("..") && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_revision_and_file_are_told_apart() {
        for (text, repository, revision, file) in [
            ("org/name", "org/name", None, None),
            ("Qwen/Qwen3-0.6B@refs/pr/1", "Qwen/Qwen3-0.6B", Some("refs/pr/1"), None),
            ("o/n:q4/a.GGUF", "o/n", None, Some("q4/a.GGUF")),
            ("o/n@v1.0:a.gguf", "o/n", Some("v1.0"), Some("a.gguf")),
        ] {
            let name = HubName::parse(text).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.repository, repository);
            assert_eq!((name.revision.as_deref(), name.file.as_deref()), (revision, file));
        }
    }

    #[test]
    fn paths_and_other_texts_are_no_names() {
        for text in [
            "",
            "gpt2",
            "/no/such",
            "./a/b",
            "../a",
            "a/b/c",
            "a/",
            "/b",
            "a b/c",
            "o/n@",
            "o/n@../x",
            "o/n@/x",
            "o/n:",
            "o/n:a.bin",
            "o/n:../a.gguf",
            "o/n:/a.gguf",
            "C:\\a/b.gguf",
            "o/..",
        ] {
            assert_eq!(HubName::parse(text), None, "{text}");
        }
    }
}
