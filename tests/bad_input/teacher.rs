//! Teachers that cannot be had, and data that they cannot teach; a run that is refused leaves no folder behind.

use serde_json::{Value, json};

use crate::shared::{Place, diffmas, failure, line, says};

const TEACHER: [&str; 2] = ["--teacher", "all_evidence"];

/// What `train` says about flags with a teacher; nothing is written.
#[track_caller]
fn train(place: &Place, more: &[&str]) -> String {
    let message = failure(place.train(&place.path("out"), &[&TEACHER, more].concat()));
    assert!(!place.path("out").exists(), "a run that was refused left its folder: {message}");
    message
}

/// A data line without the answer.
fn open(ids: &[u32]) -> Value {
    let mut line = line(&json!(ids), &json!([1]));
    line.as_object_mut().unwrap().remove("target_ids");
    line
}

#[test]
fn a_teacher_does_not_go_with_text() {
    let place = Place::new();
    says(&train(&place, &["--channel", "text"]), &["teacher = \"all_evidence\"", "`text`", "\"none\""]);
}

#[test]
fn its_settings_are_named() {
    let place = Place::new();
    for weight in ["-0.1", "1.5"] {
        says(&train(&place, &["--distill-weight", weight]), &["distill_weight", "from 0 to 1", weight]);
    }
    says(&train(&place, &["--teacher-tokens", "0"]), &["teacher_tokens", "at least 1"]);
    let other = place.train(&place.path("out"), &["--teacher", "all"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2));
}

#[test]
fn lines_without_an_answer_need_a_teacher() {
    let place = Place::new();
    place.write("data.jsonl", open(&[5]).to_string());
    let message = failure(place.train(&place.path("out"), &[]));
    says(&message, &["data.jsonl", "line 1", "`target_ids` is missing"]);
    place.train(&place.path("out"), &[&TEACHER[..], &["--teacher-tokens", "3"]].concat()).assert().success();
    let metrics = std::fs::read_to_string(place.path("out/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert!(first["distillation_loss"].as_f64().unwrap() > 0.0);
    assert_eq!(first["distillation_loss"], first["loss"], "there is no answer beside the teacher's");
}

#[test]
fn what_is_scored_needs_an_answer_all_the_same() {
    let place = Place::new();
    let held_out = place.write("held-out.jsonl", open(&[5]).to_string());
    let message = train(&place, &["--eval-data", held_out.to_str().unwrap()]);
    says(&message, &["held-out.jsonl", "line 1", "`target_ids` is missing"]);
}

#[test]
fn what_the_teacher_reads_and_writes_must_fit_the_model() {
    let place = Place::new();
    // Each agent's prompt fits, with all that it reads; so does the whole evidence, but not the teacher's answer behind it.
    let [short, long] = [vec![5; 10], vec![5; 481]].map(|ids| open(&ids).to_string());
    place.write("data.jsonl", format!("{short}\n{long}\n"));
    let message = train(&place, &["--latent-steps", "0", "--transmit", "prompt", "--channel", "vectors"]);
    says(
        &message,
        &["data.jsonl", "line 2", "the teacher reads 1924", "writes 128", "2048", "teacher_tokens"],
    );
    let most = u64::MAX.to_string();
    says(&train(&place, &["--teacher-tokens", &most]), &["data.jsonl", "line 1", "max_position_embeddings"]);
    let mut long = line(&json!(vec![5; 511]), &json!([6, 7, 8, 9, 10]));
    long["level"] = json!(1);
    place.write("data.jsonl", long.to_string());
    let message = train(&place, &["--channel", "vectors"]);
    says(&message, &["line 1", "the teacher reads 2044", "writes 5", "shorter `teacher_user`"]);
}

#[test]
fn a_curriculum_by_length_needs_answers() {
    let place = Place::new();
    place.write("data.jsonl", open(&[5]).to_string());
    says(&train(&place, &["--curriculum", "length"]), &["data.jsonl", "line 1", "no answer whose length"]);
}

#[test]
fn its_template_is_checked_with_the_team_and_the_data() {
    let place = Place::new();
    let model = place.model_with_tokenizer();
    place.write("data.jsonl", json!({"question": "what"}).to_string());
    let data = place.path("data.jsonl");
    let train = |teacher_user: &str| {
        let agents = "[[agents]]\nname = \"a\"\nuser = \"what\"\n[[agents]]\nname = \"b\"\nuser = \"{{ question }}\"\n";
        let team = place.write("team.toml", format!("teacher_user = \"{teacher_user}\"\n{agents}"));
        let out = place.path("out");
        let mut command = diffmas(&[&"train", &"--model", &model, &"--data", &data, &"--output", &out]);
        command.args(TEACHER).args(["--system", team.to_str().unwrap()]);
        failure(command)
    };
    says(&train("{{ question"), &["`teacher_user` is not a template"]);
    says(&train("{{ qestion }}"), &["data.jsonl, line 1: `teacher_user`", "did you mean `question`?"]);
}

#[test]
fn a_run_does_not_go_on_with_another_teacher() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &[&TEACHER[..], &["--distill-weight", "0.25"]].concat()).assert().success();
    let resume = |more: &[&str]| {
        let mut command = diffmas(&[&"train", &"--resume", &"--output", &out]);
        command.args(more);
        command
    };
    says(&failure(resume(&["--teacher", "none"])), &["`teacher` was \"all_evidence\" and is now \"none\""]);
    says(&failure(resume(&["--distill-weight", "0.5"])), &["`distill_weight` was 0.25 and is now 0.5"]);
    resume(&[]).assert().success();
}
