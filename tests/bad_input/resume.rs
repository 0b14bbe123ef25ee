//! Runs that cannot go on, and checkpoints that are damaged.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

use crate::shared::{Place, diffmas, failure, golden, says};

fn resume(output: &Path) -> Command {
    diffmas(&[&"train", &"--resume", &"--output", &output])
}

fn halve(path: PathBuf) {
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
}

fn adapter(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn a_checkpoint_cut_in_half_is_passed_over_for_the_one_before_it_and_said() {
    for file in [
        "state.json",
        "optimizer.safetensors",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
    ] {
        let place = Place::new();
        let out = place.path("out");
        place.train(&out, &[]).assert().success();
        let whole = adapter(&out);
        fs::remove_dir_all(out.join("adapter")).unwrap();
        halve(out.join("checkpoints/step-4").join(file));
        let result = resume(&out).output().unwrap();
        let text = String::from_utf8(result.stderr).unwrap();
        assert!(result.status.success(), "{file}: {text}");
        says(
            &text,
            &[
                "step-4 cannot be used",
                "going on from the earlier checkpoint",
                "step-2",
                "after update 2 of 4",
            ],
        );
        assert_eq!(adapter(&out), whole, "{file}");
    }
}

#[test]
fn a_run_whose_checkpoints_are_all_damaged_names_the_newest() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &[]).assert().success();
    for step in ["step-2", "step-4"] {
        halve(out.join("checkpoints").join(step).join("optimizer.safetensors"));
    }
    says(&failure(resume(&out)), &["step-4/optimizer.safetensors", "damaged", "SHA-256"]);
}

#[test]
fn nothing_to_resume_and_broken_settings_are_sentences() {
    let place = Place::new();
    says(&failure(resume(&place.path("nowhere"))), &["nowhere", "nothing to resume"]);
    assert!(!place.path("nowhere").exists());
    let out = place.path("out");
    place.train(&out, &["--max-steps", "1"]).assert().success();
    fs::write(out.join("config.toml"), "batch_size = 2\nmodel = \n").unwrap();
    says(&failure(resume(&out)), &["config.toml, line 2"]);
}

#[test]
fn other_data_or_another_model_under_a_checkpoint_is_refused() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &["--max-steps", "2"]).assert().success();
    let mut other = resume(&out);
    other.arg("--model").arg(golden("tiny-qwen2").join("model"));
    says(&failure(other), &["`base_model_sha256` was", "other settings"]);
    let first = fs::read_to_string(place.path("data.jsonl")).unwrap();
    place.write("data.jsonl", first.replacen("20", "22", 1));
    says(&failure(resume(&out)), &["3 samples (SHA-256 ", "same data"]);
    place.write("data.jsonl", first.lines().next().unwrap());
    says(&failure(resume(&out)), &["3 samples", "1 samples", "same data"]);
}

#[test]
fn other_settings_under_a_checkpoint_are_refused_one_by_one() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &["--max-steps", "2"]).assert().success();
    let settings = fs::read(out.join("config.toml")).unwrap();
    for (flag, value, name) in [
        ("--latent-steps", "5", "latent_steps"),
        ("--transmit", "latent", "transmit"),
        ("--feed", "soft", "feed"),
        ("--channel", "vectors", "channel"),
        ("--batch-size", "3", "batch_size"),
        ("--learning-rate", "0.5", "learning_rate"),
        ("--seed", "9", "seed"),
        ("--weight-decay", "0.5", "weight_decay"),
        ("--lora-r", "7", "adapter[default].lora_r"),
        ("--lora-alpha", "64", "adapter[default].lora_alpha"),
        ("--target-modules", "q_proj", "adapter[default].target_modules"),
        ("--adapter-scope", "per_role", "adapter_scope"),
        ("--phase-preset", "individual-then-joint", "phase_preset"),
    ] {
        let mut other = resume(&out);
        other.args([flag, value]);
        let message = failure(other);
        // Phases need data of their own, and say so first.
        let name = if flag == "--phase-preset" { "trajectories".into() } else { format!("`{name}` was ") };
        says(&message, &[&name]);
        assert_eq!(fs::read(out.join("config.toml")).unwrap(), settings, "{flag}");
    }
}

#[test]
fn how_long_a_run_goes_on_may_change_and_is_recorded() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &["--max-steps", "2"]).assert().success();
    let mut longer = resume(&out);
    longer.args(["--max-steps", "3", "--save-steps", "3"]);
    let result = longer.output().unwrap();
    let text = String::from_utf8(result.stderr).unwrap();
    assert!(result.status.success(), "{text}");
    says(
        &text,
        &["`max_steps` was 2 and is now 3", "`save_steps` was 2 and is now 3", "after update 2 of 3"],
    );
    let settings = fs::read_to_string(out.join("config.toml")).unwrap();
    says(&settings, &["max_steps = 3", "save_steps = 3"]);
    assert!(out.join("checkpoints/step-3").exists());
}
