//! Adapters that do not belong to the model, are of another kind, or are damaged.

use std::fs;
use std::path::Path;

use diffmas::checkpoint::{read_safetensors, write_safetensors};
use serde_json::{Value, json};

use crate::shared::{Place, ROLES, failure, golden, says};

/// The tiny Llama's adapter, to be damaged, and what the program says about it then.
#[track_caller]
fn damaged(change: impl FnOnce(&Path)) -> String {
    let place = Place::new();
    let adapter = place.copy(&golden("tiny-llama").join("adapter"), "adapter");
    change(&adapter);
    failure(place.eval(&[&"--adapter", &adapter]))
}

fn set(adapter: &Path, field: &str, value: Value) {
    let path = adapter.join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn an_adapter_of_another_model_names_tensors_and_shapes() {
    let place = Place::new();
    for other in ["tiny-qwen2", "tiny-qwen3"] {
        let message = failure(place.eval(&[&"--adapter", &golden(other).join("adapter")]));
        says(&message, &["adapter", "model.layers."]);
    }
}

#[test]
fn dora_and_other_methods_are_refused_by_field() {
    says(&damaged(|a| set(a, "use_dora", json!(true))), &["adapter_config.json", "`use_dora`"]);
    says(&damaged(|a| set(a, "peft_type", json!("IA3"))), &["`peft_type`", "IA3", "LORA"]);
    says(&damaged(|a| set(a, "modules_to_save", json!(["lm_head"]))), &["`modules_to_save`"]);
    let magnitude = damaged(|adapter| {
        let path = adapter.join("adapter_model.safetensors");
        let mut tensors = read_safetensors(&path).unwrap();
        let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
        tensors.insert(name.into(), (vec![64], vec![1.0; 64]));
        write_safetensors(&path, &tensors, None).unwrap();
    });
    says(&magnitude, &["lora_magnitude_vector", "plain LoRA"]);
}

#[test]
fn an_embedding_that_was_saved_along_must_be_the_models() {
    let place = Place::new();
    let adapter = place.copy(&golden("tiny-llama").join("adapter"), "adapter");
    let path = adapter.join("adapter_model.safetensors");
    let mut tensors = read_safetensors(&path).unwrap();
    let base = read_safetensors(&golden("tiny-llama").join("model/model.safetensors")).unwrap();
    let name = "base_model.model.model.embed_tokens.weight";
    tensors.insert(name.into(), base["model.embed_tokens.weight"].clone());
    write_safetensors(&path, &tensors, None).unwrap();
    let out = place.eval(&[&"--adapter", &adapter]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    tensors.get_mut(name).unwrap().1[5] += 1.0;
    write_safetensors(&path, &tensors, None).unwrap();
    let message = failure(place.eval(&[&"--adapter", &adapter]));
    says(
        &message,
        &["adapter_model.safetensors", &format!("`{name}` differs from the model's"), "`modules_to_save`"],
    );
    set(&adapter, "modules_to_save", json!(["embed_tokens"]));
    let out = place.eval(&[&"--adapter", &adapter]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let adapter = adapter.to_str().unwrap();
    let train = |more: &[&str]| {
        failure(place.train(&place.path("out"), &[&["--adapter", adapter][..], more].concat()))
    };
    says(&train(&[]), &["`modules_to_save`", "merge the adapter"]);
    says(&train(&["--adapter-scope", "per_role"]), &["`modules_to_save`", "per_role"]);

    tensors.get_mut(name).unwrap().0[0] /= 2;
    tensors.get_mut(name).unwrap().1.truncate(512 * 64 / 2);
    write_safetensors(&path, &tensors, None).unwrap();
    let message = failure(place.eval(&[&"--adapter", &adapter]));
    says(&message, &[&format!("`{name}` has the shape [256, 64], but the model needs [512, 64]")]);
}

#[test]
fn dropout_at_the_head_is_refused_in_training() {
    let place = Place::new();
    let flags = ["--target-modules", "lm_head", "--lora-dropout", "0.1"];
    let message = failure(place.train(&place.path("out"), &flags));
    says(&message, &["lora_dropout", "`lm_head`"]);
    says(&failure(place.train(&place.path("out"), &["--lora-dropout", "1"])), &["lora_dropout", "[0, 1)"]);
    says(&failure(place.train(&place.path("out"), &["--adam-beta1", "1"])), &["adam_beta1", "below 1"]);
    says(&failure(place.train(&place.path("out"), &["--adam-epsilon", "0"])), &["adam_epsilon", "positive"]);
}

#[test]
fn a_rank_that_the_tensors_do_not_have_and_a_bad_pattern_are_one_sentence() {
    says(&damaged(|a| set(a, "r", json!(4))), &["adapter_model.safetensors", "rank 4"]);
    says(&damaged(|a| set(a, "target_modules", json!("(q_proj"))), &["`target_modules`", "unclosed group"]);
    says(
        &damaged(|a| set(a, "target_modules", json!("((a{99}){99}){99}"))),
        &["`target_modules`", "size limit"],
    );
}

#[test]
fn a_merged_model_is_not_taken_for_an_adapter() {
    let place = Place::new();
    let message = failure(place.eval(&[&"--adapter", &golden("tiny-llama").join("model")]));
    says(&message, &["adapter_config.json", "merged", "--model"]);
}

#[test]
fn an_adapter_trained_on_a_model_of_another_name_is_warned_about() {
    let place = Place::new();
    let adapter = place.copy(&golden("tiny-llama").join("adapter"), "adapter");
    let stderr = |base: Value| {
        set(&adapter, "base_model_name_or_path", base);
        let out = place.eval(&[&"--adapter", &adapter]).output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{text}");
        text
    };
    says(&stderr(json!("some/Other-1B")), &["WARN", "some/Other-1B", "answers may make no sense"]);
    says(&stderr(json!(null)), &["WARN", "does not say in which team it learned", "--system"]);
    for same in [json!(null), json!("../model"), json!("someone/tiny-llama")] {
        assert!(!stderr(same.clone()).contains("answers may make no sense"), "{same}");
    }
}

#[test]
fn adapters_that_are_cut_missing_or_not_finite_name_the_file() {
    let cut = damaged(|adapter| {
        let path = adapter.join("adapter_model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    says(&cut, &["adapter_model.safetensors", "no complete safetensors file"]);
    let gone = damaged(|adapter| fs::remove_file(adapter.join("adapter_model.safetensors")).unwrap());
    says(&gone, &["no `adapter_model.safetensors`"]);
    let bad = damaged(|adapter| {
        let path = adapter.join("adapter_model.safetensors");
        let mut tensors = read_safetensors(&path).unwrap();
        tensors.values_mut().next().unwrap().1[3] = f32::NAN;
        write_safetensors(&path, &tensors, None).unwrap();
    });
    says(&bad, &["adapter_model.safetensors", "not finite", "value 3"]);
    let place = Place::new();
    says(
        &failure(place.eval(&[&"--adapter", &place.path("nowhere")])),
        &["nowhere", "no such adapter folder"],
    );
}

#[test]
fn an_adapter_set_that_lacks_a_role_names_its_folder() {
    let place = Place::new();
    for role in &ROLES[..3] {
        place.copy(&golden("tiny-llama").join("adapter"), &format!("set/{role}"));
    }
    says(&failure(place.eval(&[&"--adapter", &place.path("set")])), &["set/solver", "adapter_config.json"]);
}

#[test]
fn weights_that_overflow_are_an_error_and_no_answer() {
    let place = Place::new();
    let adapter = place.copy(&golden("tiny-llama").join("adapter"), "adapter");
    let path = adapter.join("adapter_model.safetensors");
    let mut tensors = read_safetensors(&path).unwrap();
    tensors.values_mut().for_each(|(_, values)| values.iter_mut().for_each(|x| *x *= 1e25));
    write_safetensors(&path, &tensors, None).unwrap();
    let parts = ["agent `solver`", "position ", "not finite"];
    says(&failure(place.eval(&[&"--adapter", &adapter])), &[&parts[..], &["line 1"]].concat());
    let model = golden("tiny-llama").join("model");
    let data = place.path("data.jsonl");
    let output = place.path("answers.jsonl");
    let mut run =
        crate::shared::diffmas(&[&"run", &"--model", &model, &"--data", &data, &"--adapter", &adapter]);
    run.args(["--greedy", "--output"]).arg(&output);
    says(&failure(run), &parts);
    assert!(!output.exists());
}
