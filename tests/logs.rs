//! What a training run leaves to look at, through the program, with the smoke recipe of `runs/`.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// The program in the repository's root, where recipes are run from.
fn diffmas<'a>(args: impl IntoIterator<Item = &'a str>) -> String {
    let mut c = Command::cargo_bin("diffmas").unwrap();
    let out = c.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Runs `runs/smoke.toml` into `dir`.
fn smoke(dir: &str, more: &[&str]) -> String {
    diffmas(["train", "--config", "runs/smoke.toml", "--output", dir].iter().chain(more).copied())
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Cells of `metrics.csv` by column, with a number where there is one.
fn table(path: &Path) -> (Vec<String>, Vec<Vec<Option<f64>>>) {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().iter().map(String::from).collect();
    let rows = reader.records().map(|r| r.unwrap().iter().map(|cell| cell.parse().ok()).collect()).collect();
    (header, rows)
}

fn event_files(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with("events.out.tfevents.")).count()
}

#[test]
fn the_smoke_recipe_leaves_metrics_a_table_curves_and_a_command_that_works() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("smoke");
    let said = smoke(dir.to_str().unwrap(), &[]);
    let (header, rows) = table(&dir.join("metrics.csv"));
    let columns = [
        "step",
        "phase",
        "loss",
        "trajectory_loss",
        "distillation_loss",
        "learning_rate",
        "grad_norm",
        "clip_factor",
        "competence",
        "dropped_senders",
        "dropped_positions",
        "trace_grad_norm/planner",
        "trace_grad_norm/critic",
        "trace_grad_norm/refiner",
        "tokens_per_second",
        "step_seconds",
        "peak_memory_bytes",
        "skipped",
    ];
    assert_eq!(header, columns);
    let metrics = lines(&dir.join("metrics.jsonl"));
    assert_eq!((rows.len(), metrics.len()), (2, 2));
    for (row, m) in rows.iter().zip(&metrics) {
        for (column, cell) in columns.iter().zip(row) {
            let mut path = column.split('/');
            let value = path.try_fold(m, |value, key| value.get(key));
            assert_eq!(*cell, value.and_then(Value::as_f64), "{column}");
        }
    }
    assert_eq!(event_files(&dir), 1);

    let scores = lines(&dir.join("eval_metrics.jsonl"));
    let [before, after] = [0, 1].map(|i| scores[i]["eval_loss"].as_f64().unwrap());
    assert!(after < before && scores[0]["step"] == 0 && scores[1]["step"] == 2, "{scores:?}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], format!("held-out loss {before:.4} before, {after:.4} after training"));
    assert!(lines[1].starts_with("2 updates in ") && lines[1].contains(" tokens/s"), "{said}");
    assert_eq!(lines[2], format!("adapter in {}/adapter", dir.display()));
    assert_eq!(lines[3], format!("curves: tensorboard --logdir {}", dir.display()));
    let command = lines[4].strip_prefix("run it: diffmas ").unwrap();
    assert!(command.contains(" --limit 1 "), "{command}");
    assert_eq!(diffmas(command.split(' ')).lines().count(), 1);
}

#[test]
fn a_resumed_run_keeps_one_table_and_the_score_before_training() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("smoke");
    let output = dir.to_str().unwrap();
    smoke(output, &[]);
    let first = (table(&dir.join("metrics.csv")).1, lines(&dir.join("eval_metrics.jsonl")));
    // As if the program had been killed after the checkpoint of update 1, in the middle of a line.
    fs::remove_dir_all(dir.join("checkpoints/step-2")).unwrap();
    let metrics = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    fs::write(dir.join("metrics.jsonl"), &metrics[..metrics.len() - 20]).unwrap();
    let said = diffmas(["train", "--resume", "--output", output]);
    let again = (table(&dir.join("metrics.csv")).1, lines(&dir.join("eval_metrics.jsonl")));
    let losses = |rows: &[Vec<Option<f64>>]| rows.iter().map(|r| (r[0], r[2])).collect::<Vec<_>>();
    assert_eq!(losses(&again.0), losses(&first.0));
    assert_eq!(again.1, first.1);
    assert_eq!(event_files(&dir), 2);
    assert!(said.starts_with("held-out loss") && said.contains("2 updates in"), "{said}");
}

#[test]
fn logs_can_be_switched_off() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("smoke");
    let said = smoke(dir.to_str().unwrap(), &["--tensorboard", "false", "--csv", "false"]);
    assert_eq!(event_files(&dir), 0);
    assert!(!dir.join("metrics.csv").exists() && dir.join("metrics.jsonl").exists());
    assert!(!said.contains("tensorboard"), "{said}");
}
