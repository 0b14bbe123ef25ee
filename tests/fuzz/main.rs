//! Every reader on thousands of damaged files: no panic, no nonsense, and memory in proportion to the file.
//!
//! `DIFFMAS_FUZZ_EXECUTIONS=1000000 cargo test --release --test fuzz` runs a million of each. Execution `i` of a target is the same in
//! every run.

mod memory;
mod mutate;
mod seeds;
#[path = "../shared/mod.rs"]
mod shared;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use diffmas_fuzz::{TARGETS, Target};

/// A byte of a GGUF array becomes a value of 32 bytes in a list that doubles while it grows; that is the most.
const BYTES_PER_BYTE: usize = 128;
/// Compiled regular expressions and the tables of parsers, whatever the file.
const BYTES: usize = 16 << 20;

/// Libraries keep caches per thread (that of `tokenizers` outlives every tokenizer), which are not the memory that one file takes.
const PER_THREAD: usize = 10_000;

fn fuzz(name: &str) {
    let (_, target) = TARGETS.iter().find(|(other, _)| *other == name).expect("a target of this name");
    let executions: u64 = match std::env::var("DIFFMAS_FUZZ_EXECUTIONS") {
        Ok(text) => text.parse().expect("DIFFMAS_FUZZ_EXECUTIONS is a number"),
        Err(_) => 3000,
    };
    let seeds = seeds::of(name);
    for seed in &seeds {
        target(seed);
    }
    for first in (0..executions).step_by(PER_THREAD) {
        let all = first..executions.min(first + PER_THREAD as u64);
        let piece = || all.for_each(|execution| execute(name, *target, &seeds, execution));
        if let Err(panic) = thread::scope(|scope| scope.spawn(piece).join()) {
            resume_unwind(panic);
        }
    }
    eprintln!("{name}: {executions} executions");
}

fn execute(name: &str, target: Target, seeds: &[Vec<u8>], execution: u64) {
    let input = mutate::mutated(seeds, execution);
    memory::start(execution);
    let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
    let peak = memory::peak();
    // Room for a page of Parquet is made as the page asks, within the bound of the format.
    let page = if name == "parquet" { 2 << 30 } else { 0 };
    if outcome.is_err() || peak > page + BYTES + BYTES_PER_BYTE * input.len() {
        let path = std::env::temp_dir().join(format!("diffmas-fuzz-{name}-{execution}"));
        std::fs::write(&path, &input).unwrap();
        let what = outcome.map_or("panicked".to_string(), |()| format!("took {peak} bytes"));
        panic!("{name}, execution {execution}: {what} on {} bytes, kept in {}", input.len(), path.display());
    }
}

#[test]
fn safetensors() {
    fuzz("safetensors");
}

#[test]
fn gguf() {
    fuzz("gguf");
}

#[test]
fn peft() {
    fuzz("peft");
}

#[test]
fn model_config() {
    fuzz("model_config");
}

#[test]
fn jsonl() {
    fuzz("jsonl");
}

#[test]
fn parquet() {
    fuzz("parquet");
}

#[test]
fn team() {
    fuzz("team");
}

#[test]
fn trace() {
    fuzz("trace");
}

#[test]
fn hub_answer() {
    fuzz("hub_answer");
}

#[test]
fn tokenizer() {
    fuzz("tokenizer");
}

#[test]
fn chat_template() {
    fuzz("chat_template");
}

#[test]
fn bench() {
    fuzz("bench");
}

#[test]
#[ignore = "writes fuzz/corpus, from which `cargo fuzz` starts"]
fn the_valid_files_are_written_as_the_corpus_of_cargo_fuzz() {
    for (name, _) in TARGETS {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (index, seed) in seeds::of(name).iter().enumerate() {
            std::fs::write(folder.join(format!("valid-{index}")), seed).unwrap();
        }
    }
}
