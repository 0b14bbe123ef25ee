//! The forms of a question in a data line, and the sample that its fields make.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::ChatMessage;
use super::conversation::Conversation;
use super::ids::{SampleIds, sample_ids};
use super::kind::{Answers, kind};

/// The fields that make up each form of which a line has one alone.
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

    /// The sample as a data line of its own: with `messages`, else with `question` and `answer`, whatever form it had.
    pub fn line_fields(&self) -> Map<String, Value> {
        let other = match self.fields.contains_key("messages") {
            true => FORMS[0],
            false => &[],
        };
        let own = |name: &str| !other.contains(&name) && !FORMS[2].contains(&name);
        let own = self.fields.iter().filter(|(name, _)| own(name));
        own.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Whether the line says what the final agent should give.
    pub fn has_answer(&self) -> bool {
        self.answer.is_some() || self.ids.as_ref().is_some_and(|ids| !ids.target_ids.is_empty())
    }
}

/// The sample with these fields.
pub(super) fn sample(
    line: usize,
    question: usize,
    mut fields: Map<String, Value>,
    answers: Answers,
) -> std::result::Result<Sample, String> {
    let (asked, answer) = match form(&fields)? {
        Form::Question => (text(&fields, "question")?, answer_text(&fields, "answer", answers)?),
        Form::Completion if !fields.get("prompt").is_some_and(Value::is_array) => {
            (text(&fields, "prompt")?, answer_text(&fields, "completion", answers)?)
        }
        Form::Instruction if !speaks_before(&fields) => {
            (instruction(&fields)?, answer_text(&fields, "output", answers)?)
        }
        Form::Ids => {
            let ids = Some(sample_ids(&fields, answers)?);
            return Ok(Sample { line, question, fields, ids, ..Sample::default() });
        }
        conversational => {
            let conversation = match conversational {
                Form::Completion => completed(&fields)?,
                Form::Instruction => instructed(&fields, answers)?,
                Form::ShareGpt => shared(&fields)?,
                _ => {
                    let mut said = Conversation::default();
                    said.add("messages", fields.get("messages"))?;
                    said
                }
            };
            let (asked, answer, messages) = conversation.split(answers)?;
            fields.insert("messages".into(), messages);
            (asked, answer)
        }
    };
    let trajectories = trajectories(&fields)?;
    fields.insert("question".into(), asked.into());
    if let Some(answer) = &answer {
        fields.insert("answer".into(), answer.clone().into());
    }
    Ok(Sample { line, question, fields, answer, ids: None, trajectories })
}

/// How a line says question and answer.
#[derive(Clone, Copy)]
enum Form {
    /// `question` and `answer`.
    Question,
    /// `messages`.
    Messages,
    /// `prompt` and `completion`: texts, or lists of messages.
    Completion,
    /// `prompt_ids` and `target_ids`.
    Ids,
    /// ShareGPT's `conversations`.
    ShareGpt,
    /// Alpaca's `instruction`, `input` and `output`.
    Instruction,
}

/// The forms of [`FORMS`].
const OF_FIELDS: [Form; 4] = [Form::Question, Form::Messages, Form::Completion, Form::Ids];

/// The one form that the line has fields of.
fn form(fields: &Map<String, Value>) -> std::result::Result<Form, String> {
    let has = |name: &str| fields.contains_key(name);
    let says = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    let rivals = [FORMS[0], FORMS[3], &["completion"]];
    if says("messages") && !rivals.concat().iter().any(|&name| says(name)) {
        // What stands in `prompt` beside them is a copy of the first turn.
        return Ok(Form::Messages);
    }
    // A table gives every line all fields; those of other forms are then null.
    let mut found: Option<(Form, &str)> = None;
    for (form, names) in OF_FIELDS.into_iter().zip(FORMS) {
        let Some(name) = names.iter().find(|&&name| says(name)) else { continue };
        if let Some((_, other)) = found {
            return Err(format!("fields `{other}` and `{name}` belong to different forms; keep one of them"));
        }
        found = Some((form, *name));
    }
    let named = |(form, names): (Form, &[&str])| names.iter().any(|&name| has(name)).then_some(form);
    let shared = [(Form::ShareGpt, "conversations"), (Form::Instruction, "instruction")];
    let shared = shared.into_iter().find_map(|(form, name)| says(name).then_some(form));
    let known = found.map(|(form, _)| form).or(shared);
    known.or_else(|| OF_FIELDS.into_iter().zip(FORMS).find_map(named)).ok_or_else(|| {
        "no known form; expected `question` and `answer`, `messages`, `prompt` and `completion`, `conversations`, `instruction` \
         and `output`, or `prompt_ids` and `target_ids`"
            .to_string()
    })
}

/// TRL's conversational prompt and completion, as one conversation.
fn completed(fields: &Map<String, Value>) -> std::result::Result<Conversation, String> {
    let mut said = Conversation::default();
    said.add("prompt", fields.get("prompt"))?;
    match fields.get("completion") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => said.push("completion", 0, ChatMessage::new("assistant", text)),
        completion => said.add("completion", completion)?,
    }
    Ok(said)
}

/// ShareGPT's conversation; its `system` may stand beside it.
fn shared(fields: &Map<String, Value>) -> std::result::Result<Conversation, String> {
    let mut said = Conversation::default();
    add_system(&mut said, fields)?;
    said.add("conversations", fields.get("conversations"))?;
    Ok(said)
}

/// Alpaca's instruction after its `system` and `history`.
fn instructed(fields: &Map<String, Value>, answers: Answers) -> std::result::Result<Conversation, String> {
    let mut said = Conversation::default();
    add_system(&mut said, fields)?;
    let history = fields.get("history").and_then(Value::as_array).into_iter().flatten();
    for (index, pair) in history.enumerate() {
        let [Some(asked), Some(answer)] = [0, 1].map(|i| pair.get(i).and_then(Value::as_str)) else {
            return Err(format!(
                "field `history[{index}]` must be a list of two strings, found {}",
                kind(pair)
            ));
        };
        said.push("history", index, ChatMessage::new("user", asked));
        said.push("history", index, ChatMessage::new("assistant", answer));
    }
    said.push("instruction", 0, ChatMessage::new("user", instruction(fields)?));
    if let Some(answer) = answer_text(fields, "output", answers)? {
        said.push("output", 0, ChatMessage::new("assistant", answer));
    }
    Ok(said)
}

/// Whether turns of a conversation stand beside an instruction.
fn speaks_before(fields: &Map<String, Value>) -> bool {
    let says = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(Value::Array(turns)) => !turns.is_empty(),
        _ => false,
    };
    says("system") || says("history")
}

fn add_system(said: &mut Conversation, fields: &Map<String, Value>) -> std::result::Result<(), String> {
    match fields.get("system") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.trim().is_empty() => {}
        Some(Value::String(text)) => said.push("system", 0, ChatMessage::new("system", text)),
        Some(other) => return Err(format!("field `system` must be a string, found {}", kind(other))),
    }
    Ok(())
}

/// What an instruction asks: itself, and on a line of its own its `input`.
fn instruction(fields: &Map<String, Value>) -> std::result::Result<String, String> {
    let asked = text(fields, "instruction")?;
    Ok(match answer_text(fields, "input", Answers::Optional)? {
        Some(input) => format!("{asked}\n{input}"),
        None => asked,
    })
}

/// A text field that must be there and not be blank; a number is its digits.
fn text(fields: &Map<String, Value>, name: &str) -> std::result::Result<String, String> {
    match fields.get(name) {
        None => Err(format!("field `{name}` is missing")),
        Some(Value::String(s)) if s.trim().is_empty() => Err(format!("field `{name}` is empty")),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
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
