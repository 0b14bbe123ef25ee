//! What tests of the real program share: a folder to work in, a tiny model, its data, and how a failure must look.

#![allow(dead_code)] // each test program uses a part of it

pub mod gguf;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Map, Value, json};

/// The roles of the tiny models' data, which are those of the built-in team.
pub const ROLES: [&str; 4] = ["planner", "critic", "refiner", "solver"];

/// How often a test kills: `DIFFMAS_KILLS`, or a `few` times.
pub fn kills(few: usize) -> usize {
    std::env::var("DIFFMAS_KILLS").map_or(few, |text| text.parse().expect("a number"))
}

/// The folder of a reference model.
pub fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(model)
}

/// One of the JSON files of a reference model.
pub fn golden_json(model: &str, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(model).join(file)).unwrap()).unwrap()
}

/// A data line of token ids: the same `prompt` for every role.
pub fn line(prompt: &Value, target: &Value) -> Value {
    let prompts: Map<String, Value> = ROLES.iter().map(|role| (role.to_string(), prompt.clone())).collect();
    json!({"prompt_ids": prompts, "target_ids": target})
}

/// A folder to work in, with `data.jsonl` for the tiny models.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let lines =
            [[5, 6, 7], [8, 9, 10], [11, 12, 13]].map(|ids| line(&json!(ids), &json!([20, 21])).to_string());
        place.write("data.jsonl", lines.join("\n"));
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, its folders included.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A copy of the folder `from` that a test may damage.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }

    /// A copy of the tiny Llama.
    pub fn model(&self) -> PathBuf {
        self.copy(&golden("tiny-llama").join("model"), "model")
    }

    /// A copy of the tiny Llama with a tokenizer of a few words.
    pub fn model_with_tokenizer(&self) -> PathBuf {
        let model = self.model();
        fs::write(model.join("tokenizer.json"), tokenizer(&["<unk>", "what", "<end>"]).to_string()).unwrap();
        fs::write(model.join("tokenizer_config.json"), json!({"eos_token": "<end>"}).to_string()).unwrap();
        model
    }

    /// `eval` of the tiny Llama on `data.jsonl`; of later flags the last wins.
    pub fn eval(&self, more: &[&dyn AsRef<OsStr>]) -> Command {
        let mut command = diffmas(&[
            &"eval",
            &"--model",
            &golden("tiny-llama").join("model"),
            &"--data",
            &self.path("data.jsonl"),
        ]);
        command.args(more.iter().map(|a| a.as_ref()));
        command
    }

    /// Four updates of the tiny Llama on `data.jsonl` with a checkpoint after each second.
    pub fn train(&self, output: &Path, more: &[&str]) -> Command {
        let mut command = diffmas(&[&"train"]);
        command.args(self.training(output)).args(more);
        command
    }

    /// The flags of [`Place::train`].
    pub fn training(&self, output: &Path) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_string();
        let mut flags = vec!["--model".into(), text(&golden("tiny-llama").join("model"))];
        flags.extend(["--data".into(), text(&self.path("data.jsonl")), "--output".into(), text(output)]);
        let rest = "--latent-steps 2 --batch-size 2 --max-steps 4 --save-steps 2 --learning-rate 1e-2";
        flags.extend(rest.split(' ').map(String::from));
        flags
    }
}

/// A `tokenizer.json` of whole words; the last one ends a turn.
pub fn tokenizer(words: &[&str]) -> Value {
    let vocab: Map<String, Value> = words.iter().zip(0..).map(|(w, id)| (w.to_string(), json!(id))).collect();
    let end = json!({"id": words.len() - 1, "content": words.last(), "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}})
}

/// A copy of a reference model with a tokenizer whose tokens are single letters.
pub fn letters(place: &Place, model: &str) -> PathBuf {
    let model = place.copy(&golden(model).join("model"), "letters");
    let letters = (' '..='~').map(|c| c.to_string());
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let vocab: Map<String, Value> =
        special.into_iter().chain(letters).enumerate().map(|(i, token)| (token, i.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    model
}

/// The program with `args`.
pub fn diffmas(args: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = Command::cargo_bin("diffmas").unwrap();
    command.args(args.iter().map(|a| a.as_ref()));
    command
}

/// What a command says when it fails with exit code 1: one sentence on one line, no panic, no backtrace.
#[track_caller]
pub fn failure(mut command: Command) -> String {
    failed(&command.output().unwrap())
}

/// The same of a command that has run.
#[track_caller]
pub fn failed(out: &std::process::Output) -> String {
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    let mut sentences = text.lines().filter_map(|line| line.strip_prefix("error: "));
    let sentence = sentences.next().unwrap_or_else(|| panic!("no sentence: {text}")).to_string();
    assert!(
        sentences.next().is_none() && text.trim_end().ends_with(&sentence),
        "more than one sentence: {text}"
    );
    sentence
}

/// Asserts that `message` has all `parts`.
#[track_caller]
pub fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

/// Every file and folder below `dir`, by its path in it.
pub fn tree(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            all.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_string());
            if path.is_dir() {
                walk(&path, root, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(dir, dir, &mut all);
    all.sort();
    all
}
