//! Which files of a repository make up a model or an adapter: its own list of files decides.

use super::name::HubName;
use crate::checkpoint::peft;
use crate::checkpoint::safetensors::{INDEX, SINGLE, weight_map};
use crate::error::Result;
use crate::files::Fields;
use std::collections::BTreeSet;
use std::path::Path;

/// Read beside the weights where the repository has them. `config.json` must be there.
const BESIDE: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
];

/// The folder of chat templates beside the default one, as `transformers` names it.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";

/// What a repository is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What `--model` takes.
    Model,
    /// What `--adapter` takes: a PEFT folder.
    Adapter,
    /// What `--data` takes: a split of a data set.
    Data,
}

impl Wanted {
    /// What to do instead of asking the hub.
    pub fn elsewhere(self) -> &'static str {
        match self {
            Self::Model => "give --model a folder or GGUF file",
            Self::Adapter => "give --adapter a folder",
            Self::Data => "give --data a file",
        }
    }
}

/// What is fetched of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// A folder of these files, weights last.
    Folder(Vec<String>),
    /// A folder of these files, the last of which is an index, and then the shards that it names.
    Sharded(Vec<String>),
    /// One GGUF file.
    Gguf(String),
}

/// The files to fetch out of those that the repository lists.
///
/// # Errors
/// When what is wanted is not among them, or more than once; the sentence says what to ask for instead.
pub(super) fn select(
    name: &HubName,
    wanted: Wanted,
    files: &[String],
) -> std::result::Result<Selection, String> {
    let has = |file: &str| files.iter().any(|f| f == file);
    if wanted == Wanted::Adapter {
        return match peft::FILES.iter().find(|file| !has(file)) {
            Some(file) => Err(format!("it has no `{file}`, so it is no PEFT adapter with safetensors")),
            // PEFT's own last: with them the folder counts as whole.
            None => {
                let beside = peft::BESIDE.into_iter().filter(|file| has(file));
                Ok(Selection::Folder(beside.chain(peft::FILES).map(String::from).collect()))
            }
        };
    }
    let ggufs: Vec<&str> = ggufs(files.iter().map(String::as_str));
    if let Some(file) = &name.file {
        return match (has(file), ggufs.is_empty()) {
            (true, _) => Ok(Selection::Gguf(file.clone())),
            (false, true) => Err(format!("it has no file `{file}`, nor any other GGUF file")),
            (false, false) => Err(format!("it has no file `{file}`, but {}", ggufs.join(", "))),
        };
    }
    if has(SINGLE) || has(INDEX) {
        if !has(BESIDE[0]) {
            return Err(format!("it has weights but no `{}`, which must describe them", BESIDE[0]));
        }
        let inside = |file: &String| file.strip_prefix(TEMPLATES).is_some_and(|name| name.starts_with('/'));
        let templates = |file: &&String| inside(file) && file.ends_with(".jinja");
        let templates = files.iter().filter(templates).cloned();
        let beside = BESIDE.iter().filter(|file| has(file)).map(|file| file.to_string());
        let mut beside: Vec<String> = beside.chain(templates).collect();
        if has(SINGLE) {
            beside.push(SINGLE.into());
            return Ok(Selection::Folder(beside));
        }
        beside.push(INDEX.into());
        return Ok(Selection::Sharded(beside));
    }
    match ggufs[..] {
        [] if has(peft::FILES[0]) => {
            Err(format!("it holds an adapter, not a model; give it as `--adapter {name}`"))
        }
        [] if files.iter().any(|file| file.ends_with(".bin") || file.ends_with(".pth")) => {
            Err("it has no safetensors, only PyTorch's own format; look for a conversion to safetensors or \
                 GGUF"
                .into())
        }
        [] => Err("it has neither safetensors weights nor a GGUF file".into()),
        [file] => Ok(Selection::Gguf(file.into())),
        _ => Err(format!(
            "it has several GGUF files ({}); ask for one as `{}:FILE.gguf`",
            ggufs.join(", "),
            name
        )),
    }
}

/// The GGUF files among `files`. Of a file split in parts, which is not read here, all parts are there.
pub(super) fn ggufs<'a>(files: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    files.filter(|file| file.to_ascii_lowercase().ends_with(".gguf")).collect()
}

/// The shards that the index at `path` names.
///
/// # Errors
/// When it cannot be read or names a file outside its folder.
pub(super) fn shards(path: &Path) -> Result<BTreeSet<String>> {
    Ok(weight_map(&Fields::read(path)?)?.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(name: &str, files: &[&str]) -> std::result::Result<Selection, String> {
        let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
        select(&HubName::parse(name).unwrap(), Wanted::Model, &files)
    }

    fn names(files: &[&str]) -> Vec<String> {
        files.iter().map(|file| file.to_string()).collect()
    }

    #[test]
    fn safetensors_come_with_what_describes_them_and_before_gguf() {
        let files = ["README.md", "tokenizer.json", "model.safetensors", "config.json", "a.gguf", "x.bin"];
        let expected = Selection::Folder(names(&["config.json", "tokenizer.json", SINGLE]));
        assert_eq!(selected("o/n", &files), Ok(expected));
        assert_eq!(selected("o/n:a.gguf", &files), Ok(Selection::Gguf("a.gguf".into())));
        let sharded = [INDEX, "config.json", "model-00001-of-00002.safetensors"];
        assert_eq!(selected("o/n", &sharded), Ok(Selection::Sharded(names(&["config.json", INDEX]))));
    }

    #[test]
    fn one_gguf_file_is_taken_and_of_several_one_must_be_named() {
        assert_eq!(selected("o/n", &["README.md", "A.GGUF"]), Ok(Selection::Gguf("A.GGUF".into())));
        let error = selected("o/n", &["q4.gguf", "q8.gguf"]).unwrap_err();
        assert!(error.contains("q4.gguf, q8.gguf") && error.contains("`o/n:FILE.gguf`"), "{error}");
        assert!(
            selected("o/n:q5.gguf", &["q4.gguf"]).unwrap_err().contains("no file `q5.gguf`, but q4.gguf")
        );
    }

    #[test]
    fn a_repository_without_a_model_says_what_it_lacks() {
        let error = |files: &[&str]| selected("o/n", files).unwrap_err();
        assert!(error(&["model.safetensors"]).contains("no `config.json`"));
        assert!(error(&["config.json", "pytorch_model.bin"]).contains("no safetensors"));
        assert!(error(&["adapter_config.json", "adapter_model.safetensors"]).contains("--adapter"));
        assert!(error(&["README.md"]).contains("neither"));
    }

    #[test]
    fn an_index_may_name_files_of_its_own_folder_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(INDEX);
        std::fs::write(&path, r#"{"weight_map": {"a": "s1", "b": "s2", "c": "s1"}}"#).unwrap();
        assert_eq!(shards(&path).unwrap().into_iter().collect::<Vec<_>>(), ["s1", "s2"]);
        std::fs::write(&path, r#"{"weight_map": {"a": "../s1"}}"#).unwrap();
        assert!(shards(&path).unwrap_err().to_string().contains("`weight_map` names the shard `../s1`"));
    }
}
