use std::num::NonZeroUsize;

use super::*;

fn read(text: impl AsRef<[u8]>, answers: Answers) -> std::result::Result<Vec<Sample>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.jsonl");
    std::fs::write(&path, text).unwrap();
    read_samples(&path.as_path().into(), answers)
        .map_err(|e| e.to_string().replace(&path.display().to_string(), "d.jsonl"))
}

#[test]
fn lines_of_every_form_give_question_and_answer() {
    let text = concat!(
        "\u{feff}{\"question\": \"q1\", \"answer\": \" a1\", \"level\": 3}\r\n\n  \n",
        r#"{"messages": [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"},"#,
        " {\"role\": \"user\", \"content\": \"q2\"}, {\"role\": \"assistant\", \"content\": \"a2\"}]}\n",
        "{\"prompt\": \"q3\", \"completion\": \"a3\"}\n",
        "{\"prompt_ids\": {\"b\": [3], \"a\": [1, 2]}, \"target_ids\": [4, 0]}",
    );
    let samples = read(text, Answers::Required).unwrap();
    assert_eq!(samples.iter().map(|s| s.line).collect::<Vec<_>>(), [1, 4, 5, 6]);
    for (sample, (q, a)) in samples.iter().zip([("q1", " a1"), ("q2", "a2"), ("q3", "a3")]) {
        assert_eq!((&sample.fields["question"], &sample.fields["answer"]), (&q.into(), &a.into()));
        assert_eq!(sample.answer.as_deref(), Some(a));
    }
    assert_eq!(samples[0].fields["level"], 3);
    let ids = samples[3].ids.as_ref().unwrap();
    assert_eq!((&ids.prompt_ids["a"], &ids.target_ids), (&vec![1, 2], &vec![4, 0]));
}

#[test]
fn answers_may_be_missing_when_they_are_optional() {
    let text = concat!(
        "{\"question\": \"q\"}\n{\"question\": \"q\", \"answer\": null}\n",
        "{\"prompt\": \"q\", \"completion\": \"\"}\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\n{\"prompt_ids\": {\"a\": [1]}}\n",
    );
    let samples = read(text, Answers::Optional).unwrap();
    assert!(samples.len() == 5 && samples.iter().all(|s| s.answer.is_none()));
    assert!(samples[4].ids.as_ref().unwrap().target_ids.is_empty());
    for line in text.lines() {
        assert!(read(line, Answers::Required).unwrap_err().starts_with("d.jsonl, line 1: field `"), "{line}");
    }
}

#[test]
fn mistakes_name_file_line_and_field() {
    for (line, message) in [
        (r#"{"question": "q", "answer": }"#, "malformed JSON at column 29: expected value"),
        (
            r#"{"question": "q", "answer": "a", "question": "p"}"#,
            "malformed JSON at column 43: the field `question` is there twice",
        ),
        (r#"[1]"#, "expected a JSON object, found a list; a data file is no JSON array"),
        (
            r#"{"question": "q","#,
            "malformed JSON at column 17: EOF while parsing a value; a line holds one whole",
        ),
        (
            r#"{"question": "NaN \\", "b": NaN, "c": -Infinity, "d": }"#,
            "malformed JSON at column 53: expected value",
        ),
        (r#"{"text": "x"}"#, "no known form; expected `question` and `answer`"),
        (r#"{"question": "q", "answer": "a", "prompt": "p"}"#, "fields `question` and `prompt` belong to"),
        (r#"{"question": "q", "answer": true}"#, "field `answer` must be a string, found a boolean"),
        (r#"{"question": "q", "answer": " "}"#, "field `answer` is empty"),
        (r#"{"answer": "a"}"#, "field `question` is missing"),
        (r#"{"messages": {}}"#, "field `messages` must be a list, found an object"),
        (
            r#"{"messages": [{"role": "user"}]}"#,
            "field `messages[0].content` must be a string, found nothing",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image"}]}]}"#,
            "field `messages[0].content[1].type` is `image`; only parts of the type `text` are read",
        ),
        (
            r#"{"messages": [{"role": "user", "content": ["q"]}]}"#,
            "field `messages[0].content[0]` must be an object with `type` and `text`, found a string",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": null}]}"#,
            "field `completion[0].content` must be a string, found null",
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "q"}], "completion": []}"#,
            "field `prompt` has no assistant turn with content after the last user turn",
        ),
        (
            r#"{"conversations": [{"from": "humann", "value": "q"}]}"#,
            "field `conversations[0].from` is `humann`; did you mean `human`?",
        ),
        (
            r#"{"conversations": [{"from": "gpt", "value": "a"}]}"#,
            "field `conversations` has no user turn with content",
        ),
        (
            r#"{"instruction": "q", "input": ["x"], "output": "a"}"#,
            "field `input` must be a string, found a list",
        ),
        (r#"{"instruction": "q", "input": ""}"#, "field `output` is missing"),
        (
            r#"{"instruction": "q", "output": "a", "history": [["x"]]}"#,
            "field `history[0]` must be a list of two strings, found a list",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "q"}], "prompt": "q", "completion": "a"}"#,
            "fields `messages` and `prompt` belong to different forms",
        ),
        (r#"{"messages": []}"#, "field `messages` has no user turn"),
        (
            r#"{"messages": [{"role": "usr", "content": "q"}]}"#,
            "field `messages[0].role` is `usr`; did you mean `user`?",
        ),
        (
            concat!(
                r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "t"},"#,
                r#" {"role": "assistant", "content": "a"}]}"#
            ),
            "field `messages[1]`: a turn of `assistant` after the last user turn",
        ),
        (
            concat!(
                r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},"#,
                r#" {"role": "system", "content": "s"}]}"#
            ),
            "field `messages[2]`: a turn of `system` after the last user turn",
        ),
        (
            r#"{"prompt_ids": {"a": [1, -2]}, "target_ids": [1]}"#,
            "field `prompt_ids.a[1]` must be a token id",
        ),
        (r#"{"prompt_ids": {"a": [1]}, "target_ids": [1.5]}"#, "field `target_ids[0]` must be a token id"),
        (r#"{"prompt_ids": {"a": [1]}, "target_ids": [4294967296]}"#, "field `target_ids[0]` must be"),
        (r#"{"prompt_ids": {"a": [1]}, "target_ids": []}"#, "field `target_ids` is empty"),
        (r#"{"prompt_ids": {"a": []}, "target_ids": [1]}"#, "field `prompt_ids.a` is empty"),
        (r#"{"prompt_ids": [1], "target_ids": [1]}"#, "field `prompt_ids` must be an object of lists"),
    ] {
        let error = read(format!("\n{line}\n"), Answers::Required).unwrap_err();
        assert!(error.starts_with(&format!("d.jsonl, line 2: {message}")), "{line}: {error}");
    }
    let latin1 = b"{\"question\": \"\xe9\", \"answer\": \"a\"}";
    assert!(read(latin1, Answers::Required).unwrap_err().starts_with("d.jsonl, line 1: malformed JSON"));
}

/// The question, the answer and what each turn says, of the one line `text`.
fn told(text: &str) -> (String, String, Vec<String>) {
    let sample = read(text, Answers::Required).unwrap().remove(0);
    let turns = sample.fields.get("messages").and_then(Value::as_array).into_iter().flatten();
    let said = |turn: &Value| format!("{}: {}", turn["role"], turn["content"]).replace('"', "");
    let question = sample.fields["question"].as_str().unwrap().to_string();
    (question, sample.answer.unwrap(), turns.map(said).collect())
}

#[test]
fn the_forms_of_the_peers_are_read() {
    let two = ["user: q", "assistant: a"];
    for (line, question, turns) in [
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]}"#,
            "q",
            &two[..],
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]}, {"role": "assistant", "content": "a"}]}"#,
            "q\nr",
            &["user: q\\nr", "assistant: a"],
        ),
        (
            r#"{"prompt": "q", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
            "q",
            &two,
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}"#,
            "q",
            &two,
        ),
        (r#"{"prompt": [{"role": "user", "content": "q"}], "completion": "a"}"#, "q", &two),
        (r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#, "q", &two),
        (
            r#"{"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
            "q",
            &two,
        ),
        (
            r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"}"#,
            "q",
            &["system: s", "user: q", "assistant: a"],
        ),
        (r#"{"instruction": "q", "input": "", "output": "a"}"#, "q", &[]),
        (r#"{"instruction": "q", "input": "x", "output": "a", "system": ""}"#, "q\nx", &[]),
        (
            r#"{"instruction": "q", "input": null, "output": "a", "system": "s", "history": [["p", "o"]]}"#,
            "q",
            &["system: s", "user: p", "assistant: o", "user: q", "assistant: a"],
        ),
        (
            r#"{"question": "q", "answer": "a", "prompt": null, "messages": null, "instruction": "i"}"#,
            "q",
            &[],
        ),
    ] {
        let expected = (question.to_string(), "a".to_string(), turns.iter().map(|t| t.to_string()).collect());
        assert_eq!(told(line), expected, "{line}");
    }
}

#[test]
fn numbers_are_texts_and_numbers_that_are_none_are_null() {
    for (answer, text) in [("42", "42"), ("3.5", "3.5"), ("-1", "-1"), ("2.0", "2.0")] {
        assert_eq!(told(&format!("{{\"question\": 1, \"answer\": {answer}}}")).1, text);
    }
    let line =
        r#"{"question": "NaN", "answer": "\"Infinity", "a": NaN, "b": [-Infinity, Infinity], "c": -1}"#;
    let sample = &read(line, Answers::Required).unwrap()[0];
    assert_eq!(sample.fields["question"], "NaN");
    assert_eq!(sample.answer.as_deref(), Some("\"Infinity"));
    let null = Value::Null;
    assert_eq!(
        (&sample.fields["a"], &sample.fields["b"][1], sample.fields["c"].as_i64()),
        (&null, &null, Some(-1))
    );
    assert!(read("{\"question\": \"q\", \"answer\": NaN}", Answers::Optional).unwrap()[0].answer.is_none());
}

#[test]
fn tools_are_called_between_question_and_answer() {
    let line = concat!(
        r#"{"messages": [{"role": "user", "content": "o"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "q"},"#,
        r#" {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "clock", "arguments": "{}"}}]},"#,
        r#" {"role": "tool", "content": "12:45"}, {"role": "assistant", "content": "a"}]}"#
    );
    let sample = read(line, Answers::Required).unwrap().remove(0);
    assert_eq!((&sample.fields["question"], sample.answer.as_deref()), (&"q".into(), Some("a")));
    let [before, after] = around_question(&sample.fields);
    let said = |turns: &[crate::text::ChatMessage]| -> Vec<String> {
        turns.iter().map(|t| t.content.clone()).collect()
    };
    assert_eq!(
        (said(&before), said(&after)),
        (vec!["o".into(), "x".into()], vec!["".into(), "12:45".into()])
    );
    assert_eq!(after[0].other["tool_calls"][0]["function"]["name"], "clock");
}

#[test]
fn files_of_other_kinds_are_told() {
    let utf16: Vec<u8> =
        [&[0xff, 0xfe][..], &"{}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat();
    for (bytes, sentence) in [
        (&utf16[..], "d.jsonl: the file is UTF-16, but must be UTF-8"),
        (b"\x1f\x8b\x08", "d.jsonl: the file is compressed"),
        (
            b"[\n {\"question\": \"q\"}\n]",
            "d.jsonl, line 1: the file is a JSON array, but must hold one JSON object a line",
        ),
    ] {
        assert!(read(bytes, Answers::Required).unwrap_err().starts_with(sentence));
    }
}

#[test]
fn as_many_lines_are_read_as_the_limit_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.jsonl");
    std::fs::write(
        &path,
        "{\"question\": \"a\"}\n\n{\"questions\": [{\"question\": \"b\"}, {\"question\": \"c\"}]}\nwrong",
    )
    .unwrap();
    let source = DataSource::from(&path);
    let read = |limit| {
        let source = source.clone().limited(NonZeroUsize::new(limit));
        read_samples(&source, Answers::Optional).map(|samples| samples.len())
    };
    assert_eq!((read(1).unwrap(), read(2).unwrap()), (1, 3));
    assert!(read(3).is_err());
}

#[test]
fn a_sample_of_any_form_is_written_as_a_line() {
    for (line, fields) in [
        (r#"{"prompt": "q", "completion": "a", "gold": 1}"#, &["gold", "question", "answer"][..]),
        (r#"{"prompt": [{"role": "user", "content": "q"}], "completion": "a"}"#, &["messages"]),
        (
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
            &["messages"],
        ),
        (r#"{"instruction": "q", "output": "a"}"#, &["instruction", "output", "question", "answer"]),
    ] {
        let sample = read(line, Answers::Required).unwrap().remove(0);
        let written = sample.line_fields();
        assert_eq!(written.keys().collect::<Vec<_>>(), fields);
        let again = read(Value::from(written).to_string(), Answers::Required).unwrap().remove(0);
        assert_eq!((&again.fields["question"], &again.answer), (&sample.fields["question"], &sample.answer));
    }
}

#[test]
fn a_file_without_samples_or_no_file_is_an_error() {
    assert!(read(" \n\n", Answers::Optional).unwrap_err().starts_with("d.jsonl: the file holds no samples"));
    let error = read_samples(&"/no/such.jsonl".into(), Answers::Required).unwrap_err().to_string();
    assert!(error.starts_with("/no/such.jsonl: the file cannot be read"), "{error}");
}
