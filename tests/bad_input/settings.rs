//! Settings that cannot be computed with; a run that is refused leaves no folder behind.

use crate::shared::{Place, diffmas, failure, golden, line, says};

/// What `train` says about flags; nothing is written.
#[track_caller]
fn train(more: &[&str]) -> String {
    let place = Place::new();
    let message = failure(place.train(&place.path("out/run"), more));
    assert!(!place.path("out/run").exists(), "a run that was refused left its folder: {message}");
    message
}

#[test]
fn counts_of_zero_name_the_setting() {
    for setting in [
        "batch-size",
        "gradient-accumulation-steps",
        "save-steps",
        "max-steps",
        "save-total-limit",
        "max-skipped-updates",
    ] {
        let name = setting.replace('-', "_");
        says(&train(&[&format!("--{setting}"), "0"]), &[&name, "at least 1"]);
    }
    let place = Place::new();
    says(&failure(place.eval(&[&"--batch-size", &"0"])), &["batch_size", "at least 1"]);
    let (model, data) = (golden("tiny-llama").join("model"), place.path("data.jsonl"));
    let run = diffmas(&[&"run", &"--model", &model, &"--data", &data, &"--batch-size", &"0"]);
    says(&failure(run), &["batch_size", "at least 1"]);
}

#[test]
fn adapters_that_cannot_be_made_name_the_setting() {
    says(&train(&["--lora-r", "0"]), &["`r`", "rank 0"]);
    says(&train(&["--lora-r", "1000000"]), &["lora_r", "1000000"]);
    says(&train(&["--lora-alpha", "0"]), &["`lora_alpha`"]);
    says(&train(&["--lora-alpha", "-1"]), &["`lora_alpha`"]);
    says(&train(&["--target-modules", "q_porj"]), &["target_modules"]);
}

#[test]
fn types_of_numbers_that_there_are_not_are_listed_beside_those_there_are() {
    let place = Place::new();
    let flag = |flag: &str, value: &str| {
        let out = place.train(&place.path("out"), &[flag, value]).output().unwrap();
        assert_eq!(out.status.code(), Some(2));
        String::from_utf8(out.stderr).unwrap()
    };
    says(&flag("--dtype", "bf61"), &["--dtype", "`bf61`", "`bf16`", "f32, bf16, f16, q8, q4, auto"]);
    says(&flag("--precision", "bf61"), &["--precision", "`bf61`", "`bf16`", "f32, tf32, bf16, f16"]);
    // The CPU multiplies f32 alone.
    let message = train(&["--backend", "flex", "--precision", "tf32"]);
    says(&message, &["precision is tf32", "backend flex", "`diffmas devices`", "f32 works everywhere"]);
    let file = place.write("run.toml", "dtype = \"int8\"\n");
    let message = failure(place.train(&place.path("out"), &["--config", file.to_str().unwrap()]));
    says(&message, &["run.toml, line 1", "`int8`", "`bf16`"]);
}

#[test]
fn numbers_that_overflow_are_counted_and_not_wrapped() {
    let most = u64::MAX.to_string();
    says(&train(&["--seed", &most]), &["seed", "9223372036854775807"]);
    says(&train(&["--latent-steps", &most]), &["line 1", "max_position_embeddings"]);
    let place = Place::new();
    // Three upstream agents: their sum wraps round to 2.
    let third = ((u64::MAX / 3) + 1).to_string();
    says(&failure(place.eval(&[&"--latent-steps", &third])), &["line 1", "max_position_embeddings"]);
    let open = line(&serde_json::json!([1]), &serde_json::Value::Null).to_string();
    let (model, data) = (golden("tiny-llama").join("model"), place.write("open.jsonl", open));
    let run = diffmas(&[&"run", &"--model", &model, &"--data", &data, &"--max-new-tokens", &most]);
    says(&failure(run), &["line 1", "max_position_embeddings"]);
}

#[test]
fn products_that_overflow_still_train() {
    let place = Place::new();
    let half = (1_u64 << 32).to_string();
    let sizes =
        ["--batch-size", half.as_str(), "--gradient-accumulation-steps", half.as_str(), "--max-steps", "1"];
    place.train(&place.path("out"), &sizes).assert().success();
}

#[test]
fn weights_that_are_refused_late_leave_no_folder_either() {
    let place = Place::new();
    let model = place.model();
    std::fs::write(model.join("model.safetensors"), b"short").unwrap();
    failure(place.train(&place.path("out"), &["--model", model.to_str().unwrap()]));
    assert!(!place.path("out").exists());
    let other = golden("tiny-qwen2").join("adapter");
    failure(place.train(&place.path("out"), &["--adapter", other.to_str().unwrap()]));
    assert!(!place.path("out").exists());
}
