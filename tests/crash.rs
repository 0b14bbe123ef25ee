//! What is killed (`kill -9`) at random moments and goes on ends with the bits of what never was: a training run, answers to a file of
//! questions, scores. A merged model is the old one or the new one at any moment.

mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use shared::{Place, golden, kills, tree};

/// A checkpoint after every update and only two kept: much of the time goes into writing, renaming and deleting.
const SETTINGS: [&str; 6] = ["--max-steps", "30", "--save-steps", "1", "--save-total-limit", "2"];

fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("diffmas"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts the run, or resumes it once it has settings to resume with.
fn start_or_resume(place: &Place, output: &Path) -> Command {
    let mut command = program();
    if output.join("config.toml").exists() {
        command.args(["train", "--resume", "--output"]).arg(output);
    } else {
        command.arg("train").args(place.training(output)).args(SETTINGS);
    }
    command
}

fn losses(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].clone()).collect()
}

/// Runs to the end again and again, killed at `kills` random moments in all; every run that ends must be the undisturbed one.
fn survives(kills: usize, seed: u64) {
    let place = Place::new();
    let whole = place.path("whole");
    let clock = Instant::now();
    let out = start_or_resume(&place, &whole).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let duration = clock.elapsed();
    let adapter = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut killed, mut ended) = (0, 0);
    while killed < kills || ended == 0 {
        let output = place.path(&format!("run-{ended}"));
        let mut child = start_or_resume(&place, &output).spawn().unwrap();
        if killed < kills {
            std::thread::sleep(rng.random_range(Duration::ZERO..duration / 2));
            child.kill().unwrap();
        }
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        match out.status.code() {
            None => killed += 1,
            Some(0) => {
                assert_eq!(adapter(&output), adapter(&whole), "after {killed} kills: {text}");
                assert_eq!(losses(&output), losses(&whole), "after {killed} kills: {text}");
                ended += 1;
            }
            Some(code) => panic!("exit code {code} after {killed} kills: {text}"),
        }
    }
    let leftovers = tree(&place.path("run-0")).into_iter().filter(|name| name.contains(".tmp-"));
    assert_eq!(leftovers.collect::<Vec<_>>(), Vec::<String>::new());
    eprintln!("{killed} kills in {} runs", ended);
}

/// Starts `command`, kills it after a random part of `longest`, and returns whether that came in time.
fn killed(mut command: Command, rng: &mut ChaCha8Rng, longest: Duration) -> bool {
    let mut child = command.spawn().unwrap();
    std::thread::sleep(rng.random_range(Duration::ZERO..longest));
    child.kill().unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(matches!(out.status.code(), None | Some(0)), "{text}");
    out.status.code().is_none()
}

/// Runs `command` to its end and returns how long that took.
fn whole(mut command: Command) -> Duration {
    let clock = Instant::now();
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    clock.elapsed()
}

/// Questions for the tiny model; every fourth line has three.
fn questions(place: &Place, count: usize) -> PathBuf {
    let line = |i: usize| {
        let mut line = shared::line(&json!([5 + i % 20, 6, 7]), &json!([20, 21]));
        if i % 4 == 3 {
            let fields = line.as_object_mut().unwrap();
            fields.remove("target_ids");
            fields["prompt_ids"].as_object_mut().unwrap().remove("solver");
            let question =
                |j: usize| json!({"prompt_ids": {"solver": [5 + i % 20, j]}, "target_ids": [20, j]});
            fields.insert("questions".into(), (8..11).map(question).collect());
        }
        line.to_string()
    };
    place.write("questions.jsonl", (0..count).map(line).collect::<Vec<_>>().join("\n"))
}

/// Kills `start(output, resumed)` again and again until it ends, twice at least and as often as [`kills`] says, and compares `output` with
/// that of an undisturbed run; what stands in the part is never lost.
fn goes_on(place: &Place, part: &str, file: &str, start: impl Fn(&Path, bool) -> Command) {
    let undisturbed = place.path("whole");
    let duration = whole(start(&undisturbed, false));
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (mut count, mut runs, mut kept) = (0, 0, 0);
    while count < kills(8) {
        let output = place.path(&format!("run-{runs}"));
        let lines = || {
            fs::read(format!("{}{part}", output.display()))
                .map_or(0, |b| b.iter().filter(|&&b| b == b'\n').count())
        };
        let before = lines();
        if killed(start(&output, output.exists() || before > 0), &mut rng, duration * 2 / 3) {
            count += 1;
            assert!(lines() >= before || Path::new(&format!("{}{file}", output.display())).exists());
            kept += usize::from(lines() > 1);
        }
        // A run can end before it is killed, also one that begins and ends between two looks.
        if lines() == 0 && Path::new(&format!("{}{file}", output.display())).exists() {
            runs += 1;
        }
    }
    let output = place.path(&format!("run-{runs}"));
    whole(start(&output, true));
    for run in 0..=runs {
        let read = |run: &str| fs::read(place.path(&format!("{run}{file}"))).unwrap();
        assert_eq!(read(&format!("run-{run}")), read("whole"), "run {run}");
    }
    let left =
        tree(&place.path("")).into_iter().filter(|name| name.contains(".tmp-") || name.ends_with(".part"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
    eprintln!("{count} kills in {} runs, {kept} of them with finished batches", runs + 1);
}

#[test]
fn answers_killed_again_and_again_are_those_of_an_undisturbed_run() {
    let place = Place::new();
    let (questions, model) = (questions(&place, 240), golden("tiny-llama").join("model"));
    goes_on(&place, ".part", "", |output, resumed| {
        let mut command = program();
        command
            .args(["run", "--batch-size", "4", "--max-new-tokens", "12", "--seed", "9", "--model"])
            .arg(&model);
        command.arg("--data").arg(&questions).arg("--output").arg(output);
        command.args(resumed.then_some("--resume"));
        command
    });
}

#[test]
fn scores_killed_again_and_again_are_those_of_an_undisturbed_run() {
    let place = Place::new();
    let (questions, model) = (questions(&place, 160), golden("tiny-llama").join("model"));
    goes_on(&place, "/samples.jsonl.part", "/results.json", |output, resumed| {
        let mut command = program();
        command.args(["eval", "--batch-size", "4", "--control", "shuffled", "--model"]).arg(&model);
        command.arg("--data").arg(&questions).arg("--output").arg(output);
        command.args(resumed.then_some("--resume"));
        command
    });
}

#[test]
fn a_merged_model_is_whole_whenever_its_replacement_is_killed() {
    let place = Place::new();
    let (model, adapter) = (golden("tiny-llama").join("model"), golden("tiny-llama").join("adapter"));
    let output = place.path("merged");
    let merge = || {
        let mut command = program();
        command.args(["merge", "--overwrite", "--model"]).arg(&model).arg("--adapter").arg(&adapter);
        command.arg("--output").arg(&output);
        command
    };
    let duration = whole(merge());
    let content = || {
        let names = tree(&output);
        names.iter().map(|name| (name.clone(), fs::read(output.join(name)).unwrap())).collect::<Vec<_>>()
    };
    let merged = content();
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for kill in 0..kills(8) {
        killed(merge(), &mut rng, duration);
        assert_eq!(content(), merged, "after {kill} kills");
    }
    whole(merge());
    assert_eq!(content(), merged);
    assert!(tree(&place.path("")).iter().all(|name| !name.contains(".tmp-") && !name.contains(".old-")));
}

#[test]
fn a_run_killed_five_times_ends_with_the_same_bits() {
    survives(5, 1);
}

#[test]
#[ignore = "takes minutes; run with --ignored"]
fn a_run_killed_fifty_times_ends_with_the_same_bits() {
    survives(50, 2);
}
