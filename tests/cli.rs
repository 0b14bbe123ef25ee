//! The program as a user meets it: train, resume, run, eval, and answers to wrong input.

mod shared;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use diffmas::backends::BackendKind;
use serde_json::{Value, json};
use shared::{golden, golden_json};

/// A folder with pre-tokenised data for the tiny models.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let input = golden_json("tiny-llama", "input.json");
        let roles: Vec<&str> =
            input["agents"].as_array().unwrap().iter().map(|a| a["role"].as_str().unwrap()).collect();
        let line = |prompts: Vec<&Value>, target: &Value| {
            let prompts: serde_json::Map<_, _> =
                roles.iter().map(|r| r.to_string()).zip(prompts.into_iter().cloned()).collect();
            json!({"prompt_ids": prompts, "target_ids": target}).to_string()
        };
        let mut lines = vec![line(
            input["agents"].as_array().unwrap().iter().map(|a| &a["ids"]).collect(),
            &input["target"],
        )];
        for row in input["rows"].as_array().unwrap() {
            lines.push(line(row["agents"].as_array().unwrap().iter().collect(), &row["target"]));
        }
        fs::write(place.path("data.jsonl"), lines.join("\n")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

fn model() -> PathBuf {
    golden("tiny-llama").join("model")
}

fn diffmas(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Command {
    let mut c = Command::cargo_bin("diffmas").unwrap();
    c.args(args.iter().map(|a| a.as_ref()));
    c
}

fn train(place: &Place, output: &str, more: &[&str]) -> Command {
    let mut c = diffmas(&[
        &"train",
        &"--model",
        &model(),
        &"--data",
        &place.path("data.jsonl"),
        &"--output",
        &place.path(output),
    ]);
    c.args([
        "--latent-steps",
        "2",
        "--batch-size",
        "2",
        "--max-steps",
        "4",
        "--save-steps",
        "2",
        "--learning-rate",
        "1e-2",
    ]);
    c.args(more);
    c
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// What a command says when it fails: one sentence, no panic, no backtrace.
#[track_caller]
fn failure(mut c: Command, code: i32) -> String {
    let out = c.output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    text
}

#[test]
fn a_team_is_trained_scored_and_answers() {
    let place = Place::new();
    let data = place.path("data.jsonl");
    train(&place, "out", &["--eval-data", data.to_str().unwrap()]).assert().success();
    let metrics = lines(&place.read("out/metrics.jsonl"));
    assert_eq!(metrics.iter().map(|m| m["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for key in
        ["loss", "learning_rate", "grad_norm", "tokens_per_second", "step_seconds", "peak_memory_bytes"]
    {
        assert!(metrics[0][key].as_f64().unwrap() > 0.0, "{key}");
    }
    for role in ["planner", "critic", "refiner"] {
        assert!(metrics[0]["trace_grad_norm"][role].as_f64().unwrap() > 0.0, "{role}");
    }
    assert!(metrics[3]["loss"].as_f64() < metrics[0]["loss"].as_f64());
    for file in [
        "config.toml",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "checkpoints/step-4/state.json",
    ] {
        assert!(place.path("out").join(file).exists(), "{file}");
    }

    // The run's own config.toml is enough to score and to answer with it.
    let config = place.path("out/config.toml");
    let adapter = place.path("out/adapter");
    let score = |adapted: bool, control: &str, output: &str| -> f64 {
        let mut c = diffmas(&[
            &"eval",
            &"--config",
            &config,
            &"--data",
            &data,
            &"--control",
            &control,
            &"--output",
            &place.path(output),
        ]);
        if adapted {
            c.arg("--adapter").arg(&adapter);
        }
        c.assert().success();
        let results: Value = serde_json::from_str(&place.read(&format!("{output}/results.json"))).unwrap();
        assert_eq!(results["control"], control);
        assert_eq!(results["trace"], control);
        assert_eq!(lines(&place.read(&format!("{output}/samples.jsonl"))).len(), 3);
        results["loss"].as_f64().unwrap()
    };
    let trained = score(true, "real", "e1");
    assert!(trained < score(false, "real", "e2"), "training lowers the loss on its own data");
    for (i, control) in ["none", "zero", "shuffled", "random", "self", "drop:critic"].iter().enumerate() {
        assert_ne!(score(true, control, &format!("c{i}")), trained, "{control}");
    }

    let run = |size: &str, output: &str| {
        diffmas(&[
            &"run",
            &"--config",
            &config,
            &"--adapter",
            &adapter,
            &"--data",
            &data,
            &"--output",
            &place.path(output),
        ])
        .args(["--batch-size", size, "--max-new-tokens", "5", "--temperature", "1", "--seed", "3"])
        .assert()
        .success();
        lines(&place.read(output))
    };
    let answers = run("3", "a.jsonl");
    assert_eq!(answers.iter().map(|a| a["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(answers.iter().all(|a| a["text"].is_null() && !a["token_ids"].as_array().unwrap().is_empty()));
    assert_eq!(answers, run("1", "b.jsonl"), "sampling does not depend on the batch");
}

/// The settings file of the README, whose paths are those of the repository.
fn readme_config() -> String {
    let readme = include_str!("../README.md");
    let mut examples = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    examples.find(|text| text.contains("[run]")).unwrap().to_string()
}

#[test]
fn one_file_of_settings_serves_all_commands_and_flags_win_over_it() {
    let place = Place::new();
    fs::write(place.path("all.toml"), readme_config()).unwrap();
    let run = |args: &[&dyn AsRef<std::ffi::OsStr>]| {
        let mut c = diffmas(args);
        c.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--config").arg(place.path("all.toml"));
        let out = c.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    run(&[&"train", &"--output", &place.path("out")]);
    assert_eq!(lines(&place.read("out/metrics.jsonl")).len(), 2);
    let adapter = place.path("out/adapter");
    let tokens = |more: &[&dyn AsRef<std::ffi::OsStr>]| -> Vec<Value> {
        let args = [&[&"run" as &dyn AsRef<std::ffi::OsStr>, &"--adapter", &adapter], more].concat();
        lines(&run(&args)).iter().map(|answer| answer["token_ids"].clone()).collect()
    };
    let answers = tokens(&[]);
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|ids| ids.as_array().unwrap().len() <= 8));
    assert_eq!(answers, tokens(&[&"--greedy", &"true"]));
    assert!(tokens(&[&"--max-new-tokens", &"2"]).iter().all(|ids| ids.as_array().unwrap().len() <= 2));
    let (hot, off) = (tokens(&[&"--temperature", &"50"]), tokens(&[&"--greedy", &"false"]));
    assert!(hot != answers && hot != off, "a temperature takes the best token no more");
    let table = run(&[&"eval", &"--adapter", &adapter]);
    assert!(table.contains("shuffled") && table.contains("drop:critic"), "{table}");
    let one = run(&[&"eval", &"--adapter", &adapter, &"--control", &"zero"]);
    assert!(one.starts_with("control zero: loss"), "{one}");
}

#[test]
fn settings_that_exclude_each_other_or_lack_another_are_told() {
    let place = Place::new();
    let run = |args: &[&str], file: &str| {
        fs::write(place.path("c.toml"), file).unwrap();
        let mut c = diffmas(&[&"run", &"--model", &model(), &"--config", &place.path("c.toml")]);
        c.args(args);
        c
    };
    let error = failure(run(&["--greedy", "--top-k", "3"], ""), 2);
    assert!(error.contains("'--greedy' cannot be used with '--top-k'"), "{error}");
    let error = failure(run(&["--resume", "--overwrite"], ""), 2);
    assert!(error.contains("'--resume' cannot be used with '--overwrite'"), "{error}");
    let error = failure(run(&[], "greedy = true\n\ntop_k = 3\n"), 1);
    assert!(error.contains("c.toml, line 3: `greedy` and `top_k` exclude each other"), "{error}");
    let error = failure(run(&["--json"], ""), 1);
    assert!(error.contains("--json needs --question or --data (as a flag or in --config)"), "{error}");
    let error = failure(run(&["--question", "a", "--resume"], "[run]\noutput = \"a.jsonl\"\n"), 2);
    assert!(error.contains("'--question' cannot be used with '--resume'"), "{error}");
    let error = failure(run(&[], "[run]\noutput = \"a.jsonl\"\n"), 1);
    assert!(error.contains("--output needs --data"), "{error}");
    let error = failure(diffmas(&[&"run", &"--model", &model(), &"--resume"]), 2);
    assert!(error.contains("--output <FILE.jsonl>|--config <FILE.toml>"), "{error}");
}

#[test]
fn a_run_that_was_cut_short_resumes_to_the_same_adapter() {
    let place = Place::new();
    train(&place, "whole", &[]).assert().success();
    train(&place, "cut", &[]).assert().success();
    // As if the program had been killed between the checkpoint of update 2 and the end.
    fs::remove_dir_all(place.path("cut/checkpoints/step-4")).unwrap();
    fs::remove_dir_all(place.path("cut/adapter")).unwrap();
    diffmas(&[&"train", &"--resume", &"--output", &place.path("cut")]).assert().success();
    let adapter = |run: &str| fs::read(place.path(run).join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter("cut"), adapter("whole"));
    let losses = |run: &str| -> Vec<Value> {
        lines(&place.read(&format!("{run}/metrics.jsonl"))).iter().map(|m| m["loss"].clone()).collect()
    };
    assert_eq!(losses("cut"), losses("whole"));
}

#[test]
fn each_role_s_own_adapter_and_a_learned_feed_are_written_and_read_back() {
    let place = Place::new();
    train(&place, "out", &["--adapter-scope", "per_role", "--feed", "learned"]).assert().success();
    for role in ["planner", "critic", "refiner", "solver"] {
        assert!(place.path("out/adapter").join(role).join("adapter_config.json").exists());
    }
    assert!(place.path("out/adapter/communication.safetensors").exists());
    assert!(place.path("out/adapter/communication_config.json").exists());
    let eval = |adapter: &[&str]| {
        let mut c = diffmas(&[
            &"eval",
            &"--config",
            &place.path("out/config.toml"),
            &"--data",
            &place.path("data.jsonl"),
        ]);
        String::from_utf8(c.args(adapter).output().unwrap().stdout).unwrap()
    };
    let adapter = place.path("out/adapter");
    let (trained, fresh) = (eval(&["--adapter", adapter.to_str().unwrap()]), eval(&[]));
    assert!(
        trained.starts_with("control real: loss") && fresh.starts_with("control real: loss"),
        "{trained}{fresh}"
    );
    assert_ne!(trained, fresh);
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_update_writes_a_checkpoint_and_says_how_to_go_on() {
    let place = Place::new();
    train(&place, "whole", &["--max-steps", "40"]).assert().success();
    let mut c = std::process::Command::new(assert_cmd::cargo::cargo_bin("diffmas"));
    let child = c
        .args([
            "train",
            "--latent-steps",
            "2",
            "--batch-size",
            "2",
            "--max-steps",
            "40",
            "--save-steps",
            "100",
        ])
        .args(["--learning-rate", "1e-2", "--model"])
        .arg(model())
        .arg("--data")
        .arg(place.path("data.jsonl"))
        .arg("--output")
        .arg(place.path("cut"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let started = || fs::read_to_string(place.path("cut/metrics.jsonl")).is_ok_and(|t| t.lines().count() > 1);
    while !started() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume"), "{text}");
    diffmas(&[&"train", &"--resume", &"--output", &place.path("cut")]).assert().success();
    let adapter = |run: &str| fs::read(place.path(run).join("adapter/adapter_model.safetensors")).unwrap();
    // `whole` saved checkpoints on the way and `cut` was stopped: neither changes a bit of the result.
    assert_eq!(adapter("cut"), adapter("whole"));
}

#[test]
fn wrong_input_is_answered_with_a_sentence() {
    let place = Place::new();
    let write = |name: &str, text: &str| {
        fs::write(place.path(name), text).unwrap();
        place.path(name)
    };
    let eval = |data: &Path, more: &[&str]| {
        let mut c = diffmas(&[&"eval", &"--model", &model(), &"--data", &data]);
        c.args(more);
        c
    };
    let data = place.path("data.jsonl");
    assert!(failure(diffmas(&[&"eval", &"--model", &"/no/such", &"--data", &data]), 1).contains("/no/such"));
    assert!(failure(eval(&place.path("none.jsonl"), &[]), 1).contains("none.jsonl"));
    assert!(failure(eval(&write("empty.jsonl", ""), &[]), 1).contains("empty.jsonl"));
    let e = failure(eval(&write("bad.jsonl", "{\"prompt_ids\": {\n"), &[]), 1);
    assert!(e.contains("bad.jsonl, line 1"), "{e}");
    let big = place.read("data.jsonl").replacen("[", "[99999, ", 1);
    let e = failure(eval(&write("big.jsonl", &big), &[]), 1);
    assert!(e.contains("line 1") && e.contains("99999") && e.contains("planner"), "{e}");
    let e = failure(eval(&data, &["--control", "drop:clown"]), 1);
    assert!(e.contains("clown") && e.contains("planner"), "{e}");
    assert!(failure(eval(&data, &["--control", "reel"]), 2).contains("shuffled"));
    assert!(failure(eval(&data, &["--backend", "abacus"]), 1).contains("abacus"));
    assert!(failure(eval(&data, &["--channel", "vector"]), 2).contains("did you mean `vectors`"));
    let e = failure(eval(&data, &["--latent-steps", "5000"]), 1);
    assert!(e.contains("2048") && e.contains("line 1"), "{e}");
    let e = failure(eval(&data, &["--transmit", "latent", "--latent-steps", "0"]), 1);
    assert!(e.contains("transmit"), "{e}");
    let config = write("c.toml", "latent_steps = 2\nlerning_rate = 1.0\n");
    let e = failure(eval(&data, &["--config", config.to_str().unwrap()]), 1);
    assert!(e.contains("c.toml, line 2") && e.contains("learning_rate"), "{e}");
    let other = golden("tiny-qwen2").join("adapter");
    let e = failure(eval(&data, &["--adapter", other.to_str().unwrap()]), 1);
    assert!(e.contains("adapter"), "{e}");
    assert!(
        failure(diffmas(&[&"run", &"--model", &model(), &"--question", &"2 + 2?"]), 1).contains("tokenizer")
    );
    assert!(failure(diffmas(&[&"run", &"--model", &model()]), 1).contains("tokenizer"));
    train(&place, "out", &[]).assert().success();
    let e = failure(train(&place, "out", &[]), 1);
    assert!(e.contains("--resume") && e.contains("--overwrite"), "{e}");
    train(&place, "out", &["--overwrite"]).assert().success();
    assert!(failure(train(&place, "data.jsonl", &[]), 1).contains("folder"));
    assert!(failure(train(&place, "x", &["--learning-rate", "nan"]), 2).contains("learning-rate"));
    assert!(failure(train(&place, "x", &["--learning-rate", "-1"]), 1).contains("learning_rate"));
    assert!(!place.path("x").exists(), "nothing is written before the settings are checked");
    let e = failure(diffmas(&[&"train", &"--resume", &"--output", &place.path("nowhere")]), 1);
    assert!(e.contains("nothing to resume"), "{e}");
}

#[test]
fn devices_lists_every_backend_and_names_those_that_are_not_in_the_binary() {
    let text = String::from_utf8(diffmas(&[&"devices"]).output().unwrap().stdout).unwrap();
    let out = diffmas(&[&"devices", &"--json"]).output().unwrap();
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    let named = |list: &str, name: &str| {
        let all = told[list].as_array().unwrap().iter();
        all.filter(|entry| entry.as_str().or(entry["backend"].as_str()) == Some(name)).count()
    };
    for name in BackendKind::NAMES {
        assert!(text.contains(name), "{text}");
        let compiled = BackendKind::ALL.iter().any(|kind| kind.name() == name);
        let counts = [named("backends", name), named("not_compiled_in", name)];
        assert_eq!(counts, [usize::from(compiled), usize::from(!compiled)], "{name}: {told}");
    }
    for backend in told["backends"].as_array().unwrap() {
        let devices = backend["devices"].as_array().unwrap();
        assert!(devices.is_empty() != backend["error"].is_null(), "{backend}");
        for (i, device) in devices.iter().enumerate() {
            assert_eq!(device["device"], i);
            assert!(!device["name"].as_str().unwrap().is_empty(), "{device}");
            assert_eq!(device["weights"][0].is_string(), device["error"].is_null(), "{device}");
        }
    }
}

#[test]
fn a_device_that_is_not_there_is_a_sentence_with_what_there_is() {
    let place = Place::new();
    let ask = |flags: &[&str]| {
        let mut command = diffmas(&[&"run", &"--model", &model(), &"--data", &place.path("data.jsonl")]);
        command.args(["--backend", "flex", "--greedy", "--max-new-tokens", "1"]).args(flags);
        command
    };
    ask(&["--device", "0"]).assert().success();
    for flag in ["--device", "--device-index"] {
        let e = failure(ask(&[flag, "7"]), 1);
        assert!(e.contains("backend `flex` has no device 7; it has 0 ("), "{e}");
    }
}
