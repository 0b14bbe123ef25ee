//! Adapters know their team and their base; what is other is said or refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::shared::{Place, diffmas, failure, golden, says};

/// A run of four agents with two latent steps on a copy of the tiny Llama.
fn trained(place: &Place) {
    place.model();
    let model = place.path("model");
    let flags = ["--model", model.to_str().unwrap()];
    place.train(&place.path("run"), &flags).assert().success();
}

/// Another number in the place of the last weight.
fn change_weights(model: &Path) {
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
}

/// `results.json` and what was said.
fn results(place: &Place, more: &[&str]) -> (Value, String) {
    let out = place.path("results");
    let _ = fs::remove_dir_all(&out);
    let mut command = diffmas(&[&"eval", &place.path("run"), &"--data", &place.path("data.jsonl")]);
    let result = command.args(more).arg("--output").arg(&out).output().unwrap();
    let text = String::from_utf8(result.stderr).unwrap();
    assert!(result.status.success(), "{text}");
    (serde_json::from_str(&fs::read_to_string(out.join("results.json")).unwrap()).unwrap(), text)
}

#[test]
fn a_run_needs_nothing_but_its_folder() {
    let place = Place::new();
    trained(&place);
    let (own, said) = results(&place, &[]);
    assert!(!said.contains("WARN"), "{said}");
    assert_eq!(own["changed"], Value::Null);
    let (model, data) = (place.path("model"), place.path("data.jsonl"));
    let system = place.path("run/adapter/team.toml");
    let stated = diffmas(&[
        &"eval",
        &"--model",
        &model,
        &"--adapter",
        &place.path("run/adapter"),
        &"--system",
        &system,
        &"--data",
        &data,
    ])
    .output()
    .unwrap();
    assert!(stated.status.success());
    let loss = format!("loss {:.4}", own["loss"].as_f64().unwrap());
    says(&String::from_utf8(stated.stdout).unwrap(), &[&loss]);
    // The adapter alone knows its model.
    fs::rename(place.path("run/adapter"), place.path("moved")).unwrap();
    let moved = diffmas(&[&"eval", &place.path("moved"), &"--data", &data]).output().unwrap();
    says(&String::from_utf8(moved.stdout).unwrap(), &[&loss]);
    says(&failure(diffmas(&[&"eval", &place.path("run"), &"--data", &data])), &["run has not ended"]);
    diffmas(&[&"merge", &place.path("moved")]).assert().success();
    assert!(place.path("moved/merged/model.safetensors").exists());
    says(&failure(diffmas(&[&"run", &place.path("nowhere")])), &["nowhere", "no such folder"]);
    says(&failure(diffmas(&[&"run", &model])), &["no trained team"]);
}

#[test]
fn another_team_is_refused_and_another_setting_is_said_and_recorded() {
    let place = Place::new();
    trained(&place);
    let (changed, said) = results(&place, &["--latent-steps", "1"]);
    let sentence = "`latent_steps` is 1, but the adapter learned with 2";
    says(&said, &[sentence]);
    assert_eq!(changed["changed"], json!([sentence]));
    let other = fs::read_to_string(place.path("run/adapter/team.toml")).unwrap();
    let other = place.write("other.toml", other.replacen("latent_steps = 2", "latent_steps = 4", 1));
    let mut eval = diffmas(&[&"eval", &place.path("run"), &"--data", &place.path("data.jsonl")]);
    eval.arg("--system").arg(&other);
    says(&failure(eval), &["another team", "`latent_steps` is 4", "learned with 2", "--override-team"]);
    let (changed, _) = results(&place, &["--system", other.to_str().unwrap(), "--override-team"]);
    assert_eq!(changed["changed"][0], "`latent_steps` is 4, but the adapter learned with 2");
    // A flag that makes the file's team the adapter's own leaves nothing to say.
    let (own, _) = results(&place, &["--system", other.to_str().unwrap(), "--latent-steps", "2"]);
    assert_eq!(own["changed"], Value::Null);
}

#[test]
fn other_weights_are_said_and_other_sizes_refused() {
    let place = Place::new();
    trained(&place);
    let (own, _) = results(&place, &[]);
    assert_eq!(own["model_sha256"], own["adapter_base_sha256"]);
    let resume = || diffmas(&[&"train", &"--resume", &"--output", &place.path("run"), &"--max-steps", &"6"]);
    change_weights(&place.path("model"));
    let (other, said) = results(&place, &[]);
    says(&said, &["WARN", "other weights", "another format"]);
    assert_ne!(other["model_sha256"], other["adapter_base_sha256"]);
    assert_eq!(other["adapter_base_sha256"], own["model_sha256"]);
    says(&failure(resume()), &["`base_model_sha256` was", "other settings"]);
    change_weights(&place.path("model"));
    resume().assert().success();
    let mut eval = diffmas(&[&"eval", &place.path("run"), &"--data", &place.path("data.jsonl")]);
    eval.arg("--model").arg(golden("tiny-qwen2").join("model"));
    let sentence = failure(eval);
    says(&sentence, &["learned on", "layers of width"]);
    assert!(sentence.len() < 500, "{sentence}");
}
