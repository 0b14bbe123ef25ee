//! What a teacher reads: the evidence of all agents of a team, in one context.

use std::path::Path;

use super::{PromptBuilder, Prompted, SYSTEM, check_ids, render};
use crate::agents::TeamConfig;
use crate::error::{Error, Result};
use crate::text::TokenizedSample;
use crate::text::jinja::{Style, Templates};

/// Makes the prompts of a teacher, which holds in one context what the agents of a team hold apart.
#[derive(Debug)]
pub struct TeacherPrompts {
    /// The agents whose prompts stand in it: those that the final agent does not read itself, those that it reads in that order, itself.
    order: Vec<usize>,
    /// The team's `teacher_user`, in place of these prompts.
    user: Option<Templates>,
}

impl TeacherPrompts {
    /// The prompts of a teacher of `team`.
    ///
    /// # Errors
    /// If `teacher_user` is not a template.
    ///
    /// # Panics
    /// If the team has no agent.
    pub fn new(team: &TeamConfig) -> Result<Self> {
        let last = team.agents.len() - 1;
        let read = team.reads(last);
        let order =
            (0..last).filter(|j| !read.contains(j)).chain(read.iter().copied()).chain([last]).collect();
        let compile = |source: &String| {
            let templates =
                Templates::new(vec![source.clone()], Vec::new(), Style { trim: false, strict: true });
            templates
                .map_err(|(_, e)| Error::invalid(format!("`teacher_user` is not a template: {}", e.what)))
        };
        Ok(Self { order, user: team.teacher_user.as_ref().map(compile).transpose()? })
    }

    /// The token ids of the teacher's prompt for `sample`, which `prompts` made of a line of the file at `path`; `vocab_size` is the number
    /// of embeddings.
    ///
    /// Text: the chat template over the final agent's system prompt, the earlier turns of the conversation and one user turn, with the
    /// generation prompt. That turn is `teacher_user`, else the agents' user prompts with a blank line between. Pre-tokenised: the agents'
    /// ids one after another.
    ///
    /// # Errors
    /// Names file and line, and what is wrong with the prompt.
    pub fn build(
        &self,
        prompts: &PromptBuilder,
        path: &Path,
        sample: &TokenizedSample,
        vocab_size: usize,
    ) -> Result<Vec<u32>> {
        let at_line = |message: String| Error::line(path, sample.line, message);
        let (Some(source), Some(tokenizer)) =
            (sample.source.as_ref().filter(|source| source.ids.is_none()), &prompts.tokenizer)
        else {
            return Ok(self.order.iter().flat_map(|&j| sample.prompts[j].iter().copied()).collect());
        };
        let context = prompts.context(source, &[]);
        let prompted = |j: usize| prompts.messages_after(&context, path, source, j, &[]);
        let last = self.order[self.order.len() - 1];
        let Prompted { mut messages, mut user } = prompted(last)?;
        let text = match &self.user {
            Some(template) => {
                if template.reads(0, "messages") {
                    // It places the turns of the conversation itself.
                    let system = prompts.parts[last][SYSTEM].is_some();
                    messages.truncate(user + 1);
                    messages.drain(usize::from(system)..user);
                    user = usize::from(system);
                }
                render(template, 0, &context, &source.fields)
                    .map_err(|m| at_line(format!("`teacher_user`: {m}")))?
            }
            None => {
                let text = |&j: &usize| {
                    let Prompted { mut messages, user } = prompted(j)?;
                    Ok(messages.swap_remove(user).content)
                };
                let texts = self.order.iter().map(text).collect::<Result<Vec<_>>>()?;
                // An agent that sees an image may have nothing to say.
                texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
            }
        };
        messages[user].content = text;
        let ids = prompts
            .encode_prompt(tokenizer, &messages, source)
            .map_err(|e| at_line(format!("the teacher: {e}")))?;
        check_ids("the teacher's prompt", &ids, vocab_size).map_err(at_line)?;
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::super::tests::{agents, ids_sample, text_sample};
    use super::*;
    use crate::agents::{ChannelKind, Topology};
    use crate::text::tokenizer::tests::tiny;

    const CHAT: &str = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}\
                        {% if add_generation_prompt %}assistant:{% endif %}";

    fn team(teacher_user: Option<&str>) -> TeamConfig {
        let agents = agents(&[
            ("a", Some("A"), Some("{{ left }}")),
            ("b", None, Some("{{ right }}")),
            ("c", Some("S"), Some("{{ question }}")),
        ]);
        TeamConfig { agents, teacher_user: teacher_user.map(Into::into), ..TeamConfig::default() }
    }

    /// Asserts what the teacher of `team` reads of a line with `fields`: token ids of a text, or an error.
    #[track_caller]
    fn reads(team: &TeamConfig, fields: Value, expected: std::result::Result<&str, &str>) {
        let tokenizer = Arc::new(tiny(Some(CHAT)));
        let prompts = PromptBuilder::new(&team.agents, Some(tokenizer.clone())).unwrap();
        let path = "d.jsonl".as_ref();
        let sample = prompts.build(path, &text_sample(fields, None), 1000).unwrap();
        let ids = TeacherPrompts::new(team).unwrap().build(&prompts, path, &sample, 1000);
        let expected = expected.map(|text| tokenizer.encode(text).unwrap());
        assert_eq!(ids.map_err(|e| e.to_string()), expected.map_err(String::from));
    }

    fn fields() -> Value {
        json!({"left": "l", "right": "r", "question": "q"})
    }

    #[test]
    fn all_prompts_stand_in_one_turn_under_the_final_agents_system_prompt() {
        reads(&team(None), fields(), Ok("system:S<end>user:l\n\nr\n\nq<end>assistant:"));
        reads(
            &team(Some("{{ right }} {{ question }}")),
            fields(),
            Ok("system:S<end>user:r q<end>assistant:"),
        );
        reads(
            &team(Some("{{ rigth }}")),
            fields(),
            Err(
                "d.jsonl, line 7: `teacher_user`: the line has no field `rigth`; did you mean `right`? (it has left, \
                 right, question)",
            ),
        );
        let error = TeacherPrompts::new(&team(Some("{{ right"))).unwrap_err().to_string();
        assert!(error.starts_with("`teacher_user` is not a template: "), "{error}");
    }

    #[test]
    fn earlier_turns_stand_before_it_unless_its_template_places_them() {
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut fields = fields();
        fields["messages"] = json!([turn("user", "1?"), turn("assistant", "1"), turn("user", "q")]);
        let before = "system:S<end>user:1?<end>assistant:1<end>user:l\n\nr\n\nq<end>assistant:";
        reads(&team(None), fields.clone(), Ok(before));
        let places = team(Some("{{ messages[1].content }} {{ question }}"));
        reads(&places, fields, Ok("system:S<end>user:1 q<end>assistant:"));
    }

    /// Who stands in the prompt of a pre-tokenised line, in which order.
    fn order(team: TeamConfig) -> Vec<u32> {
        let prompts = PromptBuilder::new(&team.agents, None).unwrap();
        let ids = ids_sample(&[("a", &[1]), ("b", &[2]), ("c", &[3, 4])], &[]);
        let sample = prompts.build("d.jsonl".as_ref(), &ids, 9).unwrap();
        TeacherPrompts::new(&team).unwrap().build(&prompts, "d.jsonl".as_ref(), &sample, 9).unwrap()
    }

    #[test]
    fn evidence_stands_in_reading_order_and_before_it_that_of_agents_who_are_read_by_others() {
        let graph = |reads: [&[&str]; 3]| {
            let mut team = TeamConfig { topology: Topology::Graph, ..team(None) };
            for (agent, reads) in team.agents.iter_mut().zip(reads) {
                agent.reads = Some(reads.iter().map(|name| name.to_string()).collect());
            }
            team.ordered().unwrap()
        };
        assert_eq!(order(team(None)), [1, 2, 3, 4]);
        assert_eq!(order(graph([&[], &[], &["b", "a"]])), [2, 1, 3, 4]);
        assert_eq!(order(graph([&[], &["a"], &["b"]])), [1, 2, 3, 4]);
        let overwritten = TeamConfig { channel: ChannelKind::OVERWRITE.into(), ..team(None) };
        assert_eq!(order(overwritten), [1, 2, 3, 4]);
    }
}
