//! The demo and the tasks it rests on, small enough for a test.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use shared::{Place, diffmas, failure, says, tree};

/// A demo of two updates on 64 questions.
fn demo(output: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = diffmas(&[&"demo", &"--output", &output, &"--max-steps", &"2", &"--questions", &"64"]);
    command.args(more);
    command
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const WAYS: [&str; 13] = [
    "all evidence in one context",
    "solver alone",
    "true words in one context",
    "text, prompted",
    "text, trained",
    "latent, untrained",
    "untrained",
    "trained",
    "control none",
    "control zero",
    "control shuffled",
    "control random",
    "control self",
];

#[test]
fn a_demo_leaves_a_table_and_a_page_on_every_channel_and_task() {
    let place = Place::new();
    for (channel, task) in [("trace", "relay"), ("vectors", "two-hop"), ("hybrid", "distractor")] {
        let out = place.path(channel);
        let facts = if task == "distractor" { "8" } else { "4" };
        let run = demo(&out, &["--channel", channel, "--task", task, "--facts", facts, "--num-vectors", "8"])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let said = String::from_utf8(run.stdout).unwrap();
        let comparison = json(&out.join("comparison.json"));
        let rows = comparison["rows"].as_array().unwrap();
        assert_eq!(rows.len(), WAYS.len());
        for (row, way) in rows.iter().zip(WAYS) {
            let name = row["name"].as_str().unwrap();
            assert!(name.contains(way) && said.contains(name), "{name}: {said}");
            assert_eq!(row["accuracy"]["checked"], 64);
            let silent = ["all evidence", "solver alone", "true words", "control none"];
            let silent = silent.iter().any(|w| way.starts_with(w));
            assert_eq!(row["message_bytes"].as_f64().unwrap() > 0.0, !silent, "{name}");
            assert_eq!(
                row["message_positions"].as_f64().is_some_and(|n| n > 0.0 && n <= 8.0),
                !silent,
                "{name}"
            );
            assert_eq!(row["channel"] == "text", way.starts_with("text"), "{name}");
            assert!(
                row["seconds"].as_f64().unwrap() > 0.0 && row["forward_positions"].as_f64().unwrap() > 3.0
            );
        }
        // The tiny model knows the language, and nothing of what only the holders know.
        assert!(rows[0]["accuracy"]["accuracy"].as_f64().unwrap() > 0.9, "{task}: {}", rows[0]);
        assert!(rows[1]["accuracy"]["accuracy"].as_f64().unwrap() < 0.2, "{task}: {}", rows[1]);
        // Eight words hold four facts.
        assert!(rows[2]["accuracy"]["accuracy"].as_f64().unwrap() > 0.9, "{task}: {}", rows[2]);
        let scores = lines(&out.join("trained/eval_metrics.jsonl"));
        assert_eq!(scores.iter().map(|s| s["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(scores.iter().all(|s| s["eval_accuracy"].is_f64()), "{scores:?}");
        let inspection = json(&out.join("inspection.json"));
        assert_eq!(inspection["agents"], serde_json::json!(["holder_1", "holder_2", "solver"]));
        assert_eq!(inspection["latents"].as_array().unwrap().len(), 2);
        assert_eq!(inspection["latents"][0]["positions"].as_array().unwrap().len(), 8);
        for reader in inspection["attention"].as_array().unwrap() {
            for layer in reader["weights"].as_array().unwrap() {
                let sum: f64 = layer.as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).sum();
                assert!((0.0..=1.0 + 1e-6).contains(&sum), "{reader}");
            }
        }
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        for section in ["results", "equalities", "training", "attention", "lens", "example", "settings"] {
            assert!(page.contains(&format!("<section class=\"{section}\"")), "{section}");
        }
        assert!(page.contains("Right answers to held-out questions"));
        assert!(
            said.lines()
                .any(|line| page.contains(&line.replace(" %", "\u{a0}%")) && line.contains("message"))
        );
    }
}

#[test]
fn a_demo_runs_on_another_model_and_goes_on_with_it() {
    let place = Place::new();
    let out = place.path("demo");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-facts");
    let model = place.copy(&tiny, "own").to_str().unwrap().to_string();
    let ran = demo(&out, &["--model", &model, "--questions", "8", "--max-steps", "1"]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(!out.join("model").exists());
    let plan = fs::read_to_string(out.join("demo.toml")).unwrap();
    says(&plan, &[&format!("model = \"{model}\"")]);
    fs::remove_file(out.join("report.html")).unwrap();
    fs::remove_dir_all(&model).unwrap();
    let mut again = diffmas(&[&"demo", &"--resume", &"--output", &out]);
    let failed = again.output().unwrap();
    says(&String::from_utf8_lossy(&failed.stderr), &["own"]);
    assert_eq!(failed.status.code(), Some(1), "it is the model that it goes on with");
}

#[test]
fn a_demo_that_is_there_is_kept_without_a_flag_and_text_is_not_a_channel_of_it() {
    let place = Place::new();
    let out = place.path("out");
    demo(&out, &[]).assert().success();
    let before = tree(&out);
    says(&failure(demo(&out, &[])), &["not empty", "--resume", "--overwrite"]);
    assert_eq!(tree(&out), before);
    // What is complete is not trained again.
    let trained = fs::read(out.join("trained/metrics.jsonl")).unwrap();
    diffmas(&[&"demo", &"--resume", &"--output", &out]).assert().success();
    assert_eq!(fs::read(out.join("trained/metrics.jsonl")).unwrap(), trained);
    demo(&out, &["--overwrite", "--task", "two-hop"]).assert().success();
    assert!(json(&out.join("comparison.json"))["title"].as_str().unwrap().starts_with("A: two-hop"));
    let fresh = place.path("fresh");
    says(&failure(demo(&fresh, &["--channel", "text"])), &["trace, vectors and hybrid, not text"]);
    says(&failure(demo(&fresh, &["--questions", "1"])), &["questions must be at least 2"]);
    says(&failure(demo(&fresh, &["--max-steps", "0"])), &["max_steps must be at least 1"]);
    says(&failure(demo(&fresh, &["--latent-steps", "0"])), &["latent_steps = 0"]);
    says(&failure(demo(&fresh, &["--seeds", "0"])), &["seeds must be from 1 to 1000"]);
    says(&failure(demo(&fresh, &["--facts", "17"])), &["17 facts", "34 names"]);
    assert!(!fresh.exists(), "nothing is left of a demo that never began");
    says(&failure(demo(Path::new("/proc/diffmas"), &[])), &["/proc/diffmas", "cannot be made"]);
    let resumed = diffmas(&[&"demo", &"--resume", &"--output", &place.path("nowhere")]);
    says(&failure(resumed), &["nowhere", "no demo to go on with"]);
    place.write("home/thesis.tex", "years of work");
    says(&failure(demo(&place.path("home"), &["--overwrite"])), &["holds no earlier run"]);
    assert_eq!(tree(&place.path("home")), ["thesis.tex"]);
}

#[test]
fn all_parts_on_two_seeds_make_one_table_and_go_on_where_they_stopped() {
    let place = Place::new();
    let out = place.path("out");
    let settings = ["--part", "all", "--seeds", "2", "--questions", "32"];
    let said = demo(&out, &settings).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8(said.stdout).unwrap();
    let table = fs::read_to_string(out.join("demo.md")).unwrap();
    assert!(said.trim_end().ends_with(table.trim_end()), "{said}");
    assert_eq!(table.matches("correct answers, %: seeds 42 / 43 |").count(), 5);
    let all = json(&out.join("demo.json"));
    let all = all.as_array().unwrap();
    let of = |entry: &Value| format!("{}-{}", entry["part"].as_str().unwrap(), entry["seed"]);
    let folders: Vec<String> = all.iter().map(of).collect();
    assert_eq!(folders, ["A-42", "A-43", "B-42", "B-43", "C-42", "C-43", "D-42", "D-43", "E-42", "E-43"]);
    for (entry, folder) in all.iter().zip(&folders) {
        let dir = out.join(folder);
        assert!(dir.join("report.html").exists());
        let rows = entry["comparison"]["rows"].as_array().unwrap();
        assert_eq!(entry["comparison"], json(&dir.join("comparison.json")));
        assert!(rows[0]["accuracy"]["accuracy"].as_f64().unwrap() > 0.8, "{folder}: {}", rows[0]);
        // Nobody learns to write from data without answers.
        let text = rows.iter().filter(|row| row["name"] == "text, trained").count();
        let answers = lines(&dir.join("train.jsonl"))[0].to_string().contains("answer");
        assert_eq!((text, answers), if folder.starts_with('E') { (0, false) } else { (1, true) }, "{folder}");
    }
    // What lacks its page is measured again, with the team that was trained; what has one is not.
    let page = out.join("B-43/report.html");
    let (before, trained) =
        (fs::read(&page).unwrap(), fs::read(out.join("B-43/trained/metrics.jsonl")).unwrap());
    fs::remove_file(&page).unwrap();
    let again = diffmas(&[&"demo", &"--resume", &"--output", &out]).output().unwrap();
    let again = (String::from_utf8(again.stdout).unwrap(), String::from_utf8(again.stderr).unwrap());
    assert!(
        again.0.contains("B-43/report.html") && again.1.matches("going on after").count() == 2,
        "{again:?}"
    );
    assert_eq!(fs::read(out.join("B-43/trained/metrics.jsonl")).unwrap(), trained);
    assert!(fs::read(&page).unwrap().len().abs_diff(before.len()) < 4096);
}

#[test]
fn a_demo_that_is_interrupted_goes_on_and_ends_as_if_it_had_not_been() {
    let place = Place::new();
    let settings = ["--max-steps", "12", "--questions", "64"];
    let (whole, cut) = (place.path("whole"), place.path("cut"));
    let start = |output: &Path| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("diffmas"));
        command.args(["demo", "--output"]).arg(output).args(settings);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    assert!(start(&whole).wait_with_output().unwrap().status.success());
    let child = start(&cut);
    while !fs::read_to_string(cut.join("trained/metrics.jsonl")).is_ok_and(|t| t.lines().count() > 1) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(130), "{text}");
    assert!(text.contains("diffmas demo --resume --output") && !text.contains("train --resume"), "{text}");
    assert!(!tree(&cut.join("trained/checkpoints")).is_empty());
    diffmas(&[&"demo", &"--resume", &"--output", &cut]).assert().success();
    let right = |dir: &Path| -> Vec<f64> {
        let rows = json(&dir.join("comparison.json"))["rows"].clone();
        rows.as_array().unwrap().iter().map(|r| r["accuracy"]["accuracy"].as_f64().unwrap()).collect()
    };
    assert_eq!(right(&cut), right(&whole));
    for file in ["trained/adapter/adapter_model.safetensors", "text/adapter/adapter_model.safetensors"] {
        assert_eq!(fs::read(cut.join(file)).unwrap(), fs::read(whole.join(file)).unwrap(), "{file}");
    }
}

fn generate(output: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = diffmas(&[&"generate-task", &"--output", &output]);
    command.args(more);
    command
}

#[test]
fn a_generated_task_is_ordinary_data_of_disjoint_facts() {
    let place = Place::new();
    let out = place.path("task");
    let settings = ["--family", "distractor", "--facts", "4-8", "--train", "64", "--test", "64"];
    generate(&out, &settings).assert().success();
    assert_eq!(
        tree(&out),
        [".diffmas.lock", "all_evidence.toml", "alone.toml", "team.toml", "test.jsonl", "train.jsonl"]
    );
    let facts = |file: &str| -> BTreeSet<String> {
        let sentences = |line: &Value| -> Vec<String> {
            let roles = line["evidence"].as_object().unwrap().values();
            roles.flat_map(|t| t.as_str().unwrap().split(" .").map(|s| s.trim().to_string())).collect()
        };
        lines(&out.join(file)).iter().flat_map(sentences).filter(|s| !s.is_empty()).collect()
    };
    assert!(facts("train.jsonl").is_disjoint(&facts("test.jsonl")));
    let mut answers = BTreeMap::new();
    for line in lines(&out.join("test.jsonl")) {
        *answers.entry(line["answer"].as_str().unwrap().to_string()).or_insert(0) += 1;
        assert!((0.0..=1.0).contains(&line["difficulty"].as_f64().unwrap()));
        assert!(line.get("trajectories").is_none());
    }
    assert!(answers.len() == 32 && answers.values().all(|&n| n == 2), "{answers:?}");
    assert!(lines(&out.join("train.jsonl")).iter().all(|l| l["trajectories"]["holder_2"].is_string()));
    says(&failure(generate(&out, &settings)), &["not empty", "--overwrite"]);
    generate(&out, &["--overwrite", "--seed", "7", "--train", "8", "--test", "8"]).assert().success();
    assert_eq!(lines(&out.join("train.jsonl")).len(), 8);
}

#[test]
fn an_eighth_of_the_pairs_is_held_out_and_lines_hold_several_questions() {
    let place = Place::new();
    let out = place.path("task");
    let settings = ["--split", "eighth", "--facts", "1-8", "--full-size", "--questions-per-line", "4"];
    generate(&out, &[&settings[..], &["--train", "200", "--test", "64"]].concat()).assert().success();
    let has = |line: &Value, question: &str, answer: &str| {
        let name = question.strip_prefix("what has ").unwrap();
        let fact = format!("has {name} {answer} .");
        let roles = line["evidence"].as_object().unwrap().values();
        roles.filter(|text| text.as_str().unwrap().contains(&fact)).count() == 1
    };
    let mut seen = BTreeSet::new();
    for line in lines(&out.join("train.jsonl")) {
        let evidence: Vec<&str> =
            line["evidence"].as_object().unwrap().values().map(|t| t.as_str().unwrap()).collect();
        seen.extend(evidence.iter().flat_map(|t| t.split(" .")).map(|s| s.trim().to_string()));
        let questions = line["questions"].as_array().unwrap();
        let facts = evidence.iter().map(|t| t.matches("has").count()).sum::<usize>();
        assert_eq!(questions.len(), facts.min(4), "{line}");
        for q in questions {
            assert!(has(&line, q["question"].as_str().unwrap(), q["answer"].as_str().unwrap()), "{line}");
        }
    }
    for line in lines(&out.join("test.jsonl")) {
        let (question, answer) = (line["question"].as_str().unwrap(), line["answer"].as_str().unwrap());
        let fact = format!("has {} {answer}", question.strip_prefix("what has ").unwrap());
        assert!(has(&line, question, answer) && !seen.contains(&fact), "{line}");
        assert_eq!(line["difficulty"], 1.0);
    }
    let bare = place.path("bare");
    generate(&bare, &["--no-answers", "--train", "8", "--test", "8"]).assert().success();
    assert!(
        lines(&bare.join("train.jsonl"))
            .iter()
            .all(|l| l.get("answer").is_none() && l["question"].is_string())
    );
    assert!(lines(&bare.join("test.jsonl")).iter().all(|l| l["answer"].is_string()));
    says(&failure(generate(&place.path("none"), &["--questions-per-line", "0"])), &["at least 1 question"]);
}

#[test]
fn more_facts_than_names_are_a_sentence_and_nothing_is_written() {
    let place = Place::new();
    let out = place.path("task");
    says(&failure(generate(&out, &["--facts", "17"])), &["need 34 names", "the language has 32"]);
    says(&failure(generate(&out, &["--family", "two-hop", "--facts", "33"])), &["need 33 names and places"]);
    says(&failure(generate(&out, &["--family", "two-hop", "--holders", "1"])), &["at least 2"]);
    assert!(!out.exists());
    let wrong = generate(&out, &["--facts", "none"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn the_tiny_model_answers_what_it_never_read_with_all_evidence_in_its_context() {
    let place = Place::new();
    let demo = place.path("demo");
    self::demo(&demo, &["--max-steps", "1", "--questions", "2"]).assert().success();
    let out = place.path("task");
    generate(&out, &["--facts", "4", "--train", "1", "--test", "640"]).assert().success();
    let (model, team, data) = (demo.join("model"), out.join("all_evidence.toml"), out.join("test.jsonl"));
    let scores = place.path("scores");
    diffmas(&[&"eval", &"--model", &model, &"--system", &team, &"--data", &data, &"--accuracy"])
        .args(["--batch-size", "64", "--max-new-tokens", "4", "--output"])
        .arg(&scores)
        .assert()
        .success();
    let accuracy = &json(&scores.join("results.json"))["accuracy"];
    assert!(accuracy["accuracy"].as_f64().unwrap() >= 0.97 && accuracy["checked"] == 640, "{accuracy}");
    assert!(scores.join("inspection.json").exists());
}
