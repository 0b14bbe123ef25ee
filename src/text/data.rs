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
//! Turns of `messages` before the last user turn, whoever speaks in them, are what the agents see as the conversation so far. After it
//! stands the answer alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::{UniqueJson, nearest, read_line};

/// Most samples of a file: all of them are in memory, and a pipe could bring more and more.
const MOST_SAMPLES: usize = 10_000_000;

/// The fields that make up each form.
const FORMS: [&[&str]; 4] =
    [&["question", "answer"], &["messages"], &["prompt", "completion"], &["prompt_ids", "target_ids"]];

/// One line of a data file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// The line in its file, from 1.
    pub line: usize,
    /// All fields of the line, and `question` and `answer` where they are derived from another form.
    pub fields: Map<String, Value>,
    /// The text that the final agent should give.
    pub answer: Option<String>,
    /// Token ids, when the line is pre-tokenised.
    pub ids: Option<SampleIds>,
    /// What upstream agents should write, by role: the field `trajectories`.
    pub trajectories: BTreeMap<String, String>,
}

impl Sample {
    /// A line that holds nothing but a question.
    pub fn question(text: impl Into<String>) -> Self {
        let fields = Map::from_iter([("question".to_string(), Value::String(text.into()))]);
        Self { line: 1, fields, ..Self::default() }
    }

    /// Whether the line says what the final agent should give.
    pub fn has_answer(&self) -> bool {
        self.answer.is_some() || self.ids.as_ref().is_some_and(|ids| !ids.target_ids.is_empty())
    }
}

/// The token ids of a pre-tokenised line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampleIds {
    /// The prompt of each role.
    pub prompt_ids: BTreeMap<String, Vec<u32>>,
    /// What the final agent should give, end of turn included; empty if the line has none.
    pub target_ids: Vec<u32>,
    /// What upstream agents should write, end of turn included: the field `trajectory_ids`.
    pub trajectory_ids: BTreeMap<String, Vec<u32>>,
}

/// Whether a line must say what the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// For training and evaluation.
    Required,
    /// For inference: a line may lack the answer; `null` or an empty one counts as lacking.
    Optional,
}

/// Reads the samples of a JSONL file; blank lines are skipped.
///
/// # Errors
/// Names file, line and field: malformed JSON, a line that has none of the four forms or fields of several, a
/// field of the wrong type, an empty question, answer, prompt or target, a token id that is no unsigned
/// 32-bit integer; and a file without samples.
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
        samples.push(parse_line(index, raw, answers).map_err(|m| Error::line(path, index, m))?);
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

/// The sample on one line; the error is a message without the place.
fn parse_line(line: usize, raw: &[u8], answers: Answers) -> std::result::Result<Sample, String> {
    let UniqueJson(value) = serde_json::from_slice(raw).map_err(|e| {
        let text = e.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("malformed JSON at column {}: {what}", e.column())
    })?;
    let Value::Object(mut fields) = value else {
        return Err(format!("expected a JSON object, found {}", kind(&value)));
    };
    let (question, answer) = match form(&fields)? {
        0 => (text(&fields, "question")?, answer_text(&fields, "answer", answers)?),
        1 => turns(&fields, answers)?,
        2 => (text(&fields, "prompt")?, answer_text(&fields, "completion", answers)?),
        _ => {
            let ids = Some(sample_ids(&fields, answers)?);
            return Ok(Sample { line, fields, ids, ..Sample::default() });
        }
    };
    let trajectories = trajectories(&fields)?;
    fields.insert("question".into(), question.into());
    if let Some(answer) = &answer {
        fields.insert("answer".into(), answer.clone().into());
    }
    Ok(Sample { line, fields, answer, ids: None, trajectories })
}

/// Index in [`FORMS`] of the one form that the line has fields of.
fn form(fields: &Map<String, Value>) -> std::result::Result<usize, String> {
    let mut found = None;
    for (index, names) in FORMS.iter().enumerate() {
        let Some(&name) = names.iter().find(|&&name| fields.contains_key(name)) else { continue };
        if let Some((_, other)) = found {
            return Err(format!("fields `{other}` and `{name}` belong to different forms; keep one of them"));
        }
        found = Some((index, name));
    }
    found.map(|(index, _)| index).ok_or_else(|| {
        "no known form; expected `question` and `answer`, `messages`, `prompt` and `completion`, or \
         `prompt_ids` and `target_ids`"
            .to_string()
    })
}

/// A string field that must be there and not be blank.
fn text(fields: &Map<String, Value>, name: &str) -> std::result::Result<String, String> {
    match fields.get(name) {
        None => Err(format!("field `{name}` is missing")),
        Some(Value::String(s)) if s.trim().is_empty() => Err(format!("field `{name}` is empty")),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(other) => Err(format!("field `{name}` must be a string, found {}", kind(other))),
    }
}

/// Like [`text`]; missing, null or blank is `None` where answers are optional.
fn answer_text(
    fields: &Map<String, Value>,
    name: &str,
    answers: Answers,
) -> std::result::Result<Option<String>, String> {
    let lacking = match fields.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.trim().is_empty(),
        Some(_) => false,
    };
    if lacking && answers == Answers::Optional { Ok(None) } else { text(fields, name).map(Some) }
}

/// Who may speak in `messages`; a chat template decides whom of them it knows.
const ROLES: [&str; 7] = ["system", "developer", "user", "assistant", "tool", "function", "ipython"];

/// Question and answer of a conversation: the last user turn, and the last assistant turn if it comes after
/// that.
fn turns(
    fields: &Map<String, Value>,
    answers: Answers,
) -> std::result::Result<(String, Option<String>), String> {
    let messages = match fields.get("messages") {
        Some(Value::Array(messages)) => messages,
        other => return Err(format!("field `messages` must be a list, found {}", kind_of(other))),
    };
    let mut turns = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let Value::Object(message) = message else {
            return Err(format!("field `messages[{index}]` must be an object, found {}", kind(message)));
        };
        let part = |name: &str| match message.get(name) {
            Some(Value::String(s)) => Ok(s.as_str()),
            other => {
                Err(format!("field `messages[{index}].{name}` must be a string, found {}", kind_of(other)))
            }
        };
        let role = part("role")?;
        if !ROLES.contains(&role) {
            let hint =
                nearest(role, &ROLES).map_or(String::new(), |right| format!("; did you mean `{right}`?"));
            let known = ROLES.join(", ");
            return Err(format!("field `messages[{index}].role` is `{role}`{hint} (known: {known})"));
        }
        turns.push((role, part("content")?));
    }
    let last = |role: &str| turns.iter().rposition(|&(r, content)| r == role && !content.trim().is_empty());
    let user = last("user").ok_or("field `messages` has no user turn with content")?;
    let answer = last("assistant").filter(|&index| index > user);
    // What else stands after the question would be read by nobody.
    let unread = (user + 1..turns.len()).find(|&i| Some(i) != answer && !turns[i].1.trim().is_empty());
    if let Some(index) = unread {
        return Err(format!(
            "field `messages[{index}]`: a turn of `{}` after the last user turn is neither question nor answer; end the line with one \
             assistant turn, or make a line of each question",
            turns[index].0
        ));
    }
    let answer = answer.map(|index| turns[index].1.to_string());
    if answer.is_none() && answers == Answers::Required {
        return Err("field `messages` has no assistant turn with content after the last user turn".into());
    }
    Ok((turns[user].1.to_string(), answer))
}

/// The field `trajectories`: a text for each role that has one.
fn trajectories(fields: &Map<String, Value>) -> std::result::Result<BTreeMap<String, String>, String> {
    let roles = match fields.get("trajectories") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(roles)) => roles,
        Some(other) => {
            return Err(format!("field `trajectories` must be an object of strings, found {}", kind(other)));
        }
    };
    let one = |(role, value): (&String, &Value)| match value {
        Value::String(text) if !text.trim().is_empty() => Ok((role.clone(), text.clone())),
        Value::String(_) => Err(format!("field `trajectories.{role}` is empty")),
        other => Err(format!("field `trajectories.{role}` must be a string, found {}", kind(other))),
    };
    roles.iter().map(one).collect()
}

fn sample_ids(fields: &Map<String, Value>, answers: Answers) -> std::result::Result<SampleIds, String> {
    let roles = match fields.get("prompt_ids") {
        Some(Value::Object(roles)) => roles,
        None => return Err("field `prompt_ids` is missing".into()),
        Some(other) => {
            return Err(format!("field `prompt_ids` must be an object of lists, found {}", kind(other)));
        }
    };
    let by_role = |field: &str, roles: &Map<String, Value>| {
        let mut all = BTreeMap::new();
        for (role, value) in roles {
            let name = format!("{field}.{role}");
            let ids = token_ids(&name, value)?;
            if ids.is_empty() {
                return Err(format!("field `{name}` is empty"));
            }
            all.insert(role.clone(), ids);
        }
        Ok(all)
    };
    let prompt_ids = by_role("prompt_ids", roles)?;
    let trajectory_ids = match fields.get("trajectory_ids") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(roles)) => by_role("trajectory_ids", roles)?,
        Some(other) => {
            return Err(format!("field `trajectory_ids` must be an object of lists, found {}", kind(other)));
        }
    };
    let target_ids = match fields.get("target_ids") {
        None | Some(Value::Null) if answers == Answers::Optional => Vec::new(),
        None => return Err("field `target_ids` is missing".into()),
        Some(value) => token_ids("target_ids", value)?,
    };
    if target_ids.is_empty() && answers == Answers::Required {
        return Err("field `target_ids` is empty".into());
    }
    Ok(SampleIds { prompt_ids, target_ids, trajectory_ids })
}

fn token_ids(name: &str, value: &Value) -> std::result::Result<Vec<u32>, String> {
    let Value::Array(ids) = value else {
        return Err(format!("field `{name}` must be a list of token ids, found {}", kind(value)));
    };
    let parse = |(index, id): (usize, &Value)| {
        id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let found = if id.is_number() { id.to_string() } else { kind(id).to_string() };
            format!("field `{name}[{index}]` must be a token id (an integer from 0), found {found}")
        })
    };
    ids.iter().enumerate().map(parse).collect()
}

fn kind_of(value: Option<&Value>) -> &'static str {
    value.map_or("nothing", kind)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
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
