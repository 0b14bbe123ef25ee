//! How a question is asked and answered.

use std::fs;

use serde_json::{Value, json};

use crate::shared::{failure, says};
use crate::{Letters, TEAM, stdout};

#[test]
fn json_tells_attention_and_bytes_of_every_message() {
    let at = Letters::new(TEAM);
    for (channel, bytes) in [("trace", 4 * 2 * 64), ("vectors", 0)] {
        let mut run = at.command("run");
        run.args(["--question", "abc", "--json", "--greedy", "--max-new-tokens", "1", "--channel", channel]);
        let answer: Value = serde_json::from_str(&stdout(&run.output().unwrap())).unwrap();
        let attention = answer["attention"]["planner"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&attention) && (channel == "vectors" || attention > 0.0), "{answer}");
        assert!(answer["message_bytes"]["planner"].as_u64().unwrap() > bytes, "{answer}");
        assert_eq!(answer["message_bytes"]["planner"], answer["trace_bytes"], "{answer}");
    }
}

#[test]
fn fields_beside_a_question_are_given_by_name() {
    let team = TEAM.replacen("{{ question }}", "{{ facts.a }} {{ hint }}", 1);
    let at = Letters::new(&team);
    let run = |more: &[&str]| {
        let mut run = at.command("run");
        run.args(["--question", "abc", "--json", "--greedy", "--max-new-tokens", "4"]).args(more);
        run
    };
    says(&failure(run(&[])), &["the line has no field `facts", "; --field NAME=VALUE gives it"]);
    let said = |hint: &str| {
        let out = run(&["--field", "facts.a=bcd", "--field", &format!("hint={hint}")]).output().unwrap();
        serde_json::from_str::<Value>(&stdout(&out)).unwrap()["trace_positions"].clone()
    };
    assert_eq!(said("xyz").as_u64().unwrap() - said("x").as_u64().unwrap(), 2);
    let mut chat = at.command("run");
    chat.args(["--field", "facts.a=bcd", "--greedy", "--max-new-tokens", "2"]);
    let out = chat.write_stdin("abc\n/set field.hint x\nabc\n/trace\n").output().unwrap();
    let text = stdout(&out);
    says(
        &text,
        &["error: ", "has no field `hint`", "; /set field.NAME VALUE gives it", "planner: 7 positions"],
    );
}

#[test]
fn a_chat_forgets_asks_again_and_changes_its_settings() {
    let at = Letters::new(TEAM);
    let mut chat = at.command("run");
    chat.args(["--temperature", "5", "--top-p", "1", "--max-new-tokens", "8"]);
    let typed = "/retry\n/lens\nabc\n/retry\n/set greedy true\n/set max_new_tokens 3\n/set\n/retry\n/lens\n/trace\n/reset\n/trace\n/set warmth 1\n/save none\n";
    let text = stdout(&chat.write_stdin(typed).output().unwrap());
    let said: Vec<&str> = text.lines().collect();
    assert_eq!(&said[..2], ["there is no question yet", "there is no answer yet"]);
    assert_ne!(said[2], said[3], "another draw");
    assert!(said.contains(&"greedy true") && said.contains(&"max_new_tokens 3"), "{text}");
    assert!(said.iter().any(|line| line.starts_with("planner 1: \"") && line.ends_with(" %")), "{text}");
    says(&text, &["planner: 5 positions (4 prompt, 1 latent)", "the conversation is forgotten"]);
    assert_eq!(said[said.len() - 3], "there is no answer yet");
    assert!(said[said.len() - 2].starts_with("there is no setting `warmth`"), "{text}");
    assert_eq!(said[said.len() - 1], "there is nothing to save yet");
}

/// The tokens of an answer, and what is told beside it.
fn answer(at: &Letters, more: &[&str]) -> (Value, String) {
    let mut run = at.command("run");
    run.args(["--question", "abc", "--json"]).args(more);
    let out = run.output().unwrap();
    let said: Value = serde_json::from_str(&stdout(&out)).unwrap();
    (said["token_ids"].clone(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn the_model_s_generation_config_gives_the_defaults() {
    let at = Letters::new(TEAM);
    let config = at.model.join("generation_config.json");
    let set = |text: &Value| fs::write(&config, text.to_string()).unwrap();
    set(&json!({"bos_token_id": 1}));
    let (plain, said) = answer(&at, &["--seed", "1", "--max-new-tokens", "6"]);
    assert!(!said.contains("generation_config"), "{said}");
    let (best, _) = answer(&at, &["--greedy", "--max-new-tokens", "6"]);
    assert_eq!(answer(&at, &["--temperature", "0", "--max-new-tokens", "6"]).0, best);
    assert_ne!(plain, best);
    set(&json!({"do_sample": true, "temperature": 0.7, "top_k": 1, "top_p": 0.8, "max_new_tokens": 6}));
    for seed in ["1", "2", "3"] {
        let (tokens, said) = answer(&at, &["--seed", seed]);
        assert_eq!(tokens, best);
        says(
            &said,
            &[
                "as the model's generation_config.json says: temperature 0.7, top_p 0.8, top_k 1, max_new_tokens 6",
            ],
        );
    }
    let (tokens, said) = answer(&at, &["--seed", "1", "--top-k", "0", "--temperature", "5", "--top-p", "1"]);
    assert_ne!(tokens, best);
    says(&said, &["generation_config.json says: max_new_tokens 6"]);
    set(&json!({"do_sample": false, "temperature": 0.7}));
    let (tokens, said) = answer(&at, &["--seed", "1", "--max-new-tokens", "6"]);
    assert_eq!(tokens, best);
    says(&said, &["generation_config.json says: greedy true"]);
    set(&json!({"temperature": -1}));
    let mut run = at.command("run");
    run.args(["--question", "abc"]);
    says(&failure(run), &["generation_config.json: temperature must be"]);
}
