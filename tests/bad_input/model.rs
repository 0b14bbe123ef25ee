//! Models whose parts contradict each other: layers, heads, tokenizer.

use std::fs;

use serde_json::{Value, json};

use crate::shared::{Place, failure, golden, says, tokenizer};

/// What the program says about the tiny Llama with a changed `config.json`.
#[track_caller]
fn config(changes: Value) -> String {
    let place = Place::new();
    let model = place.model();
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fs::write(&path, config.to_string()).unwrap();
    failure(place.eval(&[&"--model", &model]))
}

#[test]
fn one_layer_too_many_or_too_few_names_its_tensors() {
    says(&config(json!({"num_hidden_layers": 4})), &["missing", "model.layers.3."]);
    says(&config(json!({"num_hidden_layers": 2})), &["no place", "model.layers.2."]);
}

#[test]
fn heads_that_do_not_divide_name_the_field() {
    let heads = json!({"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": null});
    says(&config(heads), &["config.json", "`num_attention_heads` (3) does not divide"]);
    says(&config(json!({"num_key_value_heads": 3})), &["config.json", "`num_key_value_heads` (3)"]);
    says(&config(json!({"num_attention_heads": 8, "head_dim": 16})), &["q_proj", "[64, 64]", "[128, 64]"]);
}

#[test]
fn numbers_that_no_model_has_name_the_field() {
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("vocab_size", json!(-512)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("intermediate_size", json!("wide")),
        ("rms_norm_eps", json!(-1)),
        ("model_type", json!("gemma3")),
    ] {
        says(&config(json!({field: value})), &["config.json", &format!("`{field}`")]);
    }
}

#[test]
fn a_configuration_that_is_missing_or_broken_names_the_file() {
    let place = Place::new();
    let model = place.model();
    fs::write(model.join("config.json"), "{\n\"model_type\": \"llama\",\n").unwrap();
    says(&failure(place.eval(&[&"--model", &model])), &["config.json, line 3"]);
    fs::remove_file(model.join("config.json")).unwrap();
    says(&failure(place.eval(&[&"--model", &model])), &["model: the folder has no `config.json`", ".gguf"]);
    let adapter = golden("tiny-llama").join("adapter");
    says(&failure(place.eval(&[&"--model", &adapter])), &["give it as --adapter"]);
}

#[test]
fn a_token_beyond_the_embedding_is_refused_where_it_occurs() {
    let place = Place::new();
    let model = place.model_with_tokenizer();
    let words: Vec<String> =
        (0..600).map(|i| if i == 0 { "<unk>".into() } else { format!("w{i}") }).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).chain(["<end>"]).collect();
    fs::write(model.join("tokenizer.json"), tokenizer(&words).to_string()).unwrap();
    let text = |word: &str| {
        let line = json!({"question": word, "answer": "w1"}).to_string();
        fs::write(place.path("text.jsonl"), line).unwrap();
        place.eval(&[&"--model", &model, &"--data", &place.path("text.jsonl")])
    };
    // Its last token, the end of a turn, is such a one.
    says(&failure(text("w5")), &["text.jsonl, line 1", "the answer", "token id 600", "512"]);
    says(&failure(text("w599")), &["text.jsonl, line 1", "the prompt of agent", "token id 599", "512"]);
}

#[test]
fn a_tokenizer_that_is_broken_or_has_no_end_of_turn_names_file_and_field() {
    let place = Place::new();
    let model = place.model_with_tokenizer();
    fs::write(model.join("tokenizer_config.json"), json!({"eos_token": "<stop>"}).to_string()).unwrap();
    says(&failure(place.eval(&[&"--model", &model])), &["tokenizer_config.json", "`eos_token`", "<stop>"]);
    fs::write(model.join("tokenizer.json"), "{\"version\": ").unwrap();
    says(&failure(place.eval(&[&"--model", &model])), &["tokenizer.json"]);
}

#[test]
fn a_model_that_is_no_folder_and_no_gguf_file_is_a_sentence() {
    let place = Place::new();
    says(&failure(place.eval(&[&"--model", &place.path("data.jsonl")])), &["data.jsonl", ".gguf"]);
    says(&failure(place.eval(&[&"--model", &place.path("nowhere")])), &["nowhere"]);
}
