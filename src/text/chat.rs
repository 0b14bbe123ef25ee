//! Chat templates: the Jinja text that a model brings along and that turns messages into one prompt, rendered
//! as Hugging Face's `transformers` renders it.

use std::sync::Arc;

use minijinja::context;
use serde::Serialize;
use serde_json::{Map, Value};

use super::jinja::{Style, Templates};
use crate::error::{Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// What else the turn holds, for instance `tool_calls`: chat templates see it under its own names.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ChatMessage {
    /// A turn of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), other: Map::new() }
    }
}

named_enum! {
    /// What a chat template is told of thinking before the answer, as its variable `enable_thinking` (Qwen3).
    Thinking, "value for `think`" {
        /// Nothing: the template's own default.
        #[default]
        Auto = "auto",
        /// `enable_thinking=true`.
        On = "on",
        /// `enable_thinking=false`.
        Off = "off",
    }
}

/// A compiled chat template. Whatever its text is, it answers within bounds of time and memory.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    templates: Arc<Templates>,
}

impl ChatTemplate {
    /// Compiles `source`; the template sees each of the special `tokens` under its name in `tokenizer_config.json` (`bos_token`, …).
    ///
    /// # Errors
    /// When `source` is not a template, or too long or too deeply nested for one.
    pub fn new(source: &str, tokens: &[(&'static str, &str)]) -> Result<Self> {
        let tokens = tokens.iter().map(|&(name, token)| (name, token.to_string())).collect();
        let templates = Templates::new(vec![prepare(source)], tokens, Style { trim: true, strict: false });
        let templates = templates
            .map_err(|(_, e)| Error::invalid(format!("the chat template is not valid: {}", e.what)))?;
        Ok(Self { templates: Arc::new(templates) })
    }

    /// The prompt that `messages` become; with `add_generation_prompt`, followed by what opens the
    /// assistant's turn. `tools` describe what the assistant may call. Templates without `enable_thinking` do not heed `thinking`.
    ///
    /// # Errors
    /// When the template refuses the messages, for example because it knows no system role; when it takes too long or too much
    /// memory.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        thinking: Thinking,
    ) -> Result<String> {
        // `transformers` passes tools and documents as None: defined, unlike variables it does not pass.
        let context = context! { messages, tools, documents => (), add_generation_prompt };
        let context = match thinking {
            Thinking::Auto => context,
            choice => context! { enable_thinking => choice == Thinking::On, ..context },
        };
        self.templates
            .render(0, context)
            .map_err(|e| Error::invalid(format!("the chat template cannot be rendered: {}", e.what)))
    }

    /// Whether the template asks for `enable_thinking`.
    pub(crate) fn knows_thinking(&self) -> bool {
        self.templates.reads(0, "enable_thinking")
    }
}

/// Adapts what minijinja does not know: Jinja reads every newline as `\n`, and `transformers` adds a block
/// `generation`, which marks the assistant's tokens and prints its body in a scope of its own.
pub(super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (open, close) = (start + 2, start + length);
        let inner = rest.get(open..close).unwrap_or_default();
        let tag = inner.trim_matches(['-', '+']);
        let replaced = match tag.trim() {
            "generation" => inner.replace("generation", "with"),
            "endgeneration" => inner.replace("endgeneration", "endwith"),
            _ => inner.to_string(),
        };
        out.push_str(&rest[..open]);
        out.push_str(&replaced);
        rest = &rest[open.max(close)..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(turns: &[(&str, &str)]) -> Vec<ChatMessage> {
        turns.iter().map(|&(role, content)| ChatMessage::new(role, content)).collect()
    }

    fn render(source: &str, turns: &[(&str, &str)]) -> Result<String> {
        ChatTemplate::new(source, &[("bos_token", "<s>"), ("eos_token", "</s>")])?.render(
            &chat(turns),
            None,
            true,
            Thinking::Auto,
        )
    }

    // The expected texts of this module are what transformers 5 renders.
    #[test]
    fn a_chatml_template_adds_its_default_system_turn_and_opens_the_answer() {
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
            {{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' \
            + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let template = ChatTemplate::new(source, &[]).unwrap();
        let start = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n<b>&\n <|im_end|>\n";
        assert_eq!(
            template.render(&chat(&[("user", "<b>&\n ")]), None, false, Thinking::Auto).unwrap(),
            start
        );
        let opened = template.render(&chat(&[("user", "<b>&\n ")]), None, true, Thinking::Auto).unwrap();
        assert_eq!(opened, format!("{start}<|im_start|>assistant\n"));
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_trims_them() {
        let source = "{{ bos_token }}\n    {% for m in messages %}\n  [{{ m.role | upper }}]\n\n  \
            \x20 {# note #}\n    {%- if m.content is defined %}\r\n {{ m.content.strip() }}{{ eos_token }}\n\
            {% endif %}\n  {% endfor %}\nend\n\n";
        let text = render(source, &[("user", " a "), ("assistant", "b")]).unwrap();
        assert_eq!(text, "<s>\n  [USER]\n\n a</s>\n  [ASSISTANT]\n\n b</s>\nend\n");
    }

    #[test]
    fn python_methods_namespaces_slices_and_loop_controls_work() {
        let source = "{%- set ns = namespace(last=-1) -%}{%- for m in messages[::-1] -%}{%- set i = \
            (messages|length - 1) - loop.index0 -%}{%- if m.role == 'user' and not \
            m.content.startswith('<t>') -%}{%- set ns.last = i -%}{%- break -%}{%- endif -%}{%- endfor -%}\
            {{ ns.last }}|{{ messages[0].content.split('</think>')[-1].lstrip('\n') }}|\
            {{ tools is defined }}|{{ tools }}|{{ messages[0].extra is defined }}|{{ pad_token }}";
        let text = render(source, &[("user", "x</think>\n\ny"), ("user", "<t>z")]).unwrap();
        assert_eq!(text, "0|y|True|None|False|");
    }

    #[test]
    fn tojson_is_pythons() {
        let source = "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}\
            {{ [1] | tojson(separators=(',', ':')) }}";
        let text = render(source, &[("user", "<é'\">")]).unwrap();
        assert_eq!(
            text,
            "[{\"role\": \"user\", \"content\": \"<é'\\\">\"}]\
             {\n  \"role\": \"user\",\n  \"content\": \"<é'\\\">\"\n}[1]"
        );
    }

    #[test]
    fn generation_blocks_print_their_body() {
        let source =
            "{% for m in messages %}\n{%- generation -%}\n {{ m.content }}{%- endgeneration %}{% endfor %}";
        assert_eq!(render(source, &[("user", "a"), ("assistant", "b")]).unwrap(), "ab");
        assert_eq!(prepare("a {% if x %} generation {% b"), "a {% if x %} generation {% b");
        assert_eq!(prepare("{%}"), "{%}");
    }

    #[test]
    fn the_date_is_written_in_pythons_notation_and_a_bad_format_is_an_error() {
        let text = render("{{ strftime_now('%Y-%m-%d') }}", &[]).unwrap();
        assert!(text.len() == 10 && text.starts_with("20"), "{text}");
        assert!(render("{{ strftime_now('%Q') }}", &[]).unwrap_err().to_string().contains("bad format"));
    }

    #[test]
    fn what_the_template_refuses_is_said_with_its_own_words() {
        let source =
            "{% if messages[0].role == 'system' %}\n{{ raise_exception('No system role!') }}{% endif %}";
        let error = render(source, &[("system", "x")]).unwrap_err().to_string();
        assert_eq!(error, "the chat template cannot be rendered: No system role! (line 2 of the template)");
        let error = render("{% if %}", &[]).unwrap_err().to_string();
        assert!(error.starts_with("the chat template is not valid: "), "{error}");
    }
}
