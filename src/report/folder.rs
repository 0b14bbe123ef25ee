//! What an output folder holds.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::Verdict;
use super::curves::{Curves, malformed};
use crate::error::{Error, Result};
use crate::evaluation::{Comparison, Evaluation, Inspection};
use crate::files::{MAX_LONG_TEXT, read_text};

/// The files that a report is made of.
const SOURCES: [&str; 6] = [
    "metrics.jsonl",
    "eval_metrics.jsonl",
    "results.json",
    "comparison.json",
    "inspection.json",
    "config.toml",
];

/// Where a demo keeps the run that trained its team.
const TRAINED: &str = "trained";

/// What an output folder tells about a team.
#[derive(Debug)]
pub struct Report {
    /// The folder, without links on the way.
    dir: PathBuf,
    /// The files that said something, as paths in the folder.
    pub(super) sources: Vec<PathBuf>,
    pub(super) curves: Curves,
    pub(super) evaluations: Vec<Evaluation>,
    pub(super) comparison: Option<Comparison>,
    pub(super) inspection: Option<Inspection>,
    pub(super) config: Option<String>,
}

impl Report {
    /// Reads the folder at `dir`: `metrics.jsonl`, `eval_metrics.jsonl`, `results.json`, `comparison.json`, `inspection.json` and
    /// `config.toml`, as far as they are there or, in the folder of a demo, in its `trained`. An empty file counts as none; a last line that a crash cut short is left out.
    ///
    /// # Errors
    /// If `dir` is no folder, holds none of these files, or one of them is malformed; the error names file and line.
    pub fn read(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            let what = if dir.exists() { "this is a file" } else { "there is no such folder" };
            return Err(Error::file(
                dir,
                format!("{what}; give the output folder of `train`, `eval` or `demo`"),
            ));
        }
        let holds =
            |path: &PathBuf| fs::metadata(dir.join(path)).is_ok_and(|file| file.is_file() && file.len() > 0);
        let find = |name: &str| [PathBuf::from(name), Path::new(TRAINED).join(name)].into_iter().find(holds);
        let sources: Vec<PathBuf> = SOURCES.into_iter().filter_map(find).collect();
        if sources.is_empty() {
            let why = format!("there is nothing to report: the folder holds no {}", SOURCES.join(", no "));
            return Err(Error::file(dir, why));
        }
        let path = |name: &str| dir.join(find(name).unwrap_or_else(|| name.into()));
        Ok(Self {
            dir: dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf()),
            curves: Curves::read(&path("metrics.jsonl"), &path("eval_metrics.jsonl"))?,
            evaluations: evaluations(&path("results.json"))?,
            comparison: json(&path("comparison.json"))?,
            inspection: json(&path("inspection.json"))?,
            config: text(&path("config.toml"))?,
            sources,
        })
    }

    /// The folder's own name.
    pub(super) fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether `path` is one of the files that the report is made of.
    pub fn is_made_of(&self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|path| self.sources.iter().any(|name| self.dir.join(name) == path))
    }

    /// Whether the file at `path` is a page that a report wrote.
    pub fn is_page(path: &Path) -> bool {
        const HEAD: u64 = 64 << 10;
        let mut head = Vec::new();
        let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
        read.is_ok() && String::from_utf8_lossy(&head).contains("– diffmas report</title>")
    }

    /// The ways of answering the same questions that were compared.
    pub fn comparison(&self) -> Option<&Comparison> {
        self.comparison.as_ref()
    }

    /// The first line of the page: whether the message matters, from a comparison or else from scores; where neither is there, what
    /// training did to the loss.
    pub fn verdict(&self) -> Verdict {
        let measured = self.comparison.as_ref().and_then(Verdict::of_comparison);
        let measured = measured.or_else(|| Verdict::of_evaluations(&self.evaluations));
        measured.unwrap_or_else(|| match &self.inspection {
            _ if !self.curves.is_empty() => {
                Verdict::of_training(self.curves.updates, self.curves.ends, self.curves.held_out_ends)
            }
            Some(inspection) => {
                let agents = inspection.agents.join(", ");
                Verdict {
                    sentence: format!("A look inside {agents}; nothing was scored yet."),
                    warning: false,
                }
            }
            None => Verdict { sentence: "Nothing was measured yet.".into(), warning: false },
        })
    }
}

/// The text of a file; none where there is no such file or nothing in it.
fn text(path: &Path) -> Result<Option<String>> {
    match read_text(path, MAX_LONG_TEXT) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        text => Ok(Some(text.map_err(|e| Error::file(path, e))?).filter(|t| !t.trim().is_empty())),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::line(path, e.line().max(1), malformed(&e)))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    text(path)?.map(|text| parse(path, &text)).transpose()
}

/// One score or an array of them.
fn evaluations(path: &Path) -> Result<Vec<Evaluation>> {
    match text(path)? {
        None => Ok(Vec::new()),
        Some(text) if text.trim_start().starts_with('[') => parse(path, &text),
        Some(text) => Ok(vec![parse(path, &text)?]),
    }
}
