//! Sizes that no team, model or task has: each is refused in a sentence before anything of that size is made.

use std::fs;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use diffmas::agents::TeamConfig;
use diffmas::backbone::{ModelFiles, Precision};
use diffmas::backends::Flex;
use diffmas::checkpoint::AdapterConfig;
use diffmas::communication::TeamSizes;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::shared::{Place, diffmas, golden};

const EXTREMES: [u64; 7] = [0, 1 << 31, 1 << 32, 1 << 53, 1 << 62, (1 << 63) - 1, u64::MAX];

/// Bytes that an answer may take more than an ordinary run of the tiny model: what is refused is not made first.
const MEMORY: i64 = 100 << 20;

/// Asserts that the program ends by itself with an answer, success or one sentence, and takes no more memory than it should.
#[track_caller]
fn answers(command: Command, what: &str) {
    let (code, text, memory) = outcome(command);
    assert!(matches!(code, Some(0..=2)) && !text.contains("panicked"), "{what}: {code:?} {text}");
    let sentences = text.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(sentences, usize::from(code != Some(0)), "{what}: {text}");
    static ORDINARY: LazyLock<i64> = LazyLock::new(|| outcome(Place::new().eval(&[])).2);
    let more = memory - *ORDINARY;
    assert!(more < MEMORY, "{what}: {more} bytes more than an ordinary run; {text}");
}

/// Exit code, what was said, and the most memory that a command held at once.
#[track_caller]
fn outcome(command: Command) -> (Option<i32>, String, i64) {
    let mut said = tempfile::tempfile().unwrap();
    let mut process = std::process::Command::new(command.get_program());
    let process = process.args(command.get_args()).stdout(Stdio::null()).stderr(said.try_clone().unwrap());
    // `wait4` below is its end: it tells the memory, which `wait` does not.
    #[expect(clippy::zombie_processes)]
    let mut child = process.spawn().unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let (clock, mut status) = (Instant::now(), 0);
    // SAFETY: all bytes zero are a valid `rusage`, and both pointers are valid while the call runs.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    while unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage) } == 0 {
        if clock.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("no answer after 20 s");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut text = String::new();
    said.rewind().unwrap();
    said.read_to_string(&mut text).unwrap();
    (libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)), text, usage.ru_maxrss << 10)
}

#[test]
fn any_size_in_a_flag_of_a_team_is_answered() {
    let place = Place::new();
    for size in EXTREMES.map(|size| size.to_string()) {
        for flag in [
            "--latent-steps",
            "--num-vectors",
            "--vector-dim",
            "--vector-heads",
            "--cross-attention-layers",
            "--batch-size",
        ] {
            answers(place.eval(&[&"--channel", &"vectors", &flag, &size]), &format!("{flag} {size}"));
        }
        let text = place.eval(&[&"--channel", &"text", &"--message-tokens", &size]);
        answers(text, &format!("--message-tokens {size}"));
    }
}

#[test]
fn any_size_of_a_task_is_answered() {
    let place = Place::new();
    for size in EXTREMES.map(|size| size.to_string()) {
        for flag in ["--holders", "--facts", "--questions-per-line", "--train", "--test"] {
            let output = place.path("task");
            let mut command = diffmas(&[&"generate-task", &"--overwrite", &"--output", &output]);
            command.args(["--train", "2", "--test", "2", flag, &size]);
            answers(command, &format!("{flag} {size}"));
        }
        let huge = size.parse::<u64>().unwrap() > 1;
        if huge {
            let output = place.path("demo");
            for flag in ["--questions", "--seeds", "--facts", "--latent-steps"] {
                answers(diffmas(&[&"demo", &flag, &size, &"--output", &output]), flag);
            }
        }
    }
}

/// `eval` of a model whose `config.json` has `value` in `field`.
fn with_field(place: &Place, config: &Value, field: &str, value: u64) -> Command {
    let (model, mut config) = (place.path("model"), config.clone());
    config[field] = json!(value);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    place.eval(&[&"--model", &model])
}

#[test]
fn any_number_in_the_configuration_of_a_model_is_answered() {
    let place = Place::new();
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let config = read(&golden("tiny-llama").join("model/config.json"));
    place.model();
    let numbers = config.as_object().unwrap().iter().filter(|(_, value)| value.is_number());
    for (field, _) in numbers {
        for value in EXTREMES {
            answers(with_field(&place, &config, field, value), &format!("{field} {value}"));
        }
    }
}

/// Any two fields of `fields`, each with an extreme or any number.
fn pairs(fields: &'static [&'static str]) -> impl Strategy<Value = [(&'static str, u64); 2]> {
    let number = || prop_oneof![proptest::sample::select(EXTREMES.to_vec()), any::<u64>(), 0..5000u64];
    let field = move || (proptest::sample::select(fields), number());
    [field(), field()]
}

/// Sizes of a model.
const OF_MODELS: &[&str] = &[
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
];

/// Sizes of a team.
const OF_TEAMS: &[&str] = &[
    "latent_steps",
    "num_vectors",
    "vector_dim",
    "vector_heads",
    "message_tokens",
    "cross_attention_layers",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_two_sizes_of_a_model_are_answered(values in pairs(OF_MODELS)) {
        let place = Place::new();
        let model = place.model();
        let mut config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
        for (field, value) in values {
            config[field] = json!(value);
        }
        fs::write(model.join("config.json"), config.to_string()).unwrap();
        if let Ok(files) = ModelFiles::open(&model) {
            let _ = files.load::<Flex>(&Default::default(), Precision::default());
        }
    }

    #[test]
    fn any_two_sizes_of_a_team_are_answered(values in pairs(OF_TEAMS)) {
        let place = Place::new();
        let mut text = String::from("channel = \"vectors\"\n");
        let mut seen = Vec::new();
        for (field, value) in values.into_iter().filter(|(field, _)| {
            let new = !seen.contains(field);
            seen.push(*field);
            new
        }) {
            match field {
                "cross_attention_layers" => text.push_str(&format!("{field} = [{value}, 0]\n")),
                _ => text.push_str(&format!("{field} = {value}\n")),
            }
        }
        text.push_str("[[agents]]\nname = \"a\"\n[[agents]]\nname = \"b\"\n");
        if let Ok(team) = TeamConfig::read(&place.write("team.toml", text)) {
            let agents = vec!["a".into(), "b".into()];
            let sizes = TeamSizes {
                hidden_size: 8, num_hidden_layers: 4, num_key_value_heads: 1, head_dim: 8, agents
            };
            let _ = team.channel.kind.check(&team.channel_settings(), Some(&sizes));
            let _ = team.total_steps();
        }
    }

    #[test]
    fn any_rank_of_an_adapter_is_answered(r in any::<u64>(), other in any::<u64>()) {
        let text = json!({"peft_type": "LORA", "target_modules": ["q_proj"], "r": r, "rank_pattern": {"v_proj": other}});
        let _ = AdapterConfig::from_json(Path::new("adapter_config.json"), &text.to_string());
    }
}
