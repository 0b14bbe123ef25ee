//! The examples as programs, on tiny models.

#[path = "shared/mod.rs"]
mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use diffmas::checkpoint::read_safetensors;
use serde_json::{Value, json};
use shared::{Place, diffmas, golden, letters};

/// What an example prints, and what it says on standard error where it fails. It is built as this test is.
fn example(name: &str, args: &[&Path]) -> Result<String, String> {
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/examples-…
    let profile = test.ancestors().nth(2).unwrap().file_name().unwrap().to_str().unwrap();
    let profile = if profile == "debug" { "dev" } else { profile };
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo says of this package to this test would pass for a change of the build to crates that look at it.
    let about = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(about)) {
        cargo.env_remove(name);
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["run", "--quiet", "--profile", profile, "--example", name, "--"]);
    let out = cargo.args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

/// What the program answers with the best tokens.
fn answer(team: &[&Path], question: &str) -> String {
    let mut program = diffmas(&[&"run", &"--greedy", &"--question", &question]);
    let out = program.args(team).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim_end_matches('\n').to_string()
}

fn line(question: &str, answer: &str) -> String {
    format!("{}\n", json!({"question": question, "answer": answer}))
}

#[test]
fn quickstart_answers_as_the_program_does() {
    let place = Place::new();
    let model = letters(&place, "tiny-qwen3");
    let answers = ["2 + 3?", "Who?"].map(|question| {
        let said = example("quickstart", &[&model, Path::new(question)]).unwrap();
        assert_eq!(said.trim_end_matches('\n'), answer(&[Path::new("--model"), &model], question));
        said
    });
    assert_ne!(answers[0], answers[1], "the question reaches the team");
    assert!(example("quickstart", &[&place.path("nowhere")]).unwrap_err().contains("nowhere"));
}

#[test]
fn a_team_that_the_training_example_leaves_answers_as_it_does() {
    let place = Place::new();
    let (model, output) = (letters(&place, "tiny-qwen3"), place.path("run"));
    let data = place.write("train.jsonl", line("a", "x") + &line("b", "y"));
    let said = example("train", &[&model, &data, &output]).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("update ")).count(), 20, "{said}");
    let (before, _) = said.split_once("20 updates, adapter in ").unwrap();
    let losses: Vec<&str> = before.lines().collect();
    assert_ne!(losses.first(), losses.last());
    assert!(said.trim_end().ends_with(&answer(&[&output], "What is the capital of France?")), "{said}");
    assert!(example("train", &[&model, &data, &output]).unwrap_err().contains("not empty"));
}

#[test]
fn logits_with_an_adapter_give_the_losses_of_pytorch() {
    let place = Place::new();
    for model in ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3-tied"] {
        // The solver alone, positions from 0: a plain causal language model with the adapter on.
        let json = |file: &str| -> Value {
            serde_json::from_str(&fs::read_to_string(golden(model).join(file)).unwrap()).unwrap()
        };
        let (input, expected) = (json("input.json"), json("expected.json"));
        let numbers =
            |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        let want = numbers(&expected["variants"]["nll_controls"]["none"]["nll"]);
        let solver = &input["agents"].as_array().unwrap().last().unwrap()["ids"];
        let [prompt, target] = [solver, &input["target"]]
            .map(|ids| numbers(ids).into_iter().map(|id| id as u32).collect::<Vec<_>>());
        let ids: Vec<String> = prompt.iter().chain(&target).map(u32::to_string).collect();
        let [folder, adapter] = ["model", "adapter"].map(|part| golden(model).join(part));
        let output = place.path("logits.safetensors");
        let args =
            [&folder, Path::new("--adapter"), &adapter, Path::new("--output"), &output, Path::new("--ids")];
        example("logits", &[&args[..], &[Path::new(&ids.join(","))]].concat()).unwrap();
        let (shape, values) = read_safetensors(&output).unwrap().remove("logits").unwrap();
        assert_eq!((shape[0], want.len()), (ids.len(), target.len()));
        for (i, (&token, want)) in target.iter().zip(want).enumerate() {
            let row = &values[(prompt.len() - 1 + i) * shape[1]..][..shape[1]];
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            let got = sum.ln() - f64::from(row[token as usize]);
            assert!((got - want).abs() <= 1e-5 * want.abs(), "{model}, target {i}: {got} instead of {want}");
        }
    }
}

#[test]
fn logits_answer_an_unknown_token_with_a_sentence() {
    let error =
        example("logits", &[&golden("tiny-llama").join("model"), Path::new("--ids"), Path::new("1,99999")]);
    assert!(error.unwrap_err().contains("error: --ids holds 99999, but the model has only 512 tokens"));
}

#[test]
fn agents_of_a_custom_topology_run_together_and_the_judge_answers() {
    let place = Place::new();
    let said = example("custom_topology", &[&letters(&place, "tiny-qwen3"), Path::new("Is a whale a fish?")])
        .unwrap();
    let (stages, answer) = said.split_once('\n').unwrap();
    assert_eq!(stages, r#"stages: [["biologist", "linguist"], ["critic"], ["judge"]]"#);
    assert!(!answer.trim().is_empty());
}

/// Bytes of a message and the losses that one of the two channel examples prints.
fn learned(name: &str, model: &Path, data: &Path) -> (usize, Vec<f64>) {
    let said = example(name, &[model, data]).unwrap();
    let numbers =
        said.strip_prefix("a message is ").and_then(|said| said.split_once(" bytes; losses: ")).unwrap();
    (numbers.0.parse().unwrap(), serde_json::from_str(numbers.1).unwrap())
}

#[test]
fn channels_learn_to_tell_what_only_the_sender_knows() {
    let place = Place::new();
    let model = letters(&place, "tiny-qwen3");
    let data = place.write("data.jsonl", line("a", "x") + &line("bbbbbb", "y"));
    let (bytes, losses) = learned("vectors_channel", &model, &data);
    assert_eq!(bytes, 4 * 64 * size_of::<f32>());
    // A solver that knows nothing of the question cannot go below ln 2 on the token that tells the two answers apart.
    let (first, last) = (losses[0], losses.last().unwrap());
    assert!(*last < 0.25 * first && *last < f64::ln(2.0) / 2.0, "{first} -> {last}");
    let (bytes, losses) = learned("custom_channel", &model, &data);
    // Two positions.
    let config: Value =
        serde_json::from_str(&fs::read_to_string(model.join("config.json")).unwrap()).unwrap();
    let number = |name: &str| config[name].as_u64().unwrap() as usize;
    let position = 2 * number("num_hidden_layers") * number("num_key_value_heads") * number("head_dim");
    assert_eq!(bytes, 2 * position * size_of::<f32>());
    assert!(losses.len() == 50 && losses.last() < losses.first(), "{losses:?}");
}

#[test]
fn gradients_of_chains_are_measured_and_drawn() {
    let place = Place::new();
    let (model, output): (PathBuf, PathBuf) = (golden("tiny-qwen3").join("model"), place.path("out"));
    example("gradient_attenuation", &[&model, &output, Path::new("3"), Path::new("1"), Path::new("1")])
        .unwrap();
    let mut table = csv::Reader::from_path(output.join("gradient_attenuation.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    // Four carriers, before and after training: one message of a chain of two, two of a chain of three.
    assert_eq!(rows.len(), 4 * 2 * (1 + 2));
    for row in &rows {
        assert!(row[6].parse::<f64>().unwrap() > 0.0, "{row:?}");
        let state = row[0].starts_with("overwrite") && &row[3] == "3" && &row[5] == "1";
        assert_eq!(row[8].parse::<f64>().is_ok_and(|norm| norm > 0.0), state, "{row:?}");
    }
    assert!(
        fs::read_to_string(output.join("gradient_attenuation.svg")).unwrap().contains("overwrite, gated")
    );
}
