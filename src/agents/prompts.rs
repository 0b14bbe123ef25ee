//! From a data line to the token ids of every agent.

mod contents;
mod teacher;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::AgentConfig;
use crate::error::{Error, Result};
use crate::files::nearest;
use crate::images::{EncoderKind, Image, Images, encoder_kind, read_image};
use crate::text::jinja::{Failure, Style, Templates};
use crate::text::{ChatMessage, Sample, SampleIds, Thinking, TokenizedSample, Tokenizer, around_question};

pub use teacher::TeacherPrompts;

/// The token ids of a sample, by the names of [`TokenizedSample`].
struct Tokens {
    prompts: Vec<Vec<u32>>,
    target: Option<Vec<u32>>,
    trajectories: Vec<Option<Vec<u32>>>,
    contents: Vec<Range<usize>>,
}

/// What one agent is prompted with.
struct Prompted {
    messages: Vec<ChatMessage>,
    /// Which of them its own user prompt is.
    user: usize,
}

/// The compiled prompt templates of a team, and the tokenizer.
#[derive(Debug)]
pub struct PromptBuilder {
    names: Vec<String>,
    /// For each agent, its system and its user template among the `templates`.
    parts: Vec<[Option<usize>; 2]>,
    /// For each agent, whether a prompt of its own uses the variable `messages`.
    writes_messages: Vec<bool>,
    /// For each agent, whether a prompt of its own uses the variable `inbox`.
    writes_inbox: Vec<bool>,
    /// What each agent sees, if it sees an image.
    sees: Vec<Option<Sight>>,
    /// The images that are in use.
    images: Arc<Images>,
    templates: Templates,
    tokenizer: Option<Arc<Tokenizer>>,
    thinking: Thinking,
    /// Whether samples say which of a prompt's tokens are the last user turn's content.
    finds_contents: bool,
}

/// How an agent comes by its image.
#[derive(Debug)]
struct Sight {
    kind: &'static EncoderKind,
    /// The template of its source.
    template: usize,
}

const SYSTEM: usize = 0;
const USER: usize = 1;
const FIELDS: [&str; 2] = ["system", "user"];
const IMAGE: &str = "image";

impl PromptBuilder {
    /// Compiles the `system`, `user` and `image` templates of `agents`. Without a tokenizer, only pre-tokenised
    /// samples can be built.
    ///
    /// # Errors
    /// Names the agent and the field that is not a template, or the encoder that there is none of.
    pub fn new(agents: &[AgentConfig], tokenizer: Option<Arc<Tokenizer>>) -> Result<Self> {
        let mut sources = Vec::new();
        let mut fields = Vec::new();
        let mut parts = Vec::with_capacity(agents.len());
        let mut sees = Vec::with_capacity(agents.len());
        for agent in agents {
            let mut add = |field, source: &Option<String>| {
                sources.push(source.clone()?);
                fields.push((&agent.name, field));
                Some(sources.len() - 1)
            };
            parts.push([add(FIELDS[SYSTEM], &agent.system), add(FIELDS[USER], &agent.user)]);
            let kind = agent.encoder.as_deref().map(encoder_kind).transpose()?;
            let source = add(IMAGE, &agent.image);
            sees.push(kind.zip(source).map(|(kind, template)| Sight { kind, template }));
        }
        let templates = Templates::new(sources, Vec::new(), Style { trim: false, strict: true });
        let templates = templates.map_err(|(index, e)| {
            let (name, field) = fields[index];
            Error::invalid(format!("agent `{name}`: `{field}` is not a template: {}", e.what))
        })?;
        let names = agents.iter().map(|agent| agent.name.clone()).collect();
        let all = |variable| {
            let reads =
                |own: &[Option<usize>; 2]| own.iter().flatten().any(|&t| templates.reads(t, variable));
            parts.iter().map(reads).collect()
        };
        let (writes_messages, writes_inbox) = (all("messages"), all("inbox"));
        Ok(Self {
            names,
            parts,
            writes_messages,
            writes_inbox,
            sees,
            images: Arc::default(),
            templates,
            tokenizer,
            thinking: Thinking::Auto,
            finds_contents: false,
        })
    }

    /// The same prompts, with images out of those that are in use elsewhere.
    pub fn with_images(self, images: Arc<Images>) -> Self {
        Self { images, ..self }
    }

    /// The same prompts with `thinking` told to the chat template.
    pub fn with_thinking(self, thinking: Thinking) -> Self {
        Self { thinking, ..self }
    }

    /// The variables that the agents' templates read and do not set, with their attributes as dotted paths.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let images = self.sees.iter().flatten().map(|sight| &sight.template);
        let templates = self.parts.iter().flatten().flatten().chain(images);
        templates.flat_map(|&template| self.templates.variables(template)).map(String::as_str)
    }

    /// The token ids of `sample`, which stands in the file at `path`; `vocab_size` is the number of
    /// embeddings.
    ///
    /// Text: each prompt is the chat template over the agent's messages, with the generation prompt; the
    /// target is the answer followed by the end-of-turn token. Pre-tokenised ids are used unchanged.
    ///
    /// # Errors
    /// Names file, line, agent and field: a variable that the line does not have, a role without ids or ids
    /// without a role, an id outside the vocabulary, an empty prompt; text without a tokenizer; an image that cannot be read.
    pub fn build(&self, path: &Path, sample: &Sample, vocab_size: usize) -> Result<TokenizedSample> {
        let Tokens { prompts, target, trajectories, contents } = match &sample.ids {
            Some(ids) => self.take_ids(ids).map_err(|m| Error::line(path, sample.line, m))?,
            None => self.tokenise(path, sample)?,
        };
        let images = self.read_images(path, sample)?;
        let check = |name: String, ids: &[u32]| {
            check_ids(&name, ids, vocab_size).map_err(|m| Error::line(path, sample.line, m))
        };
        let text = sample.ids.is_none();
        for ((name, ids), sees) in self.names.iter().zip(&prompts).zip(&self.sees) {
            if sees.is_some() && ids.is_empty() {
                continue;
            }
            let name =
                if text { format!("the prompt of agent `{name}`") } else { format!("`prompt_ids.{name}`") };
            check(name, ids)?;
        }
        for (name, ids) in self.names.iter().zip(&trajectories) {
            if let Some(ids) = ids {
                let field = if text { "trajectories" } else { "trajectory_ids" };
                check(format!("`{field}.{name}`"), ids)?;
            }
        }
        if let Some(ids) = &target {
            check(if text { "the answer" } else { "`target_ids`" }.to_string(), ids)?;
        }
        let source = Some(Arc::new(sample.clone()));
        Ok(TokenizedSample {
            line: sample.line,
            question: sample.question,
            prompts,
            target,
            trajectories,
            contents,
            images,
            teacher: None,
            source,
        })
    }

    /// What each agent sees of a line; empty where nobody sees anything. Paths lead from the folder of the data file on.
    fn read_images(&self, path: &Path, sample: &Sample) -> Result<Vec<Option<Arc<Image>>>> {
        if self.sees.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        let context = self.context(sample, &[]);
        let folder = path.parent().unwrap_or(Path::new(""));
        let read = |sight: &Sight| {
            let source = render(&self.templates, sight.template, &context, &sample.fields)?;
            Ok(self.images.share(read_image(source.trim(), folder, sight.kind)?))
        };
        let of_agent = |(name, sight): (&String, &Option<Sight>)| {
            let image = sight.as_ref().map(read).transpose();
            image.map_err(|why: String| {
                Error::line(path, sample.line, format!("agent `{name}`, `{IMAGE}`: {why}"))
            })
        };
        self.names.iter().zip(&self.sees).map(of_agent).collect()
    }

    /// Whether an agent sees an image and has no prompt beside.
    fn only_sees(&self, index: usize) -> bool {
        self.sees[index].is_some() && self.parts[index] == [None, None]
    }

    /// The messages that agent `index` is prompted with for `sample`: its system prompt, if any, the earlier turns of the
    /// conversation that the sample is the end of, its user prompt, and what tools were asked and said since.
    ///
    /// The earlier turns are those of the field `messages` before the last user turn, of any role. Where the templates of an agent use
    /// `messages`, they place the turns themselves and nothing is inserted.
    ///
    /// # Errors
    /// Names file, line, agent and the variable that the line does not have; or that the agent has no `user`.
    ///
    /// # Panics
    /// When the team has no agent `index`.
    pub fn messages(&self, path: &Path, sample: &Sample, index: usize) -> Result<Vec<ChatMessage>> {
        Ok(self.messages_after(&self.context(sample, &[]), path, sample, index, &[])?.messages)
    }

    /// The fields of a sample and what an agent found, as templates see them.
    fn context(&self, sample: &Sample, inbox: &[(&str, String)]) -> minijinja::Value {
        if !self.writes_inbox.contains(&true) {
            return minijinja::Value::from_serialize(&sample.fields);
        }
        let texts = inbox.iter().map(|(sender, text)| json!({"sender": sender, "text": text}));
        let mut fields = sample.fields.clone();
        fields.insert("inbox".into(), texts.collect());
        minijinja::Value::from_serialize(&fields)
    }

    /// The messages of [`PromptBuilder::messages`] for an agent that found the texts of `inbox`: sender and what it wrote. They stand
    /// before the user prompt, unless the agent's own templates use `inbox`.
    fn messages_after(
        &self,
        context: &minijinja::Value,
        path: &Path,
        sample: &Sample,
        index: usize,
        inbox: &[(&str, String)],
    ) -> Result<Prompted> {
        let name = &self.names[index];
        if self.parts[index][USER].is_none() && self.sees[index].is_none() {
            let message = format!(
                "agent `{name}` has no `user` prompt, which data in text form needs; add it to the team file"
            );
            return Err(Error::line(path, sample.line, message));
        }
        let mut messages = Vec::with_capacity(2);
        let [earlier, later] = match self.writes_messages[index] {
            true => Default::default(),
            false => around_question(&sample.fields),
        };
        let mut earlier = earlier.into_iter();
        for part in [SYSTEM, USER] {
            if part == USER {
                messages.extend(earlier.by_ref());
            }
            let field = FIELDS[part];
            let content = self.parts[index][part].map(|template| {
                render(&self.templates, template, context, &sample.fields).map_err(|m| {
                    Error::line(path, sample.line, format!("agent `{name}`, `{field}` prompt: {m}"))
                })
            });
            // Who sees an image need not be told anything.
            let content = content.transpose()?.or_else(|| (part == USER).then(String::new));
            if let Some(mut content) = content {
                if part == USER && !self.writes_inbox[index] {
                    let before: String =
                        inbox.iter().map(|(sender, text)| format!("{sender} wrote:\n{text}\n\n")).collect();
                    content.insert_str(0, &before);
                }
                messages.push(ChatMessage::new(field, content));
            }
        }
        let user = messages.len() - 1;
        messages.extend(later);
        Ok(Prompted { messages, user })
    }

    fn take_ids(&self, ids: &SampleIds) -> std::result::Result<Tokens, String> {
        let known: Vec<&str> = self.names.iter().map(String::as_str).collect();
        if let Some(stranger) = ids.prompt_ids.keys().find(|role| !known.contains(&role.as_str())) {
            let agents = known.join(", ");
            return Err(format!("`prompt_ids.{stranger}`: the team has no such agent (agents: {agents})"));
        }
        let prompt = |(name, sees): (&&str, &Option<Sight>)| {
            let missing = || format!("`prompt_ids.{name}` is missing; every agent needs a prompt");
            let given = ids.prompt_ids.get(*name).cloned();
            // Who sees an image need not be told anything.
            given.or_else(|| sees.as_ref().map(|_| Vec::new())).ok_or_else(missing)
        };
        let prompts = known.iter().zip(&self.sees).map(prompt).collect::<std::result::Result<_, _>>()?;
        let target = Some(ids.target_ids.clone()).filter(|ids| !ids.is_empty());
        self.check_roles("trajectory_ids", ids.trajectory_ids.keys())?;
        let trajectories = self.names.iter().map(|name| ids.trajectory_ids.get(name).cloned()).collect();
        Ok(Tokens { prompts, target, trajectories, contents: Vec::new() })
    }

    /// Refuses trajectories of anyone but the upstream agents.
    fn check_roles<'a>(
        &self,
        field: &str,
        mut roles: impl Iterator<Item = &'a String>,
    ) -> std::result::Result<(), String> {
        let (last, upstream) = self.names.split_last().expect("a team has an agent");
        match roles.find(|role| !upstream.contains(role)) {
            Some(role) if role == last => {
                Err(format!("`{field}.{role}`: the final agent's text is the answer; remove it here"))
            }
            Some(role) => {
                let known = upstream.join(", ");
                Err(format!(
                    "`{field}.{role}`: the team has no such upstream agent (upstream agents: {known})"
                ))
            }
            None => Ok(()),
        }
    }

    /// The token ids of `sample`'s prompt for agent `index`, which found the texts of `inbox`: sender and token ids. In pre-tokenised
    /// data they stand before the prompt. `vocab_size` is the number of embeddings.
    ///
    /// # Errors
    /// As [`PromptBuilder::build`].
    pub(crate) fn prompt_after(
        &self,
        path: &Path,
        sample: &TokenizedSample,
        index: usize,
        inbox: &[(usize, Vec<u32>)],
        vocab_size: usize,
    ) -> Result<Vec<u32>> {
        let own = || sample.prompts[index].clone();
        match (&sample.source, &self.tokenizer) {
            _ if inbox.is_empty() => Ok(own()),
            (Some(source), Some(tokenizer)) if source.ids.is_none() => {
                let text = |(sender, ids): &(usize, Vec<u32>)| {
                    Ok((self.names[*sender].as_str(), tokenizer.decode(ids)?.trim().to_string()))
                };
                let inbox = inbox.iter().map(text).collect::<Result<Vec<_>>>()?;
                let context = self.context(source, &inbox);
                let prompted = self.messages_after(&context, path, source, index, &inbox)?;
                let name = &self.names[index];
                let of_agent = |e| Error::line(path, sample.line, format!("agent `{name}`: {e}"));
                let ids = self.encode_prompt(tokenizer, &prompted.messages, source).map_err(of_agent)?;
                check_ids(&format!("the prompt of agent `{name}`"), &ids, vocab_size)
                    .map_err(|m| Error::line(path, sample.line, m))?;
                Ok(ids)
            }
            _ => Ok(inbox.iter().flat_map(|(_, ids)| ids.iter().copied()).chain(own()).collect()),
        }
    }

    /// The chat template over `messages`, with the generation prompt; without one, their plain text. The template is told of the `tools` of a
    /// line of `messages`.
    fn prompt_text(
        &self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
        sample: &Sample,
    ) -> Result<String> {
        let tools = sample.fields.get("tools").filter(|_| sample.fields.contains_key("messages"));
        let tools = tools.filter(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty()));
        match tokenizer.chat_template() {
            Some(template) => template.render(messages, tools, true, self.thinking),
            None => Ok(plain(messages)),
        }
    }

    /// The token ids of the prompt that `messages` become.
    fn encode_prompt(
        &self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
        sample: &Sample,
    ) -> Result<Vec<u32>> {
        encode(tokenizer, &self.prompt_text(tokenizer, messages, sample)?)
    }

    fn tokenise(&self, path: &Path, sample: &Sample) -> Result<Tokens> {
        let at_line = |message: String| Error::line(path, sample.line, message);
        let Some(tokenizer) = &self.tokenizer else {
            return Err(at_line(
                "the line holds text, but the model has no tokenizer (no tokenizer.json beside its weights); \
                 add it, or use pre-tokenised lines with `prompt_ids` and `target_ids`"
                    .into(),
            ));
        };
        let context = self.context(sample, &[]);
        let mut prompts = Vec::with_capacity(self.names.len());
        let mut contents = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            if self.only_sees(index) {
                prompts.push(Vec::new());
                contents.extend(self.finds_contents.then_some(0..0));
                continue;
            }
            let prompted = self.messages_after(&context, path, sample, index, &[])?;
            let of_agent = |e| at_line(format!("agent `{name}`: {e}"));
            let text = self.prompt_text(tokenizer, &prompted.messages, sample).map_err(of_agent)?;
            prompts.push(encode(tokenizer, &text).map_err(of_agent)?);
            // The final agent has no slots.
            if self.finds_contents && index + 1 < self.names.len() {
                contents.push(self.content(tokenizer, &prompted, sample, &text).map_err(of_agent)?);
            }
        }
        let turn = |text: &String, what: String| {
            let mut ids = tokenizer.encode(text).map_err(|e| at_line(format!("{what}: {e}")))?;
            ids.push(tokenizer.end_of_turn());
            Ok(ids)
        };
        let target = sample.answer.as_ref().map(|answer| turn(answer, "the answer".into())).transpose()?;
        self.check_roles("trajectories", sample.trajectories.keys()).map_err(&at_line)?;
        let trajectory = |name: &String| {
            let text = sample.trajectories.get(name);
            text.map(|text| turn(text, format!("`trajectories.{name}`"))).transpose()
        };
        let trajectories = self.names.iter().map(trajectory).collect::<Result<_>>()?;
        Ok(Tokens { prompts, target, trajectories, contents })
    }
}

/// The token ids of a prompt.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    match tokenizer.chat_template() {
        // It writes the special tokens itself.
        Some(_) => tokenizer.encode(text),
        None => tokenizer.encode_plain(text),
    }
}

/// Refuses an empty list, and ids that the model has no embedding of.
fn check_ids(name: &str, ids: &[u32], vocab_size: usize) -> std::result::Result<(), String> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        None if ids.is_empty() => Err(format!("{name} is empty")),
        None => Ok(()),
        Some(id) => Err(format!("{name} holds token id {id}, but the model has only {vocab_size} tokens")),
    }
}

/// A template of `templates` over the `fields` of a line, which `context` holds.
fn render(
    templates: &Templates,
    template: usize,
    context: &minijinja::Value,
    fields: &Map<String, Value>,
) -> std::result::Result<String, String> {
    templates.render(template, context.clone()).map_err(|Failure { what, undefined }| {
        let used = templates.variables(template).iter();
        let mut missing = used.filter(|name| undefined && !has(fields, name));
        let Some(first) = missing.next() else { return what };
        // What lies in an object that is missing stands behind it.
        let inside = format!("{first}.");
        let missing = missing.take_while(|name| name.starts_with(&inside)).last().unwrap_or(first);
        let known: Vec<&str> = fields.keys().map(String::as_str).collect();
        let hint = match nearest(missing, &known) {
            Some(right) => format!("; did you mean `{right}`?"),
            None => String::new(),
        };
        format!("the line has no field `{missing}`{hint} (it has {})", known.join(", "))
    })
}

/// Whether the line has the field at a dotted path.
fn has(fields: &Map<String, Value>, path: &str) -> bool {
    let mut parts = path.split('.');
    let first = parts.next().and_then(|name| fields.get(name));
    parts.try_fold(first, |value, name| Some(value?.get(name))).flatten().is_some()
}

/// The prompt for a model without a chat template.
fn plain(messages: &[ChatMessage]) -> String {
    let parts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    parts.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::tiny;

    pub const PATH: &str = "d.jsonl";

    pub(super) fn agents(parts: &[(&str, Option<&str>, Option<&str>)]) -> Vec<AgentConfig> {
        let agent = |&(name, system, user): &(&str, Option<&str>, Option<&str>)| AgentConfig {
            system: system.map(Into::into),
            user: user.map(Into::into),
            ..AgentConfig::named(name)
        };
        parts.iter().map(agent).collect()
    }

    pub(super) fn text_sample(fields: Value, answer: Option<&str>) -> Sample {
        let fields = fields.as_object().unwrap().clone();
        Sample { line: 7, fields, answer: answer.map(Into::into), ..Sample::default() }
    }

    pub(super) fn ids_sample(prompts: &[(&str, &[u32])], target: &[u32]) -> Sample {
        let prompt_ids = prompts.iter().map(|&(name, ids)| (name.to_string(), ids.to_vec())).collect();
        let ids = Some(SampleIds { prompt_ids, target_ids: target.to_vec(), ..SampleIds::default() });
        Sample { line: 7, ids, ..Sample::default() }
    }

    fn error(builder: &PromptBuilder, sample: &Sample, vocab_size: usize) -> String {
        builder.build(PATH.as_ref(), sample, vocab_size).unwrap_err().to_string()
    }

    #[test]
    fn prompts_go_through_the_chat_template_and_the_target_ends_the_turn() {
        let template = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}\
                        {% if add_generation_prompt %}assistant:{% endif %}";
        let tokenizer = Arc::new(tiny(Some(template)));
        let team = agents(&[("a", Some("S"), Some("Q {{ question }}\n")), ("b", None, Some("{{ n + 1 }}"))]);
        let builder = PromptBuilder::new(&team, Some(tokenizer.clone())).unwrap();
        let sample = text_sample(json!({"question": "<why>?", "n": 2}), Some("so"));
        let built = builder.build(PATH.as_ref(), &sample, 1000).unwrap();
        let expected = ["system:S<end>user:Q <why>?<end>assistant:", "user:3<end>assistant:"];
        assert_eq!(built.prompts, expected.map(|text| tokenizer.encode(text).unwrap()));
        let mut target = tokenizer.encode("so").unwrap();
        target.push(tokenizer.end_of_turn());
        assert_eq!((built.line, built.target), (7, Some(target)));
        assert_eq!(
            builder
                .build(PATH.as_ref(), &text_sample(json!({"question": "", "n": 1}), None), 1000)
                .unwrap()
                .target,
            None
        );
    }

    #[test]
    fn without_a_chat_template_the_parts_are_joined_plainly() {
        let tokenizer = Arc::new(tiny(None));
        let team = agents(&[("a", Some("S"), Some("{{ question }}")), ("b", None, Some("x"))]);
        let builder = PromptBuilder::new(&team, Some(tokenizer.clone())).unwrap();
        let built = builder.build(PATH.as_ref(), &text_sample(json!({"question": "q"}), None), 1000).unwrap();
        assert_eq!(built.prompts, ["S\n\nq\n", "x\n"].map(|text| tokenizer.encode(text).unwrap()));
    }

    #[test]
    fn earlier_turns_of_a_conversation_come_before_the_question() {
        let team = agents(&[
            ("a", Some("S"), Some("Q {{ question }}")),
            ("b", None, Some("{{ messages[0].content }}")),
        ]);
        let builder = PromptBuilder::new(&team, None).unwrap();
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        let messages = [
            turn("system", "no"),
            turn("user", "1?"),
            turn("tool", "t"),
            turn("assistant", "1"),
            turn("user", "2?"),
        ];
        let fields = json!({"question": "2?", "messages": messages});
        let sample = text_sample(fields, None);
        let said = |index| -> Vec<(String, String)> {
            let messages = builder.messages(PATH.as_ref(), &sample, index).unwrap();
            messages.into_iter().map(|m| (m.role, m.content)).collect()
        };
        let expected = [
            ("system", "S"),
            ("system", "no"),
            ("user", "1?"),
            ("tool", "t"),
            ("assistant", "1"),
            ("user", "Q 2?"),
        ];
        assert_eq!(said(0), expected.map(|(r, c)| (r.to_string(), c.to_string())));
        assert_eq!(said(1), [("user".to_string(), "no".to_string())], "it writes `messages` itself");
    }

    #[test]
    fn an_unknown_variable_names_agent_variable_and_line() {
        let team = agents(&[("a", None, Some("{% for i in range(1) %}{{ qestion }}{% endfor %}"))]);
        let builder = PromptBuilder::new(&team, Some(Arc::new(tiny(None)))).unwrap();
        let sample = text_sample(json!({"question": "q", "level": 1}), None);
        assert_eq!(
            error(&builder, &sample, 1000),
            "d.jsonl, line 7: agent `a`, `user` prompt: the line has no field `qestion`; did you mean \
             `question`? (it has question, level)"
        );
    }

    #[test]
    fn broken_templates_missing_prompts_and_a_missing_tokenizer_are_said() {
        let broken = PromptBuilder::new(&agents(&[("a", None, Some("x\n{{ question"))]), None).unwrap_err();
        assert!(broken.to_string().starts_with("agent `a`: `user` is not a template: "), "{broken}");
        let sample = text_sample(json!({"question": "q"}), None);
        let without_user =
            PromptBuilder::new(&agents(&[("a", None, None)]), Some(Arc::new(tiny(None)))).unwrap();
        assert!(error(&without_user, &sample, 9).contains("agent `a` has no `user` prompt"));
        let without_tokenizer = PromptBuilder::new(&agents(&[("a", None, Some("x"))]), None).unwrap();
        assert!(error(&without_tokenizer, &sample, 9).contains("the model has no tokenizer"));
    }

    #[test]
    fn token_ids_are_used_unchanged_and_need_neither_tokenizer_nor_prompts() {
        let builder = PromptBuilder::new(&agents(&[("b", None, None), ("a", None, None)]), None).unwrap();
        let sample = Sample { question: 2, ..ids_sample(&[("a", &[1, 2]), ("b", &[8])], &[5]) };
        let built = builder.build(PATH.as_ref(), &sample, 9).unwrap();
        assert_eq!(
            built,
            TokenizedSample {
                line: 7,
                question: 2,
                prompts: vec![vec![8], vec![1, 2]],
                target: Some(vec![5]),
                trajectories: vec![None, None],
                contents: Vec::new(),
                images: Vec::new(),
                teacher: None,
                source: Some(Arc::new(sample.clone())),
            }
        );
        let open = builder.build(PATH.as_ref(), &ids_sample(&[("a", &[1]), ("b", &[8])], &[]), 9).unwrap();
        assert_eq!(open.target, None);
    }

    #[test]
    fn ids_that_do_not_fit_the_team_or_the_model_name_the_field() {
        let builder = PromptBuilder::new(&agents(&[("a", None, None), ("b", None, None)]), None).unwrap();
        for (prompts, target, message) in [
            (&[("a", &[1][..])][..], &[1][..], "`prompt_ids.b` is missing"),
            (&[("a", &[1]), ("b", &[1]), ("c", &[1])], &[1], "`prompt_ids.c`: the team has no such agent"),
            (&[("a", &[1]), ("b", &[9])], &[1], "`prompt_ids.b` holds token id 9, but the model has only 9"),
            (&[("a", &[1]), ("b", &[1])], &[10], "`target_ids` holds token id 10"),
            (&[("a", &[]), ("b", &[1])], &[1], "`prompt_ids.a` is empty"),
        ] {
            let error = error(&builder, &ids_sample(prompts, target), 9);
            assert!(error.starts_with(&format!("d.jsonl, line 7: {message}")), "{error}");
        }
        let team = agents(&[("a", None, Some("x"))]);
        let builder = PromptBuilder::new(&team, Some(Arc::new(tiny(None)))).unwrap();
        let sample = text_sample(json!({"question": "q"}), Some("é"));
        assert!(error(&builder, &sample, 1).contains("the prompt of agent `a` holds token id"));
    }
}
