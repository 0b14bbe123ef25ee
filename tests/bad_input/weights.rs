//! Weights that are missing, cut, misshapen, overlapping or not finite.

use std::fs;

use diffmas::checkpoint::{NamedTensors, read_safetensors, write_safetensors};
use serde_json::{Value, json};

use crate::shared::{Place, failure, gguf, says};

const Q: &str = "model.layers.1.self_attn.q_proj.weight";

/// What the program says about a model whose weights were changed.
#[track_caller]
fn changed(change: impl FnOnce(&mut NamedTensors)) -> String {
    let place = Place::new();
    let model = place.model();
    let path = model.join("model.safetensors");
    let mut tensors = read_safetensors(&path).unwrap();
    change(&mut tensors);
    write_safetensors(&path, &tensors, None).unwrap();
    failure(place.eval(&[&"--model", &model]))
}

/// What the program says about a safetensors file of these bytes.
#[track_caller]
fn file(bytes: &[u8]) -> String {
    let place = Place::new();
    let model = place.model();
    fs::write(model.join("model.safetensors"), bytes).unwrap();
    let message = failure(place.eval(&[&"--model", &model]));
    says(&message, &["model.safetensors: "]);
    message
}

/// A safetensors file of a header and `data` bytes after it.
fn with_header(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn whole() -> Vec<u8> {
    fs::read(crate::shared::golden("tiny-llama").join("model/model.safetensors")).unwrap()
}

#[test]
fn missing_weights_name_the_files_that_could_be_there() {
    let place = Place::new();
    let model = place.model();
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let message = failure(place.eval(&[&"--model", &model]));
    says(&message, &["model.safetensors", "model.safetensors.index.json"]);
}

#[test]
fn empty_and_truncated_weights_are_called_incomplete() {
    let whole = whole();
    for length in [0, 5, 8, 100, whole.len() / 2, whole.len() - 1] {
        says(&file(&whole[..length]), &["no complete safetensors file"]);
    }
}

#[test]
fn a_header_longer_than_the_file_is_refused() {
    for claimed in [1 << 20, u64::MAX, u64::MAX / 2] {
        let mut bytes = whole();
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        says(&file(&bytes), &["no complete safetensors file"]);
    }
}

#[test]
fn offsets_beyond_the_file_overlapping_or_of_another_size_are_refused() {
    let tensor = |from: usize, to: usize| json!({"dtype": "F32", "shape": [2], "data_offsets": [from, to]});
    for header in [
        json!({"a": tensor(0, 8), "b": tensor(8, 16)}),
        json!({"a": tensor(0, 8), "b": tensor(4, 12)}),
        json!({"a": tensor(0, 8), "b": tensor(0, 8)}),
        json!({"a": tensor(8, 0)}),
        json!({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        json!({"a": {"dtype": "F32", "shape": [1_u64 << 62, 8], "data_offsets": [0, 8]}}),
    ] {
        says(&file(&with_header(&header, 12)), &["no complete safetensors file"]);
    }
}

#[test]
fn a_shard_that_the_index_names_and_the_folder_lacks_is_named() {
    let place = Place::new();
    let model = place.model();
    let index = |file: &str| {
        let tensors = read_safetensors(&model.join("one.safetensors")).unwrap();
        let map: serde_json::Map<_, _> = tensors.keys().map(|name| (name.clone(), json!(file))).collect();
        fs::write(model.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
            .unwrap();
        failure(place.eval(&[&"--model", &model]))
    };
    fs::rename(model.join("model.safetensors"), model.join("one.safetensors")).unwrap();
    says(&index("two.safetensors"), &["model.safetensors.index.json", "`weight_map`", "two.safetensors"]);
    says(&index("../one.safetensors"), &["`weight_map`", "does not lie in the folder"]);
}

#[test]
fn a_wrong_shape_names_the_tensor_and_both_shapes() {
    let message =
        changed(|tensors| drop(tensors.insert("model.norm.weight".into(), (vec![32], vec![1.0; 32]))));
    says(&message, &["`model.norm.weight`", "[32]", "[64]"]);
}

#[test]
fn weights_that_are_not_finite_name_the_tensor_and_the_value() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let message = changed(|tensors| tensors.get_mut(Q).unwrap().1[77] = bad);
        says(&message, &[Q, "not finite", "77"]);
    }
}

#[test]
fn a_missing_and_a_strange_tensor_are_named() {
    says(&changed(|tensors| drop(tensors.remove(Q))), &[Q, "missing"]);
    let strange = changed(|tensors| drop(tensors.insert("model.extra".into(), (vec![1], vec![0.0]))));
    says(&strange, &["model.extra", "no place"]);
}

#[test]
fn a_gguf_file_that_is_empty_cut_or_none_is_a_sentence() {
    let place = Place::new();
    let whole = gguf::tiny();
    let eval = |bytes: &[u8]| {
        let path = place.write("m.gguf", bytes);
        let message = failure(place.eval(&[&"--model", &path]));
        says(&message, &["m.gguf: "]);
    };
    for length in [0, 3, 30, whole.len() / 2, whole.len() - 40] {
        eval(&whole[..length]);
    }
    eval(b"PK\x03\x04 this is something else");
    // The whole file is fine: only the data has more tokens than its embedding.
    let path = place.write("m.gguf", &whole);
    says(&failure(place.eval(&[&"--model", &path])), &["data.jsonl, line 1", "token id 5", "only 4 tokens"]);
}

#[test]
fn a_broken_gguf_file_is_a_sentence_without_a_backtrace_even_where_those_are_asked_for() {
    let place = Place::new();
    let path = place.write("m.gguf", &gguf::tiny()[..100]);
    let mut eval = place.eval(&[&"--model", &path]);
    eval.env("RUST_BACKTRACE", "1");
    let message = failure(eval);
    assert!(message.len() < 300 && !message.contains(".rs:"), "{message}");
}

#[test]
fn weights_that_are_a_folder_are_a_sentence() {
    let place = Place::new();
    let model = place.model();
    fs::remove_file(model.join("model.safetensors")).unwrap();
    fs::create_dir(model.join("model.safetensors")).unwrap();
    says(&failure(place.eval(&[&"--model", &model])), &["model.safetensors", "cannot be read"]);
}
