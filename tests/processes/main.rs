//! Several processes under `mpirun` come to what one process comes to, byte for byte but for times; one that fails ends all.

#[path = "../shared/mod.rs"]
mod shared;

mod faults;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use shared::{Place, golden, line, tree};

/// What a run is measured with: other numbers of a run are the same whenever it is done.
const TIMES: [&str; 5] =
    ["step_seconds", "tokens_per_second", "peak_memory_bytes", "peak_device_memory_bytes", "seconds"];

/// Updates of four micro-batches each.
const UPDATES: &str = "--batch-size 1 --gradient-accumulation-steps 4 --save-steps 5";

/// Twelve updates in two phases.
const PHASES: &str = "[[phases]]\nname = \"first\"\nmax_steps = 5\nchannel = false\n[[phases]]\nname = \"second\"\nmax_steps = 7\n";

/// Settings that a run is done with: each channel, phases, everything that draws.
const RUNS: [&str; 8] = [
    "--channel trace --lora-dropout 0.1 --sender-dropout 0.2",
    "--channel vectors --num-vectors 2 --vector-dim 8 --vector-heads 2",
    "--channel hybrid --num-vectors 2 --vector-dim 8 --vector-heads 2 --position-dropout 0.2 --lora-dropout 0.1",
    "--channel text --message-tokens 3",
    "--channel overwrite --num-vectors 2 --vector-dim 8 --vector-heads 2",
    "--channel trace --feed slots",
    "phases",
    "--channel trace --curriculum length --sender-dropout 0.2",
];

/// `program` as `count` processes; as one without a launcher where that is 1.
fn job(count: usize, program: &Path) -> Command {
    let mut command = Command::new(if count == 1 { program } else { Path::new("mpirun") });
    if count > 1 {
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.args(["--oversubscribe", "--bind-to", "none", "-n", &count.to_string()]).arg(program);
    }
    command.env("RAYON_NUM_THREADS", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `diffmas` as `count` processes.
fn diffmas(count: usize) -> Command {
    job(count, &assert_cmd::cargo::cargo_bin("diffmas"))
}

#[track_caller]
fn done(mut command: Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// Lines of different lengths for the tiny models; some have several questions.
fn data(place: &Place, count: usize) -> PathBuf {
    let prompt = |i: usize| json!((0..3 + i % 4).map(|j| 5 + (7 * i + j) % 60).collect::<Vec<_>>());
    let target = |i: usize| json!((0..1 + i % 3).map(|j| 20 + (i + j) % 9).collect::<Vec<_>>());
    let line = |i: usize| {
        let mut line = line(&prompt(i), &target(i));
        if i % 5 == 3 {
            let fields = line.as_object_mut().unwrap();
            fields.remove("target_ids");
            fields["prompt_ids"].as_object_mut().unwrap().remove("solver");
            let question = |j| json!({"prompt_ids": {"solver": prompt(i + j)}, "target_ids": target(j)});
            fields.insert("questions".into(), (0..3).map(question).collect());
        }
        line.to_string()
    };
    place.write("lines.jsonl", (0..count).map(line).collect::<Vec<_>>().join("\n"))
}

/// Training into `output` with `settings`.
fn training(place: &Place, count: usize, output: &Path, settings: &str) -> Command {
    let mut command = diffmas(count);
    command.args(["train", "--model"]).arg(golden("tiny-llama").join("model"));
    command.arg("--data").arg(data(place, 10)).arg("--output").arg(output);
    command.args(UPDATES.split(' '));
    match settings {
        "phases" => command.arg("--config").arg(place.write("phases.toml", PHASES)),
        _ => command.args("--max-steps 12".split(' ').chain(settings.split(' '))),
    };
    command.args("--latent-steps 2 --learning-rate 1e-2 --tensorboard false --recompute never".split(' '));
    command
}

/// A JSON value without times.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !TIMES.contains(&name.as_str()));
            fields.values_mut().for_each(|value| *value = timeless(value.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = timeless(item.take())),
        _ => {}
    }
    value
}

/// What a file holds, without times.
fn content(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let json = |text: &str| timeless(serde_json::from_str(text).unwrap()).to_string();
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => json(std::str::from_utf8(&bytes).unwrap()).into_bytes(),
        Some("jsonl") => {
            std::str::from_utf8(&bytes).unwrap().lines().map(json).collect::<Vec<_>>().join("\n").into()
        }
        _ => bytes,
    }
}

/// Asserts that two folders hold the same, but for times and where they are.
#[track_caller]
fn same(a: &Path, b: &Path, what: &str) {
    assert_eq!(tree(a), tree(b), "{what}");
    let files = tree(a).into_iter().filter(|name| a.join(name).is_file());
    for name in files.filter(|name| !["config.toml", ".diffmas.lock"].contains(&name.as_str())) {
        assert!(content(&a.join(&name)) == content(&b.join(&name)), "{what}: {name} differs");
    }
}

#[test]
fn training_has_the_bits_of_one_process() {
    for settings in RUNS {
        let place = Place::new();
        let runs = [1, 2, 3].map(|count| {
            let output = place.path(&format!("of-{count}"));
            done(training(&place, count, &output, settings));
            output
        });
        for (run, count) in runs[1..].iter().zip(2..) {
            same(&runs[0], run, &format!("{settings}, {count} processes"));
        }
    }
}

#[test]
fn held_out_data_and_threads_change_no_bit() {
    let place = Place::new();
    let lines = data(&place, 10);
    let runs = [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(count, threads)| {
        let output = place.path(&format!("of-{count}-{threads}"));
        let mut command = training(&place, count, &output, "--eval-steps 5 --eval-accuracy");
        command.arg("--eval-data").arg(&lines).env("RAYON_NUM_THREADS", threads.to_string());
        done(command);
        output
    });
    for run in &runs[1..] {
        same(&runs[0], run, "held-out data");
    }
}

/// Scores of all controls in the folder `name`, or answers in that file.
fn asking(place: &Place, count: usize, work: &str, name: &str, more: &[&str]) -> Command {
    let mut command = diffmas(count);
    command
        .args([work, "--model"])
        .arg(golden("tiny-llama").join("model"))
        .arg("--data")
        .arg(data(place, 11));
    command
        .arg("--output")
        .arg(place.path(name))
        .args("--latent-steps 2 --batch-size 2 --max-new-tokens 4".split(' '));
    command.args(if work == "eval" { &["--all-controls"][..] } else { &["--temperature", "1.5"] });
    command.args(more);
    command
}

#[test]
fn scores_and_answers_are_those_of_one_process() {
    let place = Place::new();
    let scores = |count: usize| {
        let name = format!("scores-{count}");
        let out = done(asking(&place, count, "eval", &name, &["--verbose"]));
        let told = String::from_utf8(out.stderr).unwrap();
        assert_eq!(told.contains("[process 1] "), count > 1, "{told}");
        (place.path(&name), out.stdout)
    };
    let answers = |count: usize| {
        [&[][..], &["--control", "shuffled"]].map(|more| {
            let name = format!("answers-{count}-{}.jsonl", more.len());
            done(asking(&place, count, "run", &name, more));
            fs::read(place.path(&name)).unwrap()
        })
    };
    let (one, alone) = (scores(1), answers(1));
    for count in [2, 3] {
        let several = scores(count);
        same(&one.0, &several.0, &format!("{count} processes"));
        assert_eq!(several.1, one.1, "{count} processes print otherwise");
        assert!(answers(count) == alone, "{count} processes answer otherwise");
    }
}
