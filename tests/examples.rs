//! The examples, compiled into this program so that they are never stale, on the reference's tiny models.

#[allow(dead_code)]
#[path = "suite/common.rs"]
mod common;
#[allow(dead_code)]
#[path = "../examples/logits.rs"]
mod logits;
#[allow(dead_code)]
#[path = "../examples/quickstart.rs"]
mod quickstart;

use std::fs;
use std::path::Path;

use common::{MODELS, close, folder, json, numbers, samples};
use diffmas::backends::BackendKind;
use logits::logits;
use serde_json::json;

/// A copy of a reference model in `dir`, with a tokenizer whose tokens are single letters.
fn with_tokenizer(model: &str, dir: &Path) {
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder(model).join("model").join(file), dir.join(file)).unwrap();
    }
    let letters = (' '..='~').map(|c| c.to_string());
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let vocab: serde_json::Map<_, _> =
        special.into_iter().chain(letters).enumerate().map(|(i, token)| (token, i.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn quickstart_answers_as_the_program_does_with_the_same_team() {
    let dir = tempfile::tempdir().unwrap();
    with_tokenizer("tiny-qwen3", dir.path());
    let model = dir.path().to_str().unwrap();
    let team = dir.path().join("team.toml");
    fs::write(&team, toml::to_string(&quickstart::team()).unwrap()).unwrap();
    let mut answers = Vec::new();
    for question in ["2 + 3?", "Who?"] {
        let mut program = assert_cmd::Command::cargo_bin("diffmas").unwrap();
        program.args(["run", "--greedy", "--max-new-tokens", "64", "--model", model, "--question", question]);
        let out = program.arg("--system").arg(&team).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let answer = quickstart::ask(model, question).unwrap();
        assert_eq!(answer.trim(), String::from_utf8(out.stdout).unwrap().trim());
        answers.push(answer);
    }
    assert_ne!(answers[0], answers[1], "the question reaches the team");
}

#[test]
fn logits_with_an_adapter_give_the_losses_of_pytorch() {
    let kind = BackendKind::default_kind().unwrap();
    for model in MODELS {
        // The solver alone, positions from 0: a plain causal language model with the adapter on.
        let want = numbers(&json(model, "expected.json")["variants"]["nll_controls"]["none"]["nll"]);
        let sample = samples(&json(model, "input.json")).remove(0);
        let (prompt, target) = (sample.prompts.last().unwrap(), sample.target.unwrap());
        let ids: Vec<u32> = prompt.iter().chain(&target).copied().collect();
        let path = folder(model).join("model");
        let adapter = folder(model).join("adapter");
        let out = logits(kind, path.to_str().unwrap(), Some(&adapter), &ids).unwrap();
        assert_eq!(out.shape[0], ids.len());
        assert_eq!(want.len(), target.len());
        for (i, (&token, want)) in target.iter().zip(want).enumerate() {
            let row = &out.values[(prompt.len() - 1 + i) * out.shape[1]..][..out.shape[1]];
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            close(
                sum.ln() - f64::from(row[token as usize]),
                want,
                want,
                1e-5,
                &format!("{model} target {i}"),
            );
        }
    }
}

#[test]
fn logits_answer_an_unknown_token_with_a_sentence() {
    let path = folder("tiny-llama").join("model");
    let kind = BackendKind::default_kind().unwrap();
    let error = logits(kind, path.to_str().unwrap(), None, &[1, 99_999]).err().unwrap().to_string();
    assert_eq!(error, "--ids holds 99999, but the model has only 512 tokens");
}
