//! Chat templates of real models against the texts and token ids of `transformers` (`scripts/make_template_fixtures.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::jinja::{Style, Templates};
use super::{ChatMessage, ChatTemplate, Thinking, Tokenizer};

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

/// The template of a model, and its conversations.
fn load(model: &str) -> (ChatTemplate, Vec<Value>) {
    let config = json(&fixtures().join(model).join("tokenizer_config.json"));
    let tokens = ["bos_token", "eos_token"].map(|name| Some((name, config[name].as_str()?)));
    let tokens: Vec<(&str, &str)> = tokens.into_iter().flatten().collect();
    let source = config["chat_template"].as_str().unwrap();
    let template = ChatTemplate::new(source, &tokens).unwrap();
    let cases = json(&fixtures().join(format!("{model}.json")))["cases"].as_array().unwrap().clone();
    (template, cases)
}

fn messages(case: &Value) -> Vec<ChatMessage> {
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let turn = |m: &Value| {
        let other = m.as_object().unwrap().iter().filter(|(k, _)| !["role", "content"].contains(&k.as_str()));
        let other = other.map(|(k, v)| (k.clone(), v.clone())).collect();
        ChatMessage { other, ..ChatMessage::new(text(&m["role"]), text(&m["content"])) }
    };
    case["messages"].as_array().unwrap().iter().map(turn).collect()
}

#[test]
fn conversations_are_rendered_byte_for_byte_as_by_transformers() {
    for (model, count) in [("smollm2", 34), ("qwen3", 68)] {
        let (template, cases) = load(model);
        assert_eq!(cases.len(), count);
        for case in &cases {
            let thinking = match case["enable_thinking"].as_bool() {
                None => Thinking::Auto,
                Some(true) => Thinking::On,
                Some(false) => Thinking::Off,
            };
            let opened = case["add_generation_prompt"].as_bool().unwrap();
            let tools = Some(&case["tools"]).filter(|tools| tools.is_array());
            let text = template.render(&messages(case), tools, opened, thinking).unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{model}, {}, {thinking:?}", case["title"]);
        }
    }
}

#[test]
fn rendered_conversations_have_the_token_ids_of_transformers() {
    for model in ["smollm2", "qwen3"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tokenizers").join(model);
        let Some(tokenizer) = folder.exists().then(|| Tokenizer::from_folder(&folder).unwrap().unwrap())
        else {
            eprintln!("SKIPPED: {} is not there; token ids of {model} are not compared", folder.display());
            continue;
        };
        let (_, cases) = load(model);
        for case in &cases {
            let ids: Vec<u64> = tokenizer
                .encode(case["text"].as_str().unwrap())
                .unwrap()
                .into_iter()
                .map(u64::from)
                .collect();
            let expected: Vec<u64> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
            assert_eq!(ids, expected, "{model}, {}", case["title"]);
        }
    }
}

#[test]
fn long_conversations_stay_within_the_bounds() {
    for model in ["smollm2", "qwen3"] {
        let turn =
            |i| ChatMessage::new(if i % 2 == 0 { "user" } else { "assistant" }, "some words of a turn");
        let turns: Vec<_> = (0..4000).map(turn).collect();
        let text = load(model).0.render(&turns, None, true, Thinking::Auto).unwrap();
        assert_eq!(text.matches("some words of a turn").count(), turns.len());
    }
}

/// What is answered otherwise than in Python: a range shows as a list, and some filters, methods and names that no model's template uses are not
/// there.
const OTHERWISE: &[&str] = &[
    "{{ '%r' % 'x' }}",
    "{{ 'a\tb'.expandtabs(4) }}",
    "{{ 'é'.encode('utf-8')|length }}",
    "{{ items|random in items }}",
    "{{ range(3) }}",
    "{{ lipsum is defined }}",
    "{{ '<b>x</b>'|striptags }}",
    "{{ 1024|filesizeformat }}",
    "{{ 'a b c d'|wordwrap(3) }}",
    "{% macro m() %}{{ varargs|join }}{{ kwargs.k }}{% endmacro %}{{ m('x', 'y', k='z') }}",
];

#[test]
fn expressions_give_what_they_give_in_transformers() {
    let fixture = json(&fixtures().join("expressions.json"));
    let style = Style { trim: true, strict: false };
    let mut other = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        let answer = Templates::new(vec![super::chat::prepare(source)], Vec::new(), style).and_then(|t| {
            t.render(0, minijinja::Value::from_serialize(&fixture["context"])).map_err(|e| (0, e))
        });
        let answer = answer.map_err(|(_, e)| e.what);
        if (answer.as_deref().ok() == case["text"].as_str()) == OTHERWISE.contains(&source) {
            other.push(format!("{source}: {answer:?} for {:?}", case["text"].as_str()));
        }
    }
    assert!(other.is_empty(), "{}", other.join("\n"));
}
