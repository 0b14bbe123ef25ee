//! Data lines: JSONL with one sample a line, in four forms.
//!
//! | form | question | answer |
//! |---|---|---|
//! | `{"question", "answer", …}` | `question` | `answer` |
//! | `{"messages": [{"role", "content"}, …], …}` | last user turn | last assistant turn |
//! | `{"prompt", "completion", …}` | `prompt` | `completion` |
//! | `{"prompt_ids": {"planner": […], …}, "target_ids": […], …}` | token ids per role | token ids |
//!
//! Beside these, `trajectories` (`trajectory_ids` in the last form) may hold, by role, what upstream agents should write if they wrote
//! text.
//!
//! A line with a list `questions` holds several samples, for which upstream agents compute their messages once. Each is an object with the
//! fields of the first, third or last form and any others; these stand over the line's. `prompt_ids` of upstream agents stay on the line.
//!
//! Turns of `messages` before the last user turn, whoever speaks in them, are what the agents see as the conversation so far. After it
//! stands the answer alone.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde_json::Value;

use super::forms::{Answers, Sample, kind, sample};
use super::questions;
use crate::error::{Error, Result};
use crate::files::{UniqueJson, read_line};

/// Most samples of a file: all of them are in memory, and a pipe could bring more and more.
const MOST_SAMPLES: usize = 10_000_000;

/// Reads the samples of a JSONL file; blank lines are skipped.
///
/// # Errors
/// Names file, line and field: malformed JSON, a line that has none of the four forms or fields of several, a
/// field of the wrong type, an empty question, answer, prompt or target, a token id that is no unsigned
/// 32-bit integer, no or too many `questions`; and a file without samples.
pub fn read_jsonl(path: &Path, answers: Answers) -> Result<Vec<Sample>> {
    let unreadable = |e: std::io::Error| format!("the file cannot be read: {e}");
    let mut file = BufReader::new(File::open(path).map_err(|e| Error::file(path, unreadable(e)))?);
    let (mut samples, mut line) = (Vec::new(), Vec::new());
    for index in 1.. {
        line.clear();
        if !read_line(&mut file, &mut line).map_err(|e| Error::line(path, index, unreadable(e)))? {
            break;
        }
        let mark = if index == 1 { "\u{feff}" } else { "" };
        let raw = line.strip_prefix(mark.as_bytes()).unwrap_or(&line);
        if raw.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        samples.extend(parse_line(index, raw, answers).map_err(|m| Error::line(path, index, m))?);
        if samples.len() > MOST_SAMPLES {
            return Err(Error::line(
                path,
                index,
                format!("the file has more than {MOST_SAMPLES} samples; split it"),
            ));
        }
    }
    if samples.is_empty() {
        return Err(Error::file(path, "the file holds no samples; expected one JSON object a line"));
    }
    Ok(samples)
}

/// The samples on one line; the error is a message without the place.
fn parse_line(line: usize, raw: &[u8], answers: Answers) -> std::result::Result<Vec<Sample>, String> {
    let UniqueJson(value) = serde_json::from_slice(raw).map_err(|e| {
        let text = e.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("malformed JSON at column {}: {what}", e.column())
    })?;
    let Value::Object(mut fields) = value else {
        return Err(format!("expected a JSON object, found {}", kind(&value)));
    };
    match fields.remove("questions") {
        Some(all) => questions::samples(line, &fields, all, raw.len(), answers),
        None => sample(line, 1, fields, answers).map(|sample| vec![sample]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>, answers: Answers) -> std::result::Result<Vec<Sample>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        std::fs::write(&path, text).unwrap();
        read_jsonl(&path, answers).map_err(|e| e.to_string().replace(&path.display().to_string(), "d.jsonl"))
    }

    #[test]
    fn all_four_forms_give_question_and_answer() {
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
            assert!(
                read(line, Answers::Required).unwrap_err().starts_with("d.jsonl, line 1: field `"),
                "{line}"
            );
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
            (r#"[1]"#, "expected a JSON object, found a list"),
            (r#"{"text": "x"}"#, "no known form; expected `question` and `answer`"),
            (
                r#"{"question": "q", "answer": "a", "prompt": "p"}"#,
                "fields `question` and `prompt` belong to",
            ),
            (r#"{"question": "q", "answer": 3}"#, "field `answer` must be a string, found a number"),
            (r#"{"question": "q", "answer": " "}"#, "field `answer` is empty"),
            (r#"{"answer": "a"}"#, "field `question` is missing"),
            (r#"{"messages": {}}"#, "field `messages` must be a list, found an object"),
            (
                r#"{"messages": [{"role": "user"}]}"#,
                "field `messages[0].content` must be a string, found nothing",
            ),
            (r#"{"messages": []}"#, "field `messages` has no user turn"),
            (
                r#"{"messages": [{"role": "usr", "content": "q"}]}"#,
                "field `messages[0].role` is `usr`; did you mean `user`?",
            ),
            (
                concat!(
                    r#"{"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "t"},"#,
                    r#" {"role": "assistant", "content": "a"}]}"#
                ),
                "field `messages[1]`: a turn of `tool` after the last user turn",
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
            (
                r#"{"prompt_ids": {"a": [1]}, "target_ids": [1.5]}"#,
                "field `target_ids[0]` must be a token id",
            ),
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

    #[test]
    fn a_file_without_samples_or_no_file_is_an_error() {
        assert!(
            read(" \n\n", Answers::Optional).unwrap_err().starts_with("d.jsonl: the file holds no samples")
        );
        let error = read_jsonl(Path::new("/no/such.jsonl"), Answers::Required).unwrap_err().to_string();
        assert!(error.starts_with("/no/such.jsonl: the file cannot be read"), "{error}");
    }
}
