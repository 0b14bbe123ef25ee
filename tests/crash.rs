//! A training run that is killed (`kill -9`) at random moments and resumed ends with the bits of one that never was.

#[path = "shared/mod.rs"]
mod shared;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use shared::{Place, tree};

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

#[test]
fn a_run_killed_five_times_ends_with_the_same_bits() {
    survives(5, 1);
}

#[test]
#[ignore = "takes minutes; run with --ignored"]
fn a_run_killed_fifty_times_ends_with_the_same_bits() {
    survives(50, 2);
}
