//! Splits of data sets on the hub: `ORG/NAME[@REVISION]:[CONFIG/]SPLIT`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::answer::{Listing, is_file_name};
use super::cache::{files_below, hub_cache};
use super::fetch::{Why, offline_by_environment};
use super::layout::HubCache;
use super::name::{HubName, RepoType};
use super::remote::Hub;
use super::select::Wanted;
use super::transfer::{Failure, OnTransfer};
use crate::error::{Error, Result};

/// The kinds of files that are read, the better one first.
const KINDS: [&str; 2] = [".parquet", ".jsonl"];
/// Most bytes of a split: all of its samples are in memory.
const MOST_BYTES: u64 = 16 << 30;
/// Folders that are no configuration.
const NO_CONFIG: [&str; 2] = ["data", "default"];
/// Most names of a kind that an error lists.
const LISTED: usize = 12;

/// Which files of a data set are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SplitName {
    /// The configuration, where one is named.
    config: Option<String>,
    /// The split, or a file.
    split: String,
}

/// The repository and the split that `text` names.
fn parse(text: &str) -> Option<(HubName, SplitName)> {
    let (repository, split) = text.split_once(':')?;
    let name = HubName::parse(repository)?;
    let is_split = is_file_name(split) && !split.contains(':');
    let (config, split) = match split.rsplit_once('/') {
        Some((config, split)) if !is_data(split) => (Some(config.to_string()), split),
        _ => (None, split),
    };
    let split = SplitName { config, split: split.into() };
    is_split.then_some((HubName { repo_type: RepoType::Dataset, ..name }, split))
}

/// The files that `--data` means: an existing file, else those of a split of a data set on the Hugging Face hub,
/// `ORG/NAME[@REVISION]:[CONFIG/]SPLIT` or `ORG/NAME[@REVISION]:FILE`, which is looked for there unless `offline` (or `HF_HUB_OFFLINE`) forbids it;
/// what is cached is not fetched again.
///
/// A file belongs to a split that its name or folder has as a word (`train-00000-of-00002.parquet`, `main/train/0000.parquet`), and to the
/// configuration of its uppermost folder. Parquet files come before JSONL files.
///
/// # Errors
/// When it is neither, or the files cannot be fetched, are of several configurations or too large; says what to do.
pub fn resolve_data(data: &Path, offline: bool, on: OnTransfer) -> Result<Vec<PathBuf>> {
    let text = data.to_str().filter(|_| !data.exists()).unwrap_or_default();
    let Some((name, split)) = parse(text) else {
        if HubName::parse(text).is_some() && data.extension().is_none() {
            let why = "there is no such file; a data set on the Hugging Face hub is named with its split, ORG/NAME:SPLIT";
            return Err(Error::file(data, why));
        }
        return Ok(vec![data.to_path_buf()]);
    };
    let offline = offline || offline_by_environment();
    from_hub(&name, &split, offline, on).map_err(|why| why.into_error(&name, Wanted::Data))
}

/// The files of the split, fetched where they are lacking.
fn from_hub(
    name: &HubName,
    split: &SplitName,
    offline: bool,
    on: OnTransfer,
) -> std::result::Result<Vec<PathBuf>, Why> {
    let cache = hub_cache().map_err(Why::NoCache)?;
    let cached = cached(&cache, name, split);
    if offline {
        return cached.ok_or(Why::Offline);
    }
    let hub = Hub::new(cache).map_err(|failure| Why::Failed(failure, String::new()))?;
    match (transfer(&hub, name, split, on), cached) {
        (Ok(files), _) => Ok(files),
        (Err(Failure::Stopped(error)), _) => Err(Why::Failed(Failure::Stopped(error), String::new())),
        (Err(Failure::Broken(why)), Some(files)) => {
            tracing::warn!("the hub is not asked whether `{name}` changed: {why}; what is cached is taken");
            Ok(files)
        }
        (Err(failure), _) => Err(Why::Failed(failure, hub.endpoint().into())),
    }
}

/// The files of the split in the cache, if all of them are there as far as their names tell.
fn cached(cache: &HubCache, name: &HubName, split: &SplitName) -> Option<Vec<PathBuf>> {
    let repository = cache.repository(name);
    let snapshot = repository.snapshot(&repository.commit(name.revision()));
    let files: Vec<String> = files_below(&snapshot).into_iter().map(|(file, _)| file).collect();
    let files = select(name, split, &files).ok()?;
    let whole = files.iter().all(|file| shards_of(file).is_none_or(|count| count == files.len()));
    whole.then(|| files.iter().map(|file| snapshot.join(file)).collect())
}

/// How many shards a name like `train-00000-of-00002.parquet` tells of.
fn shards_of(file: &str) -> Option<usize> {
    let (_, count) = file.rsplit_once("-of-")?;
    count.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Fetches what the cache lacks.
fn transfer(
    hub: &Hub,
    name: &HubName,
    split: &SplitName,
    on: OnTransfer,
) -> std::result::Result<Vec<PathBuf>, Failure> {
    let listing = hub.listing(name, on)?;
    let files: Vec<String> = listing.files.iter().map(|file| file.name.clone()).collect();
    let files = select(name, split, &files).map_err(Failure::Useless)?;
    check_size(&listing, &files).map_err(Failure::Useless)?;
    let listed = files.iter().filter_map(|file| listing.file(file));
    let paths = listed
        .map(|file| hub.file(name, &listing.commit, file, on))
        .collect::<std::result::Result<_, _>>()?;
    hub.refer(name, &listing.commit)?;
    Ok(paths)
}

fn check_size(listing: &Listing, files: &[String]) -> std::result::Result<(), String> {
    let bytes = files.iter().filter_map(|file| listing.file(file)?.bytes).fold(0, u64::saturating_add);
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(format!(
        "its {} files have {} GB, which do not fit into memory; name one of them, for instance `{}`",
        files.len(),
        bytes / 1_000_000_000,
        files[0]
    ))
}

fn is_data(file: &str) -> bool {
    KINDS.iter().any(|kind| file.to_ascii_lowercase().ends_with(kind))
}

/// The files of the split among those that the repository lists, in order.
fn select(name: &HubName, split: &SplitName, files: &[String]) -> std::result::Result<Vec<String>, String> {
    let of_kind = |kind: &&&str| files.iter().any(|file| file.to_ascii_lowercase().ends_with(**kind));
    if is_data(&split.split) {
        let file = split.config.iter().map(|config| format!("{config}/")).collect::<String>() + &split.split;
        return match files.contains(&file) {
            true => Ok(vec![file]),
            false => Err(format!("it has no file `{file}`")),
        };
    }
    let Some(kind) = KINDS.iter().find(of_kind) else {
        return Err(format!(
            "it has neither Parquet nor JSONL files at `{}`; the hub keeps its own conversion of most data sets, which `{}@{CONVERTED}:\
             CONFIG/SPLIT` names",
            name.revision(),
            name.repository
        ));
    };
    let found = files.iter().filter(|file| file.to_ascii_lowercase().ends_with(kind));
    let found: Vec<Found> = found.map(|file| Found::of(file)).collect();
    let of = |ends: &[char]| found.iter().filter(|found| found.has(&split.split, ends)).collect::<Vec<_>>();
    let mut of_split = of(&['-', '.']);
    if of_split.is_empty() {
        of_split = of(&['-', '.', '_', ' ']);
        let names: BTreeSet<&str> = of_split.iter().map(|found| found.name()).collect();
        if names.len() > 1 {
            let names: Vec<&str> = names.into_iter().take(LISTED).collect();
            return Err(format!("it has no split `{}`, but {}", split.split, names.join(", ")));
        }
    }
    if of_split.is_empty() {
        let all: Vec<&str> = found.iter().take(LISTED).map(|found| found.file).collect();
        return Err(format!("it has no file of the split `{}`, but {}", split.split, all.join(", ")));
    }
    let configs: BTreeSet<&str> = of_split.iter().map(|found| found.config).collect();
    let config = match &split.config {
        Some(config) if configs.contains(config.as_str()) => config.as_str(),
        Some(config) if NO_CONFIG.contains(&config.as_str()) && configs.contains("") => "",
        Some(config) => {
            let known: Vec<&str> = configs.into_iter().take(LISTED).collect();
            return Err(format!("the split has no configuration `{config}`, but {}", known.join(", ")));
        }
        None if configs.len() == 1 => configs.first().copied().unwrap_or_default(),
        None if configs.contains("") => "",
        None => {
            let known: Vec<&str> = configs.iter().copied().take(LISTED).collect();
            return Err(format!(
                "the split has several configurations ({}); ask for one as `{}:{}/{}`",
                known.join(", "),
                name,
                known[0],
                split.split
            ));
        }
    };
    let files = of_split.into_iter().filter(|found| found.config == config);
    let mut files: Vec<String> = files.map(|found| found.file.to_string()).collect();
    files.sort();
    Ok(files)
}

/// The branch with the hub's own conversion of a data set.
const CONVERTED: &str = "refs/convert/parquet";

/// A data file of a repository.
struct Found<'a> {
    file: &'a str,
    /// Its uppermost folder, where that is no split's; empty where there is none.
    config: &'a str,
    /// What stands after the configuration.
    rest: &'a str,
}

impl<'a> Found<'a> {
    fn of(file: &'a str) -> Self {
        match file.split_once('/') {
            Some((folder, rest)) if NO_CONFIG.contains(&folder) => Self { file, config: "", rest },
            // In a folder that holds files and no folders, the split is the folder's name or in those of the files.
            Some((folder, rest)) if !SPLITS.iter().any(|split| has_word(folder, split, &['-', '_'])) => {
                Self { file, config: folder, rest }
            }
            _ => Self { file, config: "", rest: file },
        }
    }

    /// Whether a folder or the file has the word `split` between `ends`.
    fn has(&self, split: &str, ends: &[char]) -> bool {
        self.rest.split('/').any(|part| has_word(part, split, ends))
    }

    /// The file's name without its number and what comes after that.
    fn name(&self) -> &'a str {
        let name = self.rest.rsplit('/').next().unwrap_or_default();
        name.split(['-', '.']).next().unwrap_or_default()
    }
}

/// Folders that are named after a split.
const SPLITS: [&str; 5] = ["train", "validation", "test", "dev", "val"];

/// Whether `word` stands in `text` between `between`, or at its ends.
fn has_word(text: &str, word: &str, between: &[char]) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| between.contains(&c));
    let stands = |(at, found): (usize, &str)| {
        ends(text[..at].chars().next_back()) && ends(text[at + found.len()..].chars().next())
    };
    text.match_indices(word).any(stands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(name: &str, files: &[&str]) -> std::result::Result<Vec<String>, String> {
        let (name, split) = parse(name).unwrap();
        let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
        select(&name, &split, &files)
    }

    #[test]
    fn repository_configuration_and_split_are_told_apart() {
        for (text, repository, revision, config, split) in [
            ("openai/gsm8k:main/train", "openai/gsm8k", None, Some("main"), "train"),
            ("o/n@v1:test", "o/n", Some("v1"), None, "test"),
            (
                "o/n@refs/convert/parquet:default/train",
                "o/n",
                Some("refs/convert/parquet"),
                Some("default"),
                "train",
            ),
            ("o/n:data/a.parquet", "o/n", None, None, "data/a.parquet"),
        ] {
            let (name, found) = parse(text).unwrap();
            assert_eq!(
                (name.repository.as_str(), name.revision.as_deref()),
                (repository, revision),
                "{text}"
            );
            assert_eq!((found.config.as_deref(), found.split.as_str()), (config, split), "{text}");
        }
        for text in
            ["o/n", "o:train", "train.jsonl", "o/n:", "o/n:../x", "a/b/c:train", "o/n:a:b", "C:\\a\\b"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn files_are_found_by_split_and_configuration() {
        let gsm8k = [
            "README.md",
            "main/test-00000-of-00001.parquet",
            "main/train-00000-of-00001.parquet",
            "socratic/train-00000-of-00001.parquet",
        ];
        assert_eq!(selected("o/n:main/train", &gsm8k).unwrap(), ["main/train-00000-of-00001.parquet"]);
        assert_eq!(selected("o/n:test", &gsm8k).unwrap(), ["main/test-00000-of-00001.parquet"]);
        let error = selected("o/n:train", &gsm8k).unwrap_err();
        assert!(error.contains("(main, socratic); ask for one as `o/n:main/train`"), "{error}");
        let error = selected("o/n:other/train", &gsm8k).unwrap_err();
        assert!(error.contains("no configuration `other`, but main, socratic"), "{error}");
        let plain = [
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train.jsonl",
            "data/test_sft-0.parquet",
        ];
        let both = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        assert_eq!(selected("o/n:train", &plain).unwrap(), both);
        assert_eq!(selected("o/n:default/train", &plain).unwrap(), both);
        assert_eq!(selected("o/n:test_sft", &plain).unwrap(), ["data/test_sft-0.parquet"]);
        let chat = ["data/train_gen-0.parquet", "data/train_sft-0.parquet"];
        assert_eq!(selected("o/n:train_sft", &chat).unwrap(), ["data/train_sft-0.parquet"]);
        assert_eq!(
            selected("o/n:train", &chat).unwrap_err(),
            "it has no split `train`, but train_gen, train_sft"
        );
        let converted =
            ["default/train/0000.parquet", "default/test/0000.parquet", "other/train/0000.parquet"];
        assert_eq!(selected("o/n:train", &converted).unwrap(), ["default/train/0000.parquet"]);
        assert_eq!(selected("o/n:other/train", &converted).unwrap(), ["other/train/0000.parquet"]);
        assert_eq!(selected("o/n:train", &["train.jsonl", "test.jsonl"]).unwrap(), ["train.jsonl"]);
        assert_eq!(selected("o/n:train", &["train/a.jsonl", "test/a.jsonl"]).unwrap(), ["train/a.jsonl"]);
        assert_eq!(selected("o/n:main/a.parquet", &["main/a.parquet"]).unwrap(), ["main/a.parquet"]);
        assert!(selected("o/n:a.parquet", &["main/a.parquet"]).unwrap_err().contains("no file `a.parquet`"));
        assert!(
            selected("o/n:train", &["train.csv"])
                .unwrap_err()
                .contains("`o/n@refs/convert/parquet:CONFIG/SPLIT`")
        );
        assert!(selected("o/n:dev", &["train.jsonl"]).unwrap_err().contains("split `dev`, but train.jsonl"));
    }

    #[test]
    fn names_tell_how_many_shards_there_are() {
        assert_eq!(shards_of("data/train-00000-of-00012.parquet"), Some(12));
        assert_eq!(shards_of("default/train/0000.parquet"), None);
    }
}
