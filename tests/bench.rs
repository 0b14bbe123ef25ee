//! `diffmas bench`: columns in processes of their own, side by side; files; what is kept of a bench that is stopped.

mod shared;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use diffmas::bench::{BenchRecord, Work};
use serde_json::Value;
use shared::{Place, diffmas, failure, golden, says, tree};

/// Quick works of the tiny Llama.
const QUICK: [&str; 8] =
    ["--works", "prefill,decode", "--decode-batch", "2", "--runs", "2", "--dtype", "f32"];

fn bench(more: &[&str]) -> assert_cmd::Command {
    let mut command = diffmas(&[&"bench", &"--model", &golden("tiny-llama").join("model")]);
    command.args(more);
    command
}

/// What a bench that succeeds prints.
#[track_caller]
fn printed(mut command: assert_cmd::Command) -> (String, String) {
    let out = command.output().unwrap();
    let [stdout, stderr] = [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(out.status.success(), "{stderr}");
    (stdout, stderr)
}

#[test]
fn a_table_progress_and_three_files_tell_the_same() {
    let place = Place::new();
    let dir = place.path("out");
    // Both types that are measured where none is named.
    let mut command = bench(&QUICK[..6]);
    command.args(["--backend", "flex", "--output"]).arg(&dir);
    let (table, progress) = printed(command);
    let record = BenchRecord::read(&dir.join("bench.json")).unwrap();
    let names: Vec<String> = record.columns.iter().map(|column| column.name()).collect();
    assert_eq!(names, ["flex f32", "flex bf16"]);
    let works = [Work::Load, Work::Prefill, Work::Decode { batch: 2 }];
    for column in &record.columns {
        assert_eq!(column.measurements.iter().map(|m| m.work).collect::<Vec<_>>(), works);
        assert!(column.finished && column.measurements.iter().all(|m| m.seconds.len() == 2));
        assert!(!cfg!(target_os = "linux") || column.peak_memory_bytes.is_some());
        for m in &column.measurements {
            assert!(progress.contains(&format!("{}: {}: ", column.name(), m.work.title())), "{progress}");
        }
    }
    assert!(record.machine.cores > 0 && record.model.parameters > 0 && record.model.name == "model");
    for part in ["|  | flex f32 | flex bf16 |", "| prefill of 512 tokens |", "×", "| peak memory |"] {
        assert!(table.contains(part), "{table}");
    }
    assert_eq!(fs::read_to_string(dir.join("bench.md")).unwrap().trim_end(), table.trim_end());
    let svg = fs::read_to_string(dir.join("bench.svg")).unwrap();
    let svg = roxmltree::Document::parse(&svg).unwrap();
    let said = |text: &str| svg.descendants().any(|n| n.text().is_some_and(|t| t.contains(text)));
    assert!(said("prefill of 512 tokens") && said("flex bf16"));
    assert_eq!(tree(&dir), [".diffmas.lock", "bench.json", "bench.md", "bench.svg"]);
}

#[test]
#[cfg(feature = "ndarray")]
fn every_backend_of_the_binary_is_a_column() {
    let (table, _) = printed(bench(&[&QUICK[..], &["--backend", "flex,ndarray,flex"]].concat()));
    assert!(table.contains("|  | flex f32 | ndarray f32 |"), "{table}");
    let row = table.lines().find(|line| line.contains("prefill")).unwrap();
    assert!(row.matches("tok/s").count() == 2 && row.ends_with("× |"), "{row}");
}

#[test]
fn a_later_bench_is_set_against_an_earlier_one() {
    let place = Place::new();
    let (first, second) = (place.path("first"), place.path("second"));
    let mut command = bench(&QUICK);
    command.args(["--backend", "flex", "--output"]).arg(&first);
    printed(command);
    let file = first.join("bench.json");
    let against = |more: &[&str], output: &Path| {
        let mut command = bench(&[&QUICK[..], more, &["--against"]].concat());
        command.arg(&file).arg("--output").arg(output);
        printed(command).0
    };
    let said = against(&["--backend", "flex", "--dtype", "f32,bf16"], &second);
    says(&said, &["Speed as a multiple of that in", "| | flex f32 |\n", "the file has no flex bf16"]);
    assert!(!said.contains("differs:"), "{said}");
    // Equal work of another model has no ratio; another machine is said, and has.
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    record["machine"]["cpu"] = "abacus".into();
    fs::write(&file, record.to_string()).unwrap();
    let said = against(&["--backend", "flex"], &place.path("third"));
    says(&said, &["the machine differs: ", "abacus", "| | flex f32 |\n"]);
    record["model"]["hidden_size"] = 4096.into();
    fs::write(&file, record.to_string()).unwrap();
    let said = against(&["--backend", "flex"], &place.path("fourth"));
    says(&said, &["the model differs: ", "nothing: no work"]);
    assert!(!said.contains("| | flex f32 |\n"), "{said}");
}

#[test]
fn random_weights_need_no_file_and_leave_none() {
    let place = Place::new();
    let mut command = diffmas(&[&"bench", &"--shape", &"135m", &"--backend", &"flex"]);
    command
        .args("--works first-token --runs 1 --warmup 0 --dtype bf16".split(' '))
        .current_dir(place.path(""));
    let before = tree(&place.path(""));
    let (table, _) = printed(command);
    says(
        &table,
        &["| drawing and loading random weights |", "first call", "smollm2-135m (134515008 parameters"],
    );
    assert_eq!(tree(&place.path("")), before);
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let place = Place::new();
    let dir = place.path("out");
    let with = |more: &[&str]| {
        let mut command = bench(&[&QUICK[..], &["--backend", "flex"], more, &["--output"]].concat());
        command.arg(&dir);
        command
    };
    printed(with(&[]));
    says(&failure(with(&[])), &["out: the output folder is not empty", "--overwrite"]);
    printed(with(&["--overwrite"]));
    let file = dir.join("bench.json");
    says(&failure(with(&["--overwrite", "--against", file.to_str().unwrap()])), &["bench.json"]);
    assert!(file.exists());
}

#[test]
#[cfg(unix)]
fn what_was_measured_before_a_signal_is_printed_and_written() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let place = Place::new();
        let dir = place.path("out");
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("diffmas"));
        command.args([
            "bench",
            "--backend",
            "flex",
            "--works",
            "prefill,train",
            "--runs",
            "3",
            "--train-batch",
            "64",
        ]);
        command.args(["--latent-steps", "400", "--model"]).arg(golden("tiny-llama").join("model"));
        command.arg("--output").arg(&dir).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = || lines.next().unwrap().unwrap();
        while !said().contains("prefill") {}
        // SAFETY: the process is our own and not yet waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let out = child.wait_with_output().unwrap();
        let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
        assert_eq!(out.status.code(), Some(130), "{rest:?}");
        assert_eq!(rest, [format!("stopped; what was measured is in {}", dir.display())]);
        let record = BenchRecord::read(&dir.join("bench.json")).unwrap();
        let column = &record.columns[0];
        assert!(!column.finished && column.find(Work::Prefill).is_some() && column.failed.is_none());
        let table = String::from_utf8(out.stdout).unwrap();
        says(&table, &["| prefill of 512 tokens | ", "batch 64 | stopped |"]);
        assert_eq!(tree(&dir), [".diffmas.lock", "bench.json", "bench.md", "bench.svg"]);
        assert_eq!(columns_of(&golden("tiny-llama").join("model")), 0, "its process has ended, too");
    }
}

/// Processes that measure a column of this model with 64 rows.
#[cfg(unix)]
fn columns_of(model: &Path) -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let line = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
    let lines = processes.flatten().filter_map(line).map(|line| String::from_utf8_lossy(&line).into_owned());
    let model = model.display().to_string();
    lines.filter(|line| line.contains("--column") && line.contains(&model) && line.contains("[64]")).count()
}
