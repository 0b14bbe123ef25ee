//! Files of data, whoever wrote them.

use std::fs;

use serde_json::json;

use crate::shared::{failure, says};
use crate::{Letters, TEAM, fixture, lines, stdout};

#[test]
fn every_form_of_the_same_sample_has_the_same_loss() {
    let at = Letters::new(TEAM);
    let score = |line: &str| at.score(&at.place.write("d.jsonl", line), &[]);
    let plain = score(r#"{"question": "ab?", "answer": "42"}"#);
    for line in [
        r#"{"question": "ab?", "answer": 42, "score": NaN, "other": -Infinity}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "ab?"}]}, {"role": "assistant", "content": "42"}]}"#,
        r#"{"prompt": "ab?", "messages": [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "42"}]}"#,
        r#"{"prompt": "ab?", "completion": 42}"#,
        r#"{"prompt": [{"role": "user", "content": "ab?"}], "completion": [{"role": "assistant", "content": "42"}]}"#,
        r#"{"conversations": [{"from": "human", "value": "ab?"}, {"from": "gpt", "value": "42"}]}"#,
        r#"{"instruction": "ab?", "input": "", "output": "42"}"#,
    ] {
        assert_eq!(score(line), plain, "{line}");
    }
    let asked = score(r#"{"question": "ab\ncd", "answer": "42"}"#);
    assert_eq!(score(r#"{"instruction": "ab", "input": "cd", "output": "42"}"#), asked);
    assert_ne!(asked, plain);
    // What a tool returned stands in the prompt.
    let tool = |said: &str| {
        let call = json!([{"function": {"name": "clock", "arguments": "{}"}}]);
        score(
            &json!({"messages": [
                {"role": "user", "content": "ab?"},
                {"role": "assistant", "content": null, "tool_calls": call},
                {"role": "tool", "content": said},
                {"role": "assistant", "content": "42"},
            ]})
            .to_string(),
        )
    };
    assert!(tool("12:45") != plain && tool("12:45") != tool("12:46"));
}

#[test]
fn files_of_other_kinds_are_answered_with_what_to_do() {
    let at = Letters::new(TEAM);
    let refused = |name: &str, bytes: &[u8]| {
        let mut command = at.command("eval");
        command.arg("--data").arg(at.place.write(name, bytes));
        failure(command)
    };
    let utf16: Vec<u8> = "\u{feff}{\"question\": \"q\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    says(&refused("utf16.jsonl", &utf16), &["utf16.jsonl: the file is UTF-16", "must be UTF-8"]);
    says(
        &refused("a.json", b"[\n {\"question\": \"q\"}\n]"),
        &["a.json, line 1", "is a JSON array", "one JSON object a line"],
    );
    let gzip = fs::read(fixture("parquet/question-gzip.parquet")).unwrap();
    says(
        &refused("a.parquet", &gzip),
        &["a.parquet: the Parquet file cannot be read", "compressed with GZIP"],
    );
    let parquet = fs::read(fixture("parquet/question-snappy.parquet")).unwrap();
    says(
        &refused("cut.parquet", &parquet[..parquet.len() - 9]),
        &["cut.parquet: the Parquet file cannot be read", "no end"],
    );
}

#[test]
fn parquet_files_are_read_as_the_lines_that_they_hold() {
    let at = Letters::new(TEAM);
    let text = "{\"question\": \"ab?\", \"answer\": \"a\"}\n{\"question\": \"ba?\", \"answer\": \"b\"}\n{\"question\": \"äb?\", \"answer\": \"c\"}\n";
    let plain = at.place.write("d.jsonl", text);
    for compression in ["none", "snappy", "zstd"] {
        let path = fixture(&format!("parquet/question-{compression}.parquet"));
        assert_eq!(at.score(&path, &[]), at.score(&plain, &[]), "{compression}");
        assert_eq!(at.score(&path, &["--limit", "2"]), at.score(&plain, &["--limit", "2"]), "{compression}");
    }
    let said = at.score(&fixture("parquet/messages.parquet"), &[]);
    says(&said, &["2 samples"]);
    let one = r#"{"messages": [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "a"}]}"#;
    let two = r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "ba?"}, {"role": "assistant", "content": "b"}]}"#;
    assert_eq!(said, at.score(&at.place.write("m.jsonl", format!("{one}\n{two}")), &[]));
}

#[test]
fn the_first_lines_alone_are_scored_answered_and_trained_on() {
    let at = Letters::new(TEAM);
    let data = at.place.write("d.jsonl", "{\"question\": \"a\", \"answer\": \"b\"}\n".repeat(5));
    says(&at.score(&data, &["--limit", "3"]), &["(3 samples"]);
    let mut run = at.command("run");
    run.arg("--data").arg(&data).args(["--limit", "2", "--max-new-tokens", "1"]);
    assert_eq!(stdout(&run.output().unwrap()).lines().count(), 2);
    let mut train = at.command("train");
    train.arg("--data").arg(&data).arg("--output").arg(at.place.path("out"));
    let out = train.args(["--limit", "4", "--max-steps", "1"]).output().unwrap();
    stdout(&out);
    says(&String::from_utf8_lossy(&out.stderr), &[" 4 samples,"]);
    says(&fs::read_to_string(at.place.path("out/config.toml")).unwrap(), &["limit = 4"]);
}

#[test]
fn results_say_what_was_asked_and_what_was_said() {
    let at = Letters::new(TEAM);
    let data = at
        .place
        .write("d.jsonl", "{\"id\": \"x-1\", \"question\": \"a?\", \"answer\": \"b\", \"gold\": 3}\n");
    let scores = at.place.path("scores");
    at.score(&data, &["--accuracy", "--max-new-tokens", "3", "--output", scores.to_str().unwrap()]);
    let scored = &lines(&scores.join("samples.jsonl"))[0];
    let answers = at.place.path("answers.jsonl");
    let mut run = at.command("run");
    run.arg("--data").arg(&data).args(["--greedy", "--max-new-tokens", "3", "--output"]).arg(&answers);
    stdout(&run.output().unwrap());
    let answered = &lines(&answers)[0];
    for line in [scored, answered] {
        assert_eq!(
            (&line["id"], &line["question"], &line["gold"]),
            (&json!("x-1"), &json!("a?"), &json!("3")),
            "{line}"
        );
        assert!(line["text"].is_string(), "{line}");
    }
    assert_eq!(scored["text"], answered["text"]);
    assert_eq!(scored["question_index"], 1);
}
