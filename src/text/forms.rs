//! The forms of a question in a data line, and the sample that its fields make.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::files::nearest;

/// The fields that make up each form.
pub(super) const FORMS: [&[&str]; 4] =
    [&["question", "answer"], &["messages"], &["prompt", "completion"], &["prompt_ids", "target_ids"]];

/// One question of a data file: a line, or one of those that a line holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// The line in its file, from 1.
    pub line: usize,
    /// The question of its line, from 1; 1 where the line is one.
    pub question: usize,
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
        Self { line: 1, question: 1, fields, ..Self::default() }
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

/// The sample with these fields.
pub(super) fn sample(
    line: usize,
    question: usize,
    mut fields: Map<String, Value>,
    answers: Answers,
) -> std::result::Result<Sample, String> {
    let (asked, answer) = match form(&fields)? {
        0 => (text(&fields, "question")?, answer_text(&fields, "answer", answers)?),
        1 => turns(&fields, answers)?,
        2 => (text(&fields, "prompt")?, answer_text(&fields, "completion", answers)?),
        _ => {
            let ids = Some(sample_ids(&fields, answers)?);
            return Ok(Sample { line, question, fields, ids, ..Sample::default() });
        }
    };
    let trajectories = trajectories(&fields)?;
    fields.insert("question".into(), asked.into());
    if let Some(answer) = &answer {
        fields.insert("answer".into(), answer.clone().into());
    }
    Ok(Sample { line, question, fields, answer, ids: None, trajectories })
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

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
