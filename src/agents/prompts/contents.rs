//! Which tokens of a prompt the last user turn says: slots may be spread over them.

use std::ops::Range;

use super::{PromptBuilder, Prompted};
use crate::agents::{SlotPlacement, TeamConfig};
use crate::error::{Error, Result};
use crate::text::{Sample, Tokenizer};

/// A character of private use: no text holds it, and no template trims it away.
const MARK: &str = "\u{e000}";

impl PromptBuilder {
    /// The same prompts, and which of their tokens are content, where `team` spreads slots over that.
    pub fn with_contents_for(self, team: &TeamConfig) -> Self {
        let slots = (0..team.upstream().len()).any(|j| team.slots(j) > 0);
        Self { finds_contents: slots && team.slot_placement == SlotPlacement::Spread, ..self }
    }

    /// Which tokens of `text`, the prompt that an agent's messages become for `sample`, are the content of its user prompt.
    pub(super) fn content(
        &self,
        tokenizer: &Tokenizer,
        prompted: &Prompted,
        sample: &Sample,
        text: &str,
    ) -> Result<Range<usize>> {
        // What stands around the content is what stands around another one.
        let mut marked = prompted.messages.clone();
        marked[prompted.user].content = MARK.into();
        let marked = self.prompt_text(tokenizer, &marked, sample)?;
        let around = marked.split_once(MARK).filter(|(before, after)| {
            text.starts_with(before) && text.ends_with(after) && text.len() >= before.len() + after.len()
        });
        let (before, after) = around.ok_or_else(|| {
            Error::invalid(
                "the chat template makes the prompt depend on what the user turn says, so that no slots can be spread over that; use \
                 slot_placement = \"end\"",
            )
        })?;
        let part = before.len()..text.len() - after.len();
        tokenizer.tokens_of(text, tokenizer.chat_template().is_none(), part)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::tests::{PATH, agents, text_sample};
    use super::*;
    use crate::agents::FeedKind;
    use crate::text::tokenizer::tests::tiny;

    #[test]
    fn what_the_last_user_turn_says_is_found_among_its_tokens() {
        let template =
            "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}{{ eos_token }}{% endfor %}assistant:";
        let spread = |user: &str, template: Option<&str>| {
            let (tokenizer, team) =
                (Arc::new(tiny(template)), agents(&[("a", Some("S"), Some(user)), ("b", None, Some("x"))]));
            let team = TeamConfig {
                feed: FeedKind::Slots,
                slot_placement: SlotPlacement::Spread,
                agents: team,
                ..TeamConfig::default()
            };
            let builder = PromptBuilder::new(&team.agents, Some(tokenizer.clone())).unwrap();
            let built = builder.with_contents_for(&team).build(
                PATH.as_ref(),
                &text_sample(json!({"question": "q"}), None),
                1000,
            );
            built.map(|built| {
                let inside: Vec<u32> = built.prompts[0][built.contents[0].clone()].to_vec();
                (tokenizer.decode(&inside).unwrap(), built.contents[0].clone(), built.prompts[0].len())
            })
        };
        // Also where the same words stand behind it.
        let (text, range, n) = spread(" assistant {{ question }}:", Some(template)).unwrap();
        assert_eq!((text.as_str(), n - range.end), ("assistant q:", 1 + "assistant:".len()));
        let (text, range, n) = spread("{{ question }} q", None).unwrap();
        assert_eq!((text.as_str(), n - range.end), ("q q", 1));
        let counts = "{% for m in messages %}{{ m.content | length }}{{ m.content }}{% endfor %}";
        let error = spread("two words", Some(counts)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("depend on what the user turn says"), "{error}");
    }
}
