//! Team files and settings files: misspelt keys, wrong roles, templates that do not render.

use crate::shared::{Place, failure, says};

/// What the program says about the team file `text`.
#[track_caller]
fn team(text: &str) -> String {
    let place = Place::new();
    let path = place.write("team.toml", text);
    let message = failure(place.eval(&[&"--system", &path]));
    says(&message, &["team.toml"]);
    message
}

/// What the program says about the settings file `text`.
#[track_caller]
fn settings(text: &str) -> String {
    let place = Place::new();
    let path = place.write("c.toml", text);
    let message = failure(place.eval(&[&"--config", &path]));
    says(&message, &["c.toml"]);
    message
}

#[test]
fn a_misspelt_key_in_any_file_names_its_line_and_the_nearest_key() {
    says(&team("latent_step = 3\n"), &["line 1", "`latent_step`", "did you mean `latent_steps`?"]);
    let agent = "[[agents]]\nname = \"a\"\nusr = \"x\"\n";
    says(&team(agent), &["line 3", "did you mean `user`?"]);
    says(&team("feed = \"sofft\"\n"), &["line 1", "did you mean `soft`?"]);
    says(&settings("batch_size = 2\nlerning_rate = 1.0\n"), &["line 2", "did you mean `learning_rate`?"]);
    let inner = "[team]\nlatent_step = 1\n[[team.agents]]\nname = \"a\"\n";
    says(&settings(inner), &["line 2", "did you mean `latent_steps`?"]);
}

#[test]
fn wrong_types_and_broken_syntax_name_the_line() {
    says(&team("transmit = \"all\"\nlatent_steps = \"many\"\n"), &["line 2"]);
    says(&team("latent_steps = -1\n"), &["line 1"]);
    says(&team("[[agents]]\nname = \"a\n"), &["line 2"]);
    says(&team(&"a = [".repeat(10_000)), &["line 1"]);
}

#[test]
fn numbers_that_are_none_are_not_taken_for_absent() {
    for key in ["learning_rate", "num_train_epochs", "max_grad_norm", "weight_decay", "lora_alpha"] {
        for value in ["nan", "inf", "-inf"] {
            says(
                &settings(&format!("batch_size = 1\n{key} = {value}\n")),
                &["line 2", "not a finite number"],
            );
        }
    }
}

#[test]
fn duplicate_missing_and_unsafe_roles_are_named() {
    let agents = |names: &[&str]| -> String {
        names.iter().map(|name| format!("[[agents]]\nname = \"{name}\"\nuser = \"x\"\n")).collect()
    };
    says(&team(&agents(&["a", "b", "a"])), &["`a`", "names must differ"]);
    says(&team("latent_steps = 1\n"), &["at least one agent", "[[agents]]"]);
    says(&team("[[agents]]\nuser = \"x\"\n"), &["line 1", "`name`"]);
    says(&team(&agents(&["../../etc"])), &["../../etc", "folder names"]);
    let same = format!("[team]\n{}", agents(&["a", "A"]).replace("[[agents", "[[team.agents"));
    says(&settings(&same), &["names must differ"]);
}

/// What the program says about an agent's template, for a data line with `question` and `answer`.
#[track_caller]
fn template(user: &str) -> String {
    let place = Place::new();
    let model = place.model_with_tokenizer();
    let data = place.write("d.jsonl", r#"{"question": "what", "answer": "what", "level": 1}"#);
    let team = place.write("team.toml", format!("[[agents]]\nname = \"solo\"\nuser = '''{user}'''\n"));
    failure(place.eval(&[&"--model", &model, &"--data", &data, &"--system", &team]))
}

#[test]
fn an_unknown_template_variable_names_line_agent_and_the_nearest_field() {
    let message = template("Q: {{ qestion }}");
    says(&message, &["d.jsonl, line 1", "`solo`", "`qestion`", "did you mean `question`?"]);
    says(&template("{{ zebra.stripes }}"), &["`zebra", "question, answer, level"]);
}

#[test]
fn a_template_syntax_error_names_agent_and_template_line() {
    says(&template("one\n{{ question"), &["`solo`", "`user` is not a template", "line 2"]);
    says(&template("{% if question %}x"), &["`solo`", "not a template"]);
    says(&template("{{ question | shout }}"), &["`solo`", "shout"]);
    says(&template(&"(".repeat(5000).replacen('(', "{{ (", 1)), &["`solo`", "not a template"]);
}

#[test]
fn a_prompt_that_is_empty_for_a_line_is_named() {
    says(&template("{{ '' }}"), &["d.jsonl, line 1", "`solo`", "empty"]);
}
