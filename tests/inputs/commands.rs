//! Commands that the project tells people to type, and what they find beside them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::shared::{Place, diffmas, failure, letters, says};
use crate::{Letters, TEAM, stdout};

/// The last command that `train` prints, obeyed as it stands.
#[track_caller]
fn obeyed(place: &Place, printed: &str) -> String {
    let command = printed.lines().find_map(|line| line.strip_prefix("run it: diffmas ")).unwrap();
    let words: Vec<&str> = command.split(' ').map(|word| word.trim_matches(['"', '\''])).collect();
    let mut run = diffmas(&[]);
    stdout(&run.current_dir(place.path(".")).args(words).output().unwrap())
}

#[test]
fn the_command_that_train_prints_runs_on_tasks_of_its_own_and_on_questions() {
    let place = Place::new();
    let at = |name: &str| place.path(name).to_str().unwrap().to_string();
    let made = diffmas(&[
        &"generate-task",
        &"--facts",
        &"2",
        &"--train",
        &"8",
        &"--test",
        &"4",
        &"--output",
        &place.path("task"),
    ])
    .output();
    stdout(&made.unwrap());
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-facts");
    let mut train = diffmas(&[&"train", &"--model", &tiny, &"--output", &"a run"]);
    train.current_dir(place.path(".")).args([
        "--system",
        &at("task/team.toml"),
        "--data",
        "task/train.jsonl",
        "--max-steps",
        "1",
    ]);
    let printed = stdout(&train.output().unwrap());
    says(&printed, &["run it: diffmas run 'a run' --data task/train.jsonl --limit 1 --greedy"]);
    fs::rename(place.path("a run"), place.path("run")).unwrap();
    let answer: Value = serde_json::from_str(&obeyed(&place, &printed.replace("'a run'", "run"))).unwrap();
    assert_eq!((&answer["line"], answer["text"].is_string()), (&json!(1), true), "{answer}");

    let at = Letters::new(TEAM);
    let data = at.place.write("d.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n");
    let mut train = at.command("train");
    train.arg("--data").arg(&data).args(["--output", "out", "--max-steps", "1"]);
    let printed = stdout(&train.current_dir(at.place.path(".")).output().unwrap());
    says(&printed, &["run it: diffmas run out --question \"…\" --greedy"]);
    obeyed(&at.place, &printed);
}

#[test]
fn a_report_refreshes_its_own_page_and_no_other_file() {
    let at = Letters::new(TEAM);
    let data = at.place.write("d.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n");
    let scores = at.place.path("scores");
    at.score(&data, &["--output", scores.to_str().unwrap()]);
    let report = || diffmas(&[&"report", &scores]);
    for _ in 0..2 {
        stdout(&report().output().unwrap());
    }
    fs::write(scores.join("report.html"), "<title>my own</title>").unwrap();
    says(&failure(report()), &["report.html", "the file exists"]);
}

#[test]
fn completions_offer_the_values_of_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&diffmas(&[&"completions", &shell]).output().unwrap());
        for values in [
            ["identity", "realign"],
            ["shuffled", "self"],
            ["two-hop", "distractor"],
            ["hierarchical", "sequential"],
            ["int8", "int4"],
        ] {
            says(&script, &values);
        }
    }
}

#[test]
fn a_model_s_name_that_is_nearly_right_is_asked_after() {
    let mut run = diffmas(&[&"run", &"--model", &"qwen3-0.6", &"--question", &"a", &"--offline"]);
    run.env("HF_HOME", "/no/such").env("DIFFMAS_CACHE", "/no/such");
    says(&failure(run), &["the model `qwen3-0.6` is neither", "; did you mean `qwen3-0.6b`?"]);
}

/// Commands of the README that are not run here, by a part of them, and why.
const NOT_RUN: [(&str, &str); 9] = [
    ("cargo ", "it builds"),
    ("mpirun ", "it needs the feature `mpi`; tests/processes runs it"),
    ("diffmas fetch", "it needs a network"),
    ("openai/gsm8k", "it needs a network"),
    ("diffmas demo", "it takes minutes; tests/demo.rs runs it"),
    ("diffmas bench", "it takes minutes; tests/bench.rs runs it"),
    ("--channel text", "it is a part of a command"),
    ("run --verbose", "it is a part of a command"),
    ("diffmas models", "it lists what this machine has"),
];

/// The commands of the README's blocks for a shell, without comments.
fn readme_commands() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let joined = blocks.map(|block| block.replace("\\\n", " "));
    let lines: Vec<String> =
        joined.flat_map(|block| block.lines().map(String::from).collect::<Vec<_>>()).collect();
    let bare = lines.iter().map(|line| line.split(" #").next().unwrap_or_default().trim());
    bare.filter(|line| !line.is_empty() && !line.starts_with('#')).map(String::from).collect()
}

/// The words of a command, without quotes.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('"').enumerate();
    let words = parts.flat_map(|(i, part)| match i % 2 {
        0 => part.split_whitespace().map(String::from).collect::<Vec<_>>(),
        _ => vec![part.to_string()],
    });
    words.collect()
}

#[test]
fn the_commands_of_the_readme_run_one_after_another() {
    let place = Place::new();
    let model = letters(&place, "tiny-llama");
    fs::rename(model, place.path("MODEL")).unwrap();
    place.write("team.toml", TEAM);
    for name in ["train.jsonl", "dev.jsonl", "test.jsonl"] {
        place.write(
            name,
            "{\"question\": \"ab?\", \"answer\": \"a\"}\n{\"question\": \"ba?\", \"answer\": \"b\"}\n",
        );
    }
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let (mut ran, mut left) = (0, Vec::new());
    for command in readme_commands() {
        if NOT_RUN.iter().any(|(part, _)| command.contains(part)) {
            left.push(command);
            continue;
        }
        let words = words(
            &command
                .replace("--adapter DIR", "--adapter runs/first/adapter")
                .replace("--max-steps 100", "--max-steps 1"),
        );
        let words: Vec<String> =
            words.iter().map(|word| word.replace("assets/", &format!("{}/", assets.display()))).collect();
        assert_eq!(words[0], "diffmas", "{command}");
        let mut run = diffmas(&[]);
        let out = run.current_dir(place.path(".")).args(&words[1..]).write_stdin("").output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        ran += 1;
    }
    assert!(ran >= 12, "{ran} ran, {left:?} did not");
}
