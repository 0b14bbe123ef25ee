//! Data files that are empty, malformed, or do not fit model and team.

use serde_json::{Value, json};

use crate::shared::{Place, failure, line, says};

/// What the program says about a good line followed by `second`; it names file and line.
#[track_caller]
fn second_line(second: &str) -> String {
    let place = Place::new();
    let good = line(&json!([1, 2]), &json!([3])).to_string();
    let path = place.write("d.jsonl", format!("{good}\n{second}\n"));
    let message = failure(place.eval(&[&"--data", &path]));
    says(&message, &["d.jsonl", "line 2"]);
    message
}

fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut line = line(&json!([1, 2]), &json!([3]));
    change(&mut line);
    line.to_string()
}

#[test]
fn malformed_json_names_line_and_column() {
    says(&second_line("{\"prompt_ids\": "), &["malformed JSON", "column"]);
    says(&second_line("[1, 2]"), &["JSON object", "list"]);
    says(&second_line("{\"text\": \"x\"}"), &["no known form", "`question`"]);
    says(&second_line(&"[".repeat(100_000)), &["malformed JSON", "recursion"]);
}

#[test]
fn a_field_that_is_there_twice_is_not_dropped_silently() {
    let twice = changed(|_| ()).replacen('{', "{\"target_ids\": [9], ", 1);
    says(&second_line(&twice), &["`target_ids` is there twice"]);
    let twice = changed(|_| ()).replacen("\"critic\"", "\"planner\"", 1);
    says(&second_line(&twice), &["`planner` is there twice"]);
}

#[test]
fn files_without_a_sample_and_no_file_at_all_name_the_file() {
    let place = Place::new();
    for content in ["", "\n \n", "\u{feff}"] {
        let path = place.write("d.jsonl", content);
        says(&failure(place.eval(&[&"--data", &path])), &["d.jsonl", "no samples"]);
    }
    says(&failure(place.eval(&[&"--data", &place.path("none.jsonl")])), &["none.jsonl", "cannot be read"]);
    says(&failure(place.eval(&[&"--data", &place.path(".")])), &["cannot be read", "directory"]);
    let path = place.write("d.jsonl", b"{\"question\": \"\xe9\", \"answer\": \"a\"}");
    says(&failure(place.eval(&[&"--data", &path])), &["d.jsonl, line 1", "malformed JSON"]);
}

#[test]
fn token_ids_outside_the_vocabulary_name_field_and_id() {
    let outside = changed(|line| line["prompt_ids"]["critic"] = json!([1, 512]));
    says(&second_line(&outside), &["prompt_ids.critic", "512"]);
    let outside = changed(|line| line["target_ids"] = json!([99_999]));
    says(&second_line(&outside), &["target_ids", "99999", "512"]);
    for bad in [json!(-1), json!(1.5), json!("x"), json!(1_u64 << 32), json!(null)] {
        let line = changed(|line| line["prompt_ids"]["planner"] = json!([1, bad]));
        says(&second_line(&line), &["`prompt_ids.planner[1]`", "must be a token id"]);
    }
}

#[test]
fn empty_targets_and_prompts_name_the_field() {
    says(&second_line(&changed(|line| line["target_ids"] = json!([]))), &["`target_ids` is empty"]);
    says(&second_line(&changed(|line| line["target_ids"] = json!(null))), &["`target_ids`"]);
    let empty = changed(|line| line["prompt_ids"]["solver"] = json!([]));
    says(&second_line(&empty), &["`prompt_ids.solver` is empty"]);
}

#[test]
fn roles_missing_in_the_data_or_unknown_to_the_team_are_named() {
    let missing = changed(|line| drop(line["prompt_ids"].as_object_mut().unwrap().remove("refiner")));
    says(&second_line(&missing), &["`prompt_ids.refiner` is missing"]);
    let unknown = changed(|line| line["prompt_ids"]["clown"] = json!([1]));
    says(&second_line(&unknown), &["prompt_ids.clown", "no such agent", "planner"]);
}

#[test]
fn wrong_questions_of_a_line_name_the_question() {
    let question = |solver: u32| json!({"prompt_ids": {"solver": [solver]}, "target_ids": [3]});
    let upstream = json!({"planner": [1], "critic": [1], "refiner": [1]});
    let of = |questions: Value| json!({"prompt_ids": upstream, "questions": questions}).to_string();
    says(&second_line(&of(json!([]))), &["field `questions` is empty"]);
    says(
        &second_line(&of(json!({"a": 1}))),
        &["field `questions` must be a list of objects, found an object"],
    );
    says(&second_line(&of(json!([question(1), 2]))), &["`questions[1]`: expected an object, found a number"]);
    says(&second_line(&of(json!(vec![question(1); 1025]))), &["holds 1025 questions; a line may have 1024"]);
    let open = json!({"prompt_ids": {"solver": [1]}});
    says(&second_line(&of(json!([question(1), open]))), &["`questions[1]`: field `target_ids` is missing"]);
    let beside = changed(|line| line["questions"] = json!([question(1)]));
    says(&second_line(&beside), &["fields `questions` and `target_ids` exclude each other"]);
    let both = json!({"question": "q", "answer": "a", "questions": [{"question": "q", "answer": "a"}]});
    says(&second_line(&both.to_string()), &["fields `questions` and `question` exclude each other"]);
    says(&second_line(&of(json!([question(1), question(512)]))), &["`prompt_ids.solver`", "512"]);
    let alone = |planner: u32| {
        let prompts = json!({"planner": [planner], "critic": [1], "refiner": [1], "solver": [2]});
        json!({"prompt_ids": prompts, "target_ids": [3]})
    };
    let differ = json!({"questions": [alone(1), alone(1), alone(9)]}).to_string();
    says(
        &second_line(&differ),
        &["the prompt of agent `planner` for `questions[2]` is not that for `questions[0]`", "once a line"],
    );
}

#[test]
fn text_without_a_tokenizer_says_what_to_add() {
    says(&second_line(r#"{"question": "q", "answer": "a"}"#), &["no tokenizer", "tokenizer.json"]);
}

#[test]
fn what_does_not_fit_the_context_is_counted() {
    // Three upstream agents of ten latent steps, four prompts, and the answer.
    let long: Vec<u32> = vec![1; 1000];
    let line = changed(|line| line["target_ids"] = json!(vec![1; 2048]));
    says(
        &second_line(&line),
        &["`solver` reads 36 positions", "2 prompt tokens", "writes 2048", "2086", "2048"],
    );
    let line = changed(|line| {
        line["prompt_ids"]["planner"] = json!(long);
        line["prompt_ids"]["solver"] = json!(long);
        line["target_ids"] = json!(vec![1; 15]);
    });
    says(&second_line(&line), &["2049", "max_position_embeddings", "shorten prompts"]);
}
