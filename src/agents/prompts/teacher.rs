//! What a teacher reads: the evidence of all agents of a team, in one context.

use std::path::Path;

use super::{FIELDS, PromptBuilder, SYSTEM, USER, check_ids, render};
use crate::agents::TeamConfig;
use crate::error::{Error, Result};
use crate::text::jinja::{Style, Templates};
use crate::text::{ChatMessage, TokenizedSample};

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
        // What an agent is prompted with, its user prompt apart.
        let prompted = |j: usize| {
            let mut messages = prompts.messages_after(&context, path, source, j, &[])?;
            let user = messages.pop().map_or(String::new(), |message| message.content);
            Ok::<_, Error>((messages, user))
        };
        let last = self.order[self.order.len() - 1];
        let (mut messages, _) = prompted(last)?;
        let text = match &self.user {
            Some(template) => {
                if template.reads(0, "messages") {
                    // It places the earlier turns itself.
                    messages.truncate(usize::from(prompts.parts[last][SYSTEM].is_some()));
                }
                render(template, 0, &context, &source.fields)
                    .map_err(|m| at_line(format!("`teacher_user`: {m}")))?
            }
            None => {
                let texts = self.order.iter().map(|&j| Ok(prompted(j)?.1));
                texts.collect::<Result<Vec<_>>>()?.join("\n\n")
            }
        };
        messages.push(ChatMessage::new(FIELDS[USER], text));
        let ids =
            prompts.encode_prompt(tokenizer, &messages).map_err(|e| at_line(format!("the teacher: {e}")))?;
        check_ids("the teacher's prompt", &ids, vocab_size).map_err(at_line)?;
        Ok(ids)
    }
}
