//! What ends a job, and what is left then.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shared::{Place, kills};
use crate::{asking, data, diffmas, done, job, same, training};

/// Longest that a job may take to end once one of its processes fails.
const SOON: Duration = Duration::from_secs(10);

fn signal(pid: u32, signal: i32) {
    // SAFETY: a signal to a process of this test.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// The processes that a launcher has started.
fn processes(launcher: &Child) -> Vec<u32> {
    let children = format!("/proc/{0}/task/{0}/children", launcher.id());
    let children = fs::read_to_string(children).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn updates(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits until `run` has done so many updates.
fn wait_for_update(run: &Path, count: usize) {
    let clock = Instant::now();
    while updates(run) < count {
        assert!(clock.elapsed() < Duration::from_secs(120), "no update {count} in {}", run.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn resumed(count: usize, output: &Path) -> Command {
    let mut command = diffmas(count);
    command.args(["train", "--resume", "--output"]).arg(output);
    command
}

#[test]
fn a_process_that_fails_ends_the_job_with_its_sentence() {
    let place = Place::new();
    let lines = data(&place, 10);
    fs::copy(&lines, place.path("0.jsonl")).unwrap();
    let program = assert_cmd::cargo::cargo_bin("diffmas");
    let model = crate::golden("tiny-llama").join("model");
    let script = format!(
        "exec {} train --model {} --data {}/$OMPI_COMM_WORLD_RANK.jsonl --output {}",
        program.display(),
        model.display(),
        place.path("").display(),
        place.path("run").display()
    );
    let mut command = job(2, Path::new("sh"));
    let clock = Instant::now();
    let out = command.args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && clock.elapsed() < SOON, "{said}");
    assert!(said.contains("1.jsonl") && said.contains("[process 1] error: "), "{said}");
    assert!(!place.path("run").join("adapter").exists());
}

#[test]
fn what_is_wrong_for_all_is_said_once() {
    let place = Place::new();
    let out = training(&place, 3, &place.path("run"), "--gradient-accumulation-steps 0").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.contains("gradient_accumulation_steps"), "{said}");
}

#[test]
fn two_jobs_do_not_share_a_folder() {
    let place = Place::new();
    let output = place.path("run");
    let mut first = training(&place, 2, &output, "--max-steps 400").spawn().unwrap();
    wait_for_update(&output, 1);
    let clock = Instant::now();
    let out = resumed(2, &output).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && clock.elapsed() < SOON, "{said}");
    assert!(said.contains("another diffmas is writing to this folder"), "{said}");
    assert!(first.try_wait().unwrap().is_none(), "the first job goes on");
    signal(first.id(), libc::SIGKILL);
    first.wait().unwrap();
}

/// Ends a job with a signal to its launcher; the next, of another number of processes, goes on after the last whole update.
#[test]
fn a_job_that_is_stopped_goes_on_after_its_last_update() {
    for stop in [libc::SIGINT, libc::SIGTERM] {
        let place = Place::new();
        let (whole, output) = (place.path("whole"), place.path("run"));
        let settings = "--max-steps 60 --save-steps 50 --save-total-limit 1 --lora-dropout 0.1";
        done(training(&place, 1, &whole, settings));
        let job = training(&place, 2, &output, settings).spawn().unwrap();
        wait_for_update(&output, 7);
        let clock = Instant::now();
        signal(job.id(), stop);
        let out = job.wait_with_output().unwrap();
        assert!(!out.status.success() && clock.elapsed() < SOON, "{}", String::from_utf8_lossy(&out.stderr));
        let last = updates(&output);
        assert!(last < 50, "the job was over");
        let said = String::from_utf8(done(resumed(3, &output)).stderr).unwrap();
        let after = |update: &usize| said.contains(&format!("going on after update {update} of 60"));
        // An update may come to its end while the one before it is written, or not be logged any more.
        assert!([last - 1, last, last + 1].iter().any(after), "after update {last}: {said}");
        same(&whole, &output, "stopped");
    }
}

#[test]
fn a_job_of_which_a_process_is_killed_goes_on_with_the_same_bits() {
    let place = Place::new();
    let (whole, output) = (place.path("whole"), place.path("run"));
    let settings = "--max-steps 60 --save-steps 1 --save-total-limit 1";
    done(training(&place, 1, &whole, settings));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..kills(4) {
        let count = rng.random_range(2..4);
        let mut command = match output.join("config.toml").exists() {
            true => resumed(count, &output),
            false => training(&place, count, &output, settings),
        };
        let mut job = command.spawn().unwrap();
        let clock = Instant::now();
        let until = rng.random_range(Duration::ZERO..Duration::from_millis(1500));
        while processes(&job).len() < count || clock.elapsed() < until {
            if job.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(&process) = processes(&job).get(rng.random_range(0..count)) {
            signal(process, libc::SIGKILL);
        }
        let clock = Instant::now();
        let out = job.wait_with_output().unwrap();
        assert!(clock.elapsed() < SOON, "{}", String::from_utf8_lossy(&out.stderr));
    }
    if output.join("config.toml").exists() {
        done(resumed(2, &output));
    } else {
        done(training(&place, 2, &output, settings));
    }
    same(&whole, &output, "killed");
}

/// Scores and answers whose launcher is killed go on with another number of processes.
#[test]
fn what_was_scored_and_answered_before_a_kill_is_kept() {
    for (work, whole, output, part) in [
        ("eval", "whole", "scores", "scores/samples.jsonl.part"),
        ("run", "whole.jsonl", "answers.jsonl", "answers.jsonl.part"),
    ] {
        let place = Place::new();
        done(asking(&place, 1, work, whole, &[]));
        let mut job = asking(&place, 2, work, output, &[]).spawn().unwrap();
        let lines = || fs::read_to_string(place.path(part)).map_or(0, |text| text.lines().count());
        while lines() < 4 && job.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        processes(&job).into_iter().chain([job.id()]).for_each(|process| signal(process, libc::SIGKILL));
        job.wait().unwrap();
        if place.path(part).exists() {
            let said =
                String::from_utf8(done(asking(&place, 3, work, output, &["--resume"])).stderr).unwrap();
            assert!(said.contains("going on after ") && !said.contains("going on after 0 "), "{said}");
        }
        let (whole, output) = (place.path(whole), place.path(output));
        match work {
            "eval" => same(&whole, &output, "scores"),
            _ => assert!(fs::read(whole).unwrap() == fs::read(output).unwrap(), "answers differ"),
        }
    }
}
