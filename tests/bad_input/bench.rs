//! Benches that cannot be.

use std::fs;

use serde_json::json;

use crate::shared::{Place, diffmas, failure, golden, says};

/// What `bench` says about flags.
#[track_caller]
fn bench(more: &[&str]) -> String {
    let mut command = diffmas(&[&"bench"]);
    command.args(more);
    failure(command)
}

#[test]
fn numbers_that_make_no_sense_are_named() {
    says(&bench(&["--train-batch", "1,0"]), &["train_batch is 0", "from 1 to"]);
    says(&bench(&["--decode-batch", "99999999"]), &["decode_batch is 99999999"]);
    says(&bench(&["--latent-steps", "5000"]), &["latent_steps is 5000"]);
    says(&bench(&["--runs", "0"]), &["runs is 0"]);
}

#[test]
fn what_is_unknown_is_one_sentence_with_what_is_known() {
    says(&bench(&["--backend", "flex,abacus"]), &["backend `abacus` is not in this binary", "flex"]);
    for (flag, value, parts) in [
        ("--shape", "qwen3-7b", ["unknown shape `qwen3-7b`", "smollm2-135m"]),
        ("--dtype", "f32,f8", ["unknown dtype `f8`", "bf16"]),
        ("--works", "sleep", ["sleep", "latent-step"]),
    ] {
        let out = diffmas(&[&"bench", &flag, &value]).output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{text}");
        says(&text, &parts);
    }
    let out = diffmas(&[&"bench", &"--shape", &"8b", &"--model", &"x"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn a_model_without_weights_is_named_before_anything_is_measured() {
    let place = Place::new();
    let model = place.model();
    fs::remove_file(model.join("model.safetensors")).unwrap();
    says(&bench(&["--model", model.to_str().unwrap()]), &["model", "safetensors"]);
    says(&bench(&["--model", place.path("none").to_str().unwrap(), "--offline"]), &["none"]);
}

#[test]
fn weights_that_are_damaged_stand_in_the_column_and_are_a_failure() {
    let place = Place::new();
    let model = place.model();
    let path = model.join("model.safetensors");
    let mut tensors = diffmas::checkpoint::read_safetensors(&path).unwrap();
    tensors.remove("model.norm.weight");
    diffmas::checkpoint::write_safetensors(&path, &tensors, None).unwrap();
    let out =
        diffmas(&[&"bench", &"--backend", &"flex", &"--dtype", &"f32", &"--model", &model]).output().unwrap();
    let [stdout, stderr] = [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    says(&stdout, &["| loading | failed: ", "model.norm.weight"]);
    says(&stderr, &["error: nothing was measured: flex f32: ", "model.norm.weight"]);
}

#[test]
fn an_earlier_bench_that_is_none_is_told_with_file_and_field() {
    let place = Place::new();
    let against = |content: &str| {
        let file = place.write("old.json", content);
        bench(&["--against", file.to_str().unwrap()])
    };
    says(&bench(&["--against", place.path("none.json").to_str().unwrap()]), &["none.json"]);
    says(&against("{\n\"format\": 1,"), &["old.json, line 2", "JSON"]);
    says(&against("[1]"), &["old.json"]);
    says(&against("{}"), &["old.json: the field `format` is missing"]);
    says(&against(&json!({"format": 9}).to_string()), &["old.json: the field `format` is 9"]);
    let columns = json!([{"backend": "flex", "dtype": "f32", "finished": true, "measurements": [{"work": "prefill", "count": 512,
        "seconds": [1.0], "median": 0.0, "min": 1.0, "max": 1.0, "figure": 1.0, "unit": "s"}]}]);
    let text = json!({"format": 1, "columns": columns}).to_string();
    says(&against(&text), &["old.json: the field `columns[0].measurements[0].median` is 0"]);
    #[cfg(unix)]
    says(&bench(&["--against", "/dev/zero"]), &["/dev/zero", "MiB"]);
    says(&bench(&["--against", golden("tiny-llama").to_str().unwrap()]), &["tiny-llama"]);
}
