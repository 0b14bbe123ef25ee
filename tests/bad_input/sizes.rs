//! Sizes that no team, model or task has: each is refused in a sentence before anything of that size is made.

use std::fs;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::{Value, json};

use crate::shared::{Place, diffmas, golden};

const EXTREMES: [u64; 7] = [0, 1 << 31, 1 << 32, 1 << 53, 1 << 62, (1 << 63) - 1, u64::MAX];

/// Asserts that the program ends by itself with an answer: success, or one sentence.
#[track_caller]
fn answers(mut command: Command, what: &str) {
    let out = command.timeout(Duration::from_secs(10)).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(matches!(out.status.code(), Some(0..=2)) && !text.contains("panicked"), "{what}: {text}");
    let sentences = text.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(sentences, usize::from(!out.status.success()), "{what}: {text}");
}

#[test]
fn any_size_in_a_flag_of_a_team_is_answered() {
    let place = Place::new();
    for size in EXTREMES.map(|size| size.to_string()) {
        for flag in [
            "--latent-steps",
            "--num-vectors",
            "--vector-dim",
            "--vector-heads",
            "--cross-attention-layers",
            "--batch-size",
        ] {
            answers(place.eval(&[&"--channel", &"vectors", &flag, &size]), &format!("{flag} {size}"));
        }
        let text = place.eval(&[&"--channel", &"text", &"--message-tokens", &size]);
        answers(text, &format!("--message-tokens {size}"));
    }
}

#[test]
fn any_size_of_a_task_is_answered() {
    let place = Place::new();
    for size in EXTREMES.map(|size| size.to_string()) {
        for flag in ["--holders", "--facts", "--train", "--test"] {
            let output = place.path("task");
            let mut command = diffmas(&[&"generate-task", &"--overwrite", &"--output", &output]);
            command.args(["--train", "2", "--test", "2", flag, &size]);
            answers(command, &format!("{flag} {size}"));
        }
        let huge = size.parse::<u64>().unwrap() > 1;
        if huge {
            let output = place.path("demo");
            answers(diffmas(&[&"demo", &"--questions", &size, &"--output", &output]), "--questions");
        }
    }
}

/// `eval` of a model whose `config.json` has `value` in `field`.
fn with_field(place: &Place, config: &Value, field: &str, value: u64) -> Command {
    let (model, mut config) = (place.path("model"), config.clone());
    config[field] = json!(value);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    place.eval(&[&"--model", &model])
}

#[test]
fn any_number_in_the_configuration_of_a_model_is_answered() {
    let place = Place::new();
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let config = read(&golden("tiny-llama").join("model/config.json"));
    place.model();
    let numbers = config.as_object().unwrap().iter().filter(|(_, value)| value.is_number());
    for (field, _) in numbers {
        for value in EXTREMES {
            answers(with_field(&place, &config, field, value), &format!("{field} {value}"));
        }
    }
}
