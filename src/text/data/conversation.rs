//! A conversation as the peers write it: OpenAI's and TRL's `role` and `content`, or ShareGPT's `from` and `value`.

use serde_json::{Map, Value};

use super::super::ChatMessage;
use super::kind::{Answers, kind, kind_of};
use crate::files::nearest;

/// Who may speak; a chat template decides whom of them it knows.
const ROLES: [&str; 7] = ["system", "developer", "user", "assistant", "tool", "function", "ipython"];

/// Whom ShareGPT's `from` means, where it is not one of [`ROLES`].
const SPEAKERS: [(&str, &str); 7] = [
    ("human", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("observation", "tool"),
    ("function_response", "tool"),
];

/// Turns, of which the last user turn is the question and what the assistant says in the end the answer.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    turns: Vec<ChatMessage>,
    /// The field and the index in it of each turn.
    places: Vec<(&'static str, usize)>,
}

impl Conversation {
    /// Adds the turns of the list `value`, which stands in the field `name`.
    pub fn add(&mut self, name: &'static str, value: Option<&Value>) -> Result<(), String> {
        let Some(Value::Array(turns)) = value else {
            return Err(format!("field `{name}` must be a list, found {}", kind_of(value)));
        };
        for (index, turn) in turns.iter().enumerate() {
            self.push(name, index, read_turn(turn).map_err(|e| format!("field `{name}[{index}]{e}"))?);
        }
        Ok(())
    }

    /// Adds a turn that stands at `index` of the field `name`.
    pub fn push(&mut self, name: &'static str, index: usize, turn: ChatMessage) {
        self.turns.push(turn);
        self.places.push((name, index));
    }

    /// Question and answer; and all turns in one form.
    pub fn split(self, answers: Answers) -> Result<(String, Option<String>, Value), String> {
        let name = self.places.first().map_or("messages", |place| place.0);
        let question =
            question(&self.turns).ok_or(format!("field `{name}` has no user turn with content"))?;
        let answer = answer(&self.turns, question);
        let between = answer.unwrap_or(self.turns.len());
        // What else stands after the question would be read by nobody.
        let unread = |i: &usize| match (*i).cmp(&between) {
            std::cmp::Ordering::Less => !is_of_tools(&self.turns[*i]),
            std::cmp::Ordering::Equal => false,
            std::cmp::Ordering::Greater => true,
        };
        let mut after = question + 1..self.turns.len();
        if let Some(index) = after.find(|i| !is_blank(&self.turns[*i]) && unread(i)) {
            let (name, place) = self.places[index];
            return Err(format!(
                "field `{name}[{place}]`: a turn of `{}` after the last user turn is neither question nor answer; end the line with \
                 one assistant turn, or make a line of each question",
                self.turns[index].role
            ));
        }
        if answer.is_none() && answers == Answers::Required {
            let name = self.places.last().map_or(name, |place| place.0);
            return Err(format!(
                "field `{name}` has no assistant turn with content after the last user turn"
            ));
        }
        let said = |index: usize| self.turns[index].content.clone();
        Ok((said(question), answer.map(said), serde_json::to_value(&self.turns).unwrap_or_default()))
    }
}

/// The turns of the field `messages` before the last user turn, and those between it and the answer: calls of tools and what these
/// returned. Nothing without that field.
pub(crate) fn around_question(fields: &Map<String, Value>) -> [Vec<ChatMessage>; 2] {
    let turns = fields.get("messages").and_then(Value::as_array).into_iter().flatten();
    let mut turns: Vec<ChatMessage> = turns.filter_map(|turn| read_turn(turn).ok()).collect();
    let Some(question) = question(&turns) else { return Default::default() };
    turns.truncate(answer(&turns, question).unwrap_or(turns.len()));
    let mut after = turns.split_off(question + 1);
    after.retain(|turn| !is_blank(turn));
    turns.truncate(question);
    [turns, after]
}

/// The last user turn that says something.
fn question(turns: &[ChatMessage]) -> Option<usize> {
    turns.iter().rposition(|turn| turn.role == "user" && !turn.content.trim().is_empty())
}

/// The last turn after the `question` in which the assistant speaks to the user.
fn answer(turns: &[ChatMessage], question: usize) -> Option<usize> {
    let speaks = |turn: &ChatMessage| turn.role == "assistant" && !is_of_tools(turn) && !is_blank(turn);
    turns.iter().rposition(speaks).filter(|&index| index > question)
}

/// Whether a turn calls tools, or is what one returned.
fn is_of_tools(turn: &ChatMessage) -> bool {
    ["tool", "function", "ipython"].contains(&turn.role.as_str()) || calls_tools(&turn.other)
}

fn calls_tools(message: &Map<String, Value>) -> bool {
    let is_call = |call: &Value| !call.is_null() && call.as_array().is_none_or(|calls| !calls.is_empty());
    ["tool_calls", "function_call"].iter().any(|name| message.get(*name).is_some_and(is_call))
}

fn is_blank(turn: &ChatMessage) -> bool {
    turn.content.trim().is_empty() && !calls_tools(&turn.other)
}

/// One turn; an error goes on where the name of the field ends.
fn read_turn(turn: &Value) -> Result<ChatMessage, String> {
    let Value::Object(fields) = turn else {
        return Err(format!("` must be an object, found {}", kind(turn)));
    };
    let shares = !fields.contains_key("role") && fields.contains_key("from");
    let [who, what] = if shares { ["from", "value"] } else { ["role", "content"] };
    let said = match fields.get(who) {
        Some(Value::String(said)) => said.as_str(),
        other => return Err(format!(".{who}` must be a string, found {}", kind_of(other))),
    };
    let speaker = SPEAKERS.iter().find(|(name, _)| shares && *name == said);
    let role = speaker.map_or(said, |(_, role)| role);
    if !ROLES.contains(&role) {
        let speakers = SPEAKERS.iter().map(|(name, _)| *name).filter(|_| shares);
        let known: Vec<&str> = speakers.chain(ROLES).collect();
        let hint = nearest(role, &known).map_or(String::new(), |right| format!("; did you mean `{right}`?"));
        return Err(format!(".{who}` is `{role}`{hint} (known: {})", known.join(", ")));
    }
    let content = match fields.get(what) {
        None | Some(Value::Null) if calls_tools(fields) => String::new(),
        content => text_of(what, content)?,
    };
    let other = fields.iter().filter(|(name, _)| ![who, what].contains(&name.as_str()));
    let other = other.map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(ChatMessage { other, ..ChatMessage::new(role, content) })
}

/// What a turn says: a text, or the texts of its parts on lines of their own, as llama.cpp and vLLM join them.
fn text_of(name: &str, content: Option<&Value>) -> Result<String, String> {
    let parts = match content {
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        other => return Err(format!(".{name}` must be a string, found {}", kind_of(other))),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let place = format!(".{name}[{index}]");
        let Value::Object(fields) = part else {
            return Err(format!("{place}` must be an object with `type` and `text`, found {}", kind(part)));
        };
        texts.push(match (fields.get("type"), fields.get("text")) {
            (Some(Value::String(kind)), _) if kind != "text" => {
                return Err(format!("{place}.type` is `{kind}`; only parts of the type `text` are read"));
            }
            (_, Some(Value::String(text))) => text.as_str(),
            (_, other) => return Err(format!("{place}.text` must be a string, found {}", kind_of(other))),
        });
    }
    Ok(texts.join("\n"))
}
