//! Lines of several questions from one end to the other: trained on, scored, answered and reported.

mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use shared::{Place, diffmas, failure, golden, letters, says};

const TEAM: &str = r#"latent_steps = 2
message_tokens = 20
[[agents]]
name = "holder"
user = "{{ facts }}"
[[agents]]
name = "solver"
user = "{{ question }}"
"#;

/// Facts and how many questions stand on them, line by line.
const LINES: [(&str, usize); 5] = [("ab", 3), ("bca", 1), ("c", 2), ("da", 2), ("eb", 1)];

/// Text data: five lines, nine questions.
fn data(place: &Place) -> PathBuf {
    let question =
        |i: usize| json!({"question": format!("{i}?"), "answer": format!("{}", (b'a' + i as u8) as char)});
    let line = |(facts, n): (&str, usize)| {
        json!({"facts": facts, "questions": (0..n).map(question).collect::<Vec<_>>()}).to_string()
    };
    place.write("questions.jsonl", LINES.map(line).join("\n"))
}

/// The line and the question of each sample.
fn places() -> Vec<(usize, usize)> {
    (1..).zip(LINES).flat_map(|(line, (_, n))| (1..=n).map(move |question| (line, question))).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// `train` of the tiny Llama with letters for tokens on `data`.
fn train(place: &Place, model: &Path, output: &Path, more: &[&str]) -> assert_cmd::Command {
    let (team, data) = (place.write("team.toml", TEAM), data(place));
    let mut command = diffmas(&[&"train", &"--model", &model, &"--system", &team, &"--data", &data]);
    command.arg("--eval-data").arg(&data).arg("--output").arg(output);
    command.args("--batch-size 2 --max-steps 4 --save-steps 2 --learning-rate 1e-2".split(' ')).args(more);
    command
}

#[test]
fn lines_of_several_questions_are_trained_on_scored_answered_and_reported() {
    let place = Place::new();
    let model = letters(&place, "tiny-llama");
    let run = place.path("run");
    train(&place, &model, &run, &["--position-dropout", "0.2"]).assert().success();
    // As if the program had been killed between the checkpoint of update 2 and the end.
    let adapter = || fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    let whole = adapter();
    fs::remove_dir_all(run.join("checkpoints/step-4")).unwrap();
    fs::remove_dir_all(run.join("adapter")).unwrap();
    diffmas(&[&"train", &"--resume", &"--output", &run]).assert().success();
    assert_eq!(adapter(), whole, "a resumed run and an uninterrupted one");

    let data = place.path("questions.jsonl");
    let scores = place.path("scores");
    let score = |output: &Path, more: &[&str]| {
        let mut command =
            diffmas(&[&"eval", &run, &"--data", &data, &"--control", &"shuffled", &"--accuracy"]);
        command.args(["--max-new-tokens", "2", "--batch-size", "1", "--output"]).arg(output).args(more);
        command
    };
    let said = score(&scores, &[]).assert().success();
    says(&String::from_utf8_lossy(&said.get_output().stdout), &["(9 samples in 5 lines, "]);
    let results: Value =
        serde_json::from_str(&fs::read_to_string(scores.join("results.json")).unwrap()).unwrap();
    assert_eq!((number(&results["samples"]), number(&results["clusters"])), (9, 5));
    assert_eq!(number(&results["accuracy"]["checked"]), 9);
    let place_of = |line: &Value| (number(&line["line"]), number(&line["question_index"]));
    assert_eq!(lines(&scores.join("samples.jsonl")).iter().map(place_of).collect::<Vec<_>>(), places());

    // Killed after the first lines, it goes on to the same scores.
    let cut = place.path("cut");
    let part = cut.join("samples.jsonl.part");
    let mut child = Command::new(score(&cut, &[]).get_program())
        .args(score(&cut, &[]).get_args())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let finished = || fs::read_to_string(&part).map_or(0, |text| text.lines().count());
    while finished() < 2 && child.try_wait().unwrap().is_none() {}
    let _ = child.kill();
    child.wait().unwrap();
    if part.exists() {
        score(&cut, &["--resume"]).assert().success();
    }
    assert_eq!(lines(&cut.join("samples.jsonl")), lines(&scores.join("samples.jsonl")));

    let answer = |size: &str, more: &[&str]| {
        let mut command =
            diffmas(&[&"run", &run, &"--data", &data, &"--max-new-tokens", &"3", &"--batch-size", &size]);
        command.args(["--temperature", "1", "--seed", "3"]).args(more);
        command
    };
    let answers = place.path("answers.jsonl");
    answer("2", &["--output", answers.to_str().unwrap()]).assert().success();
    let answered = lines(&answers);
    let place_of = |line: &Value| (number(&line["line"]), line.get("question_index").map_or(1, number));
    assert_eq!(answered.iter().map(place_of).collect::<Vec<_>>(), places());
    let single = answered.iter().filter(|line| line.get("question_index").is_none());
    assert_eq!(single.map(|line| number(&line["line"])).collect::<Vec<_>>(), [2, 5], "lines of one question");
    let printed = answer("8", &[]).output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let printed: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(printed, answered, "sampling does not depend on the batch");

    // A trace file holds one message a line.
    let trace = place.path("trace.safetensors");
    let saved = answer("5", &["--save-trace", trace.to_str().unwrap()]).output().unwrap();
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    let loaded = answer("5", &["--load-trace", trace.to_str().unwrap()]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&loaded.stdout), String::from_utf8_lossy(&saved.stdout));
    says(
        &failure(answer("4", &["--load-trace", trace.to_str().unwrap()])),
        &["there are 5 lines; give --batch-size 5"],
    );

    diffmas(&[&"report", &scores]).assert().success();
    says(&fs::read_to_string(scores.join("report.html")).unwrap(), &["9 questions in 5 lines"]);
}

#[test]
fn texts_of_a_line_are_written_once_and_stand_in_every_question() {
    let place = Place::new();
    let model = letters(&place, "tiny-llama");
    train(&place, &model, &place.path("run"), &["--channel", "text"]).assert().success();
    // What a team writes that has learned nothing is longer.
    let (team, data) = (place.path("team.toml"), place.path("questions.jsonl"));
    let answer = |size: &str| {
        let mut command = diffmas(&[
            &"run",
            &"--model",
            &model,
            &"--system",
            &team,
            &"--channel",
            &"text",
            &"--data",
            &data,
        ]);
        command.args(["--max-new-tokens", "3", "--batch-size", size]);
        let out = command.args(["--temperature", "1", "--seed", "3"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let answers = answer("8");
    assert_eq!(answers, answer("1"), "what is drawn for a message does not depend on the batch");
    let written: Vec<&str> = answers.iter().map(|a| a["messages"]["holder"].as_str().unwrap()).collect();
    assert!(written.iter().all(|text| !text.is_empty()), "{written:?}");
    for (pair, places) in written.windows(2).zip(places().windows(2)) {
        assert_eq!(pair[0] == pair[1], places[0].0 == places[1].0, "{written:?}");
    }
}

#[test]
fn a_teacher_answers_questions_that_have_no_answer() {
    let place = Place::new();
    let model = letters(&place, "tiny-llama");
    let unlabelled = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let questions = line["questions"].as_array_mut().unwrap();
        questions.iter_mut().skip(1).for_each(|q| drop(q.as_object_mut().unwrap().remove("answer")));
        line.to_string()
    };
    let labelled = fs::read_to_string(data(&place)).unwrap();
    let open = place.write("open.jsonl", labelled.lines().map(unlabelled).collect::<Vec<_>>().join("\n"));
    let run = place.path("run");
    let mut command = diffmas(&[&"train", &"--model", &model, &"--system", &place.write("team.toml", TEAM)]);
    command.arg("--data").arg(&open).arg("--output").arg(&run);
    command.args("--batch-size 2 --max-steps 4 --teacher all_evidence --teacher-tokens 3".split(' '));
    command.assert().success();
    let steps = lines(&run.join("metrics.jsonl"));
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|step| step["distillation_loss"].as_f64().unwrap() > 0.0));
}

#[test]
fn the_same_questions_in_other_lines_are_other_data_to_a_checkpoint() {
    let place = Place::new();
    let run = place.path("run");
    let model = golden("tiny-llama").join("model");
    let upstream = json!({"planner": [5], "critic": [6], "refiner": [7]});
    let question = |id: usize| json!({"prompt_ids": {"solver": [id]}, "target_ids": [20]});
    let together = json!({"prompt_ids": upstream, "questions": [question(8), question(9)]}).to_string();
    let apart = [8, 9].map(|id| json!({"prompt_ids": upstream, "questions": [question(id)]}).to_string());
    place.write("data.jsonl", together);
    place.train(&run, &["--max-steps", "2"]).assert().success();
    place.write("data.jsonl", apart.join("\n"));
    let mut resumed = diffmas(&[&"train", &"--resume", &"--output", &run, &"--model", &model]);
    resumed.args(["--max-steps", "3"]);
    says(&failure(resumed), &["the checkpoint is of 2 samples", "a resumed run needs the same data"]);
}
