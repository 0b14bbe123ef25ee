//! The program at a terminal: chat, streams, stop texts, traces in files, thinking, how much it says, help and completions.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use assert_cmd::Command;
use diffmas::checkpoint::{read_safetensors, write_safetensors};
use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// A folder with a golden model that has a tokenizer, and a team of two.
struct Place {
    dir: tempfile::TempDir,
}

const TEMPLATE: &str = "{% for m in messages %}{{ m.role[:1] }}:{{ m.content }}\n{% endfor %}\
    {% if enable_thinking is defined %}{% if enable_thinking %}[on]{% else %}[offoff]{% endif %}{% endif %}";

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for model in ["tiny-llama", "tiny-qwen3"] {
            fs::create_dir(place.path(model)).unwrap();
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(model);
            for file in ["config.json", "model.safetensors"] {
                fs::copy(golden.join("model").join(file), place.path(model).join(file)).unwrap();
            }
            fs::write(place.path(model).join("tokenizer.json"), tokenizer().to_string()).unwrap();
            let config = json!({"eos_token": "<end>", "chat_template": TEMPLATE});
            fs::write(place.path(model).join("tokenizer_config.json"), config.to_string()).unwrap();
        }
        place.write(
            "team.toml",
            "latent_steps = 3\n[[agents]]\nname = \"planner\"\nuser = \"Plan {{ question }}\"\n\
             [[agents]]\nname = \"solver\"\nuser = \"{{ question }}\"\n",
        );
        place.write(
            "data.jsonl",
            "{\"question\": \"2+3?\"}\n{\"question\": \"Why is é 日?\"}\n{\"question\": \"a\"}\n",
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// `diffmas run` on the tiny model and team, in the folder.
    fn run(&self, more: &[&str]) -> Command {
        let mut c = Command::cargo_bin("diffmas").unwrap();
        c.current_dir(self.dir.path()).env("XDG_STATE_HOME", self.path("state"));
        c.args(["run", "--model", "tiny-llama", "--system", "team.toml", "--max-new-tokens", "12"])
            .args(more);
        c
    }

    fn answers(&self, more: &[&str]) -> Vec<Value> {
        let out = stdout(self.run(more));
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// 256 bytes, the end of a turn, words, and a token that is half of an emoji's sequence.
fn tokenizer() -> Value {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab: Map<String, Value> = (0..).zip(alphabet).map(|(i, c)| (c.to_string(), json!(i))).collect();
    let added: Vec<Value> = (256..512)
        .map(|id| {
            let content = match id {
                256 => "<end>".to_string(),
                _ if id % 7 == 0 => format!("👍{id}"),
                _ => format!(" w{id}"),
            };
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": id == 256})
        })
        .collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}})
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn succeed(mut c: Command) -> Output {
    let out = c.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out
}

#[track_caller]
fn stdout(c: Command) -> String {
    text(succeed(c).stdout)
}

/// What a command says when it fails: one sentence, no panic.
#[track_caller]
fn failure(mut c: Command, code: i32) -> String {
    let out = c.output().unwrap();
    let said = text(out.stderr);
    assert_eq!(out.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_chat_answers_remembers_explains_and_saves() {
    let place = Place::new();
    let alone = stdout(place.run(&["--question", "hello", "--temperature", "1"]));
    let mut c = place.run(&["--temperature", "1"]);
    let script = "/trace\nhello\n/trace\n\n/agents\nHELLO\n/trace\n/save chat.jsonl\n/save data.jsonl\n/save\n/dance\n/help\n";
    let said = stdout({
        c.write_stdin(script);
        c
    });
    let mut lines = said.strip_prefix("there is no answer yet\n").unwrap();
    lines = lines.strip_prefix(alone.as_str()).unwrap_or_else(|| panic!("{alone:?} should begin {lines:?}"));
    // "u:Plan hello\n" and three latent steps.
    assert!(lines.starts_with("planner: 16 positions (13 prompt, 3 latent), "), "{lines}");
    assert!(said.contains("the final agent read 16 positions"));
    assert!(
        said.contains("planner: 3 latent steps, feed identity, leaves all in the trace\nsolver: answers\n")
    );
    assert!(
        said.contains("4 messages in chat.jsonl\ndata.jsonl: the file exists; give another name\n"),
        "{said}"
    );
    assert!(
        said.contains("/save needs the name")
            && said.contains("no command `/dance`")
            && said.contains("/quit")
    );
    let saved = fs::read_to_string(place.path("chat.jsonl")).unwrap();
    let messages = serde_json::from_str::<Value>(&saved).unwrap()["messages"].clone();
    let roles: Vec<_> = messages.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!((&messages[0]["content"], &messages[2]["content"]), (&json!("hello"), &json!("HELLO")));
    assert_eq!(messages[1]["content"], json!(alone.trim_end_matches('\n')));
    // Every agent sees the earlier turns before its own prompt: data with the same messages gives the same trace.
    let line = json!({"messages": [messages[0], messages[1], messages[2]]}).to_string();
    place.write("second.jsonl", &line);
    let second = place.answers(&["--data", "second.jsonl", "--json"]);
    let positions = second[0]["trace_positions"].as_u64().unwrap();
    assert!(
        positions > 16 && said.contains(&format!("planner: {positions} positions")),
        "{positions}: {said}"
    );
}

#[test]
fn the_oldest_turns_are_left_out_when_the_conversation_no_longer_fits() {
    let place = Place::new();
    let long = "x".repeat(520);
    let mut c = place.run(&["--greedy"]);
    c.write_stdin(format!("{long}\n/trace\n{long}\n/trace\n{}\n{long}\n", "y".repeat(3000)));
    let out = succeed(c);
    let (said, notes) = (text(out.stdout), text(out.stderr));
    assert_eq!(notes.matches("the oldest turns no longer fit").count(), 2, "{notes}");
    assert_eq!(said.matches("planner: 531 positions").count(), 2, "{said}");
    assert!(said.contains("error: the conversation: line 3: ") && said.contains("max_position_embeddings"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_an_answer_but_not_the_chat() {
    let place = Place::new();
    let whole = stdout(place.run(&["--question", "go", "--greedy", "--max-new-tokens", "1500"]));
    let program = assert_cmd::cargo::cargo_bin("diffmas");
    let mut child = std::process::Command::new(program)
        .current_dir(place.dir.path())
        .args([
            "run",
            "--model",
            "tiny-llama",
            "--system",
            "team.toml",
            "--greedy",
            "--max-new-tokens",
            "1500",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    stdin.write_all(b"/save cut.jsonl\n/quit\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    let saved: Value = serde_json::from_str(&fs::read_to_string(place.path("cut.jsonl")).unwrap()).unwrap();
    // A character that was not whole shows as a replacement character.
    let cut = saved["messages"][1]["content"].as_str().unwrap().trim_end_matches('\u{fffd}');
    assert!(whole.starts_with(cut) && cut.len() < whole.trim_end().len(), "{} {}", cut.len(), whole.len());
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_without_a_word() {
    let place = Place::new();
    let chat = ["run", "--model", "tiny-llama", "--system", "team.toml", "--max-new-tokens", "4"];
    let questions = [&chat[..], &["--data", "data.jsonl"]].concat();
    let file = place.path("asked");
    fs::write(&file, "/agents\nhello\n/trace\n").unwrap();
    for args in [&["models"][..], &["devices"], &["completions", "bash"], &["--help"], &questions, &chat] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = std::process::Command::new(assert_cmd::cargo::cargo_bin("diffmas"))
            .current_dir(place.dir.path())
            .args(args)
            .stdin(fs::File::open(&file).unwrap())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = text(out.stderr);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {said}");
        assert!(!said.contains("panicked") && !said.contains("error"), "{args:?}: {said}");
    }
}

#[test]
fn work_goes_on_where_nobody_reads_its_notes() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = std::process::Command::new(assert_cmd::cargo::cargo_bin("diffmas"))
        .current_dir(place.dir.path())
        .args(["run", "--verbose", "--model", "tiny-llama", "--system", "team.toml", "--data", "data.jsonl"])
        .args(["--max-new-tokens", "4"])
        .stderr(writer)
        .output()
        .unwrap();
    assert_eq!((out.status.code(), text(out.stdout).lines().count()), (Some(0), 3));
}

/// Runs a command line on a terminal of its own and types `input`; `None` where there is no `script` to do so.
fn on_a_terminal(place: &Place, line: &str, input: &str, environment: &[(&str, &str)]) -> Option<String> {
    if !cfg!(target_os = "linux") || std::process::Command::new("script").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no `script` (util-linux) to make a terminal with");
        return None;
    }
    let program = assert_cmd::cargo::cargo_bin("diffmas");
    let mut c = Command::new("script");
    c.current_dir(place.dir.path()).env("XDG_STATE_HOME", place.path("state")).env("TERM", "xterm");
    c.args(["-qec", &format!("{} {line}", program.display()), "/dev/null"]).envs(environment.iter().copied());
    c.write_stdin(input);
    Some(stdout(c).replace("\r\n", "\n"))
}

#[test]
fn on_a_terminal_lines_are_edited_and_kept_and_answers_stream() {
    let place = Place::new();
    let alone = stdout(place.run(&["--question", "hello", "--greedy"]));
    let line = "run --model tiny-llama --system team.toml --max-new-tokens 12 --greedy";
    // Typed wrongly, taken back and corrected; the end of the input is Ctrl-D.
    let Some(said) = on_a_terminal(&place, line, "hellx\u{7f}o\n", &[]) else { return };
    assert!(said.contains(alone.trim()) && said.contains("/help lists commands"), "{said:?}");
    assert_eq!(fs::read_to_string(place.path("state/diffmas/history")).unwrap(), "#V2\nhello\n");
    let one = on_a_terminal(&place, &format!("{line} --question hello"), "", &[]).unwrap();
    assert!(one.contains(alone.trim()), "{one:?}");
}

#[test]
fn a_terminal_gets_no_orders_from_an_answer_and_a_file_gets_it_unchanged() {
    let place = Place::new();
    let orders = tokenizer().to_string().replace("\" w", "\"\\u001b]0;\\u202ew");
    place.write("tiny-llama/tokenizer.json", &orders);
    let line = "run --model tiny-llama --system team.toml --max-new-tokens 12 --temperature 2 --top-p 1 --question a";
    let flags = ["--temperature", "2", "--top-p", "1", "--question", "a"];
    let piped = stdout(place.run(&flags));
    assert!(piped.contains(r"\u{1b}]0;\u{202e}w"), "{piped:?}");
    let file = fs::File::create(place.path("answer")).unwrap();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("diffmas"));
    command.current_dir(place.dir.path()).args(line.split(' ')).stdout(file);
    assert!(command.status().unwrap().success());
    assert!(fs::read_to_string(place.path("answer")).unwrap().contains("\u{1b}]0;\u{202e}w"));
    let json = stdout(place.run(&[&flags[..], &["--json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["text"].as_str().unwrap().contains("\u{1b}]0;\u{202e}w"), "{json}");
    let Some(shown) = on_a_terminal(&place, line, "", &[]) else { return };
    assert!(shown.contains(r"\u{1b}]0;\u{202e}w"), "{shown:?}");
    assert!(!shown.contains("\u{1b}]0") && !shown.contains('\u{202e}'), "{shown:?}");
}

#[test]
fn no_color_takes_colours_from_the_log() {
    let place = Place::new();
    let line = "run --verbose --model tiny-llama --question hi --max-new-tokens 1";
    let Some(coloured) = on_a_terminal(&place, line, "", &[("NO_COLOR", "")]) else { return };
    let plain = on_a_terminal(&place, line, "", &[("NO_COLOR", "1")]).unwrap();
    assert!(coloured.contains("layers of width") && coloured.contains("\u{1b}[34mDEBUG"), "{coloured:?}");
    assert!(plain.contains("layers of width") && !plain.contains("\u{1b}[3"), "{plain:?}");
}

#[test]
fn a_stop_text_ends_an_answer_across_tokens_and_in_batches() {
    let place = Place::new();
    let drawn = [
        "--data",
        "data.jsonl",
        "--temperature",
        "2",
        "--top-p",
        "1",
        "--max-new-tokens",
        "24",
        "--seed",
        "1",
    ];
    let plain = place.answers(&drawn);
    let whole = |row: usize| plain[row]["text"].as_str().unwrap();
    for row in 0..3 {
        // The end of one token and the beginning of the next, a word; bytes that are no character say nothing of their tokens.
        let chars: Vec<char> = whole(row).chars().collect();
        let across = |w: &&[char]| w.ends_with(&[' ', 'w']) && !w.contains(&'\u{fffd}');
        let stop: String = chars.windows(4).find(across).unwrap().iter().collect();
        let stopped = place.answers(&[&drawn[..], &["--stop", &stop, "--stop", "never"]].concat());
        for (other, answer) in stopped.iter().enumerate() {
            let end = whole(other).find(&stop).unwrap_or(whole(other).len());
            assert_eq!(answer["text"].as_str().unwrap(), &whole(other)[..end], "{stop:?}");
            let (cut, all) = (&answer["token_ids"], &plain[other]["token_ids"]);
            assert!(all.as_array().unwrap().starts_with(cut.as_array().unwrap()));
        }
        assert!(stopped[row]["token_ids"].as_array().unwrap().len() < 24);
        let alone = place.answers(&[&drawn[..], &["--stop", &stop, "--batch-size", "1"]].concat());
        assert_eq!(alone, stopped);
    }
    assert!(failure(place.run(&["--question", "a", "--stop", ""]), 1).contains("--stop must not be empty"));
    assert!(failure(place.run(&["--question", " "]), 1).contains("--question is empty"));
}

#[test]
fn a_repetition_penalty_and_min_p_change_what_is_drawn_and_are_checked() {
    let place = Place::new();
    let ids = |more: &[&str]| {
        place.answers(&[&["--data", "data.jsonl", "--max-new-tokens", "60"][..], more].concat())
    };
    let distinct = |answers: &[Value]| -> usize {
        let sets = answers.iter().map(|a| {
            let mut ids: Vec<u64> =
                a["token_ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect();
            ids.sort_unstable();
            ids.dedup();
            ids.len()
        });
        sets.sum()
    };
    let (greedy, varied) = (ids(&["--greedy"]), ids(&["--greedy", "--repetition-penalty", "5"]));
    assert!(distinct(&varied) > distinct(&greedy), "{} {}", distinct(&varied), distinct(&greedy));
    assert_eq!(
        varied,
        ids(&["--greedy", "--repetition-penalty", "5", "--batch-size", "1"]),
        "padding does not count"
    );
    assert_eq!(greedy, ids(&["--min-p", "1", "--temperature", "9"]), "only the best token is likely enough");
    for (flag, value, code) in [
        ("--min-p", "1.5", 1),
        ("--min-p", "nan", 2),
        ("--repetition-penalty", "0", 1),
        ("--repetition-penalty", "-2", 1),
    ] {
        assert!(failure(place.run(&["--question", "a", flag, value]), code).contains(flag));
    }
    failure(place.run(&["--question", "a", "--greedy", "--min-p", "0.1"]), 2);
}

#[test]
fn a_saved_trace_gives_the_same_tokens_elsewhere() {
    let place = Place::new();
    for (asked, name) in [(["--question", "why?"], "one"), (["--data", "data.jsonl"], "batch")] {
        let settings = [&asked[..], &["--temperature", "1", "--json"]].concat();
        let tokens = |flag: &str| -> Vec<Value> {
            let file = format!("{name}.safetensors");
            let answers = place.answers(&[&settings[..], &[flag, &file]].concat());
            answers.iter().map(|a| json!([a["token_ids"], a["trace_positions"], a["trace_bytes"]])).collect()
        };
        let plain: Vec<Value> = place.answers(&settings).iter().map(|a| a["token_ids"].clone()).collect();
        let saved = tokens("--save-trace");
        assert_eq!(saved.iter().map(|a| a[0].clone()).collect::<Vec<_>>(), plain);
        assert_eq!(saved, tokens("--load-trace"));
    }
    // Rounded messages stand there as what they were rounded to.
    let mut sizes = Vec::new();
    for dtype in ["f32", "bf16", "int8", "int4"] {
        let settings = ["--data", "data.jsonl", "--message-dtype", dtype, "--json"];
        let file = format!("{dtype}.safetensors");
        let answers = |flag: &[&str]| -> Vec<Value> {
            let answers = place.answers(&[&settings[..], flag].concat());
            answers.iter().map(|a| json!([a["token_ids"], a["trace_bytes"], a["message_dtype"]])).collect()
        };
        let plain = answers(&[]);
        assert_eq!(plain[0][2], dtype);
        assert_eq!(answers(&["--save-trace", &file]), plain);
        assert_eq!(answers(&["--load-trace", &file]), plain);
        sizes.push(plain[0][1].as_u64().unwrap());
        let other = place.run(&["--data", "data.jsonl", "--load-trace", &file, "--message-dtype", "int8"]);
        if dtype != "int8" {
            let e = failure(other, 1);
            assert!(e.contains(&format!("the messages of the trace are {dtype}")), "{e}");
            assert!(e.contains(&format!("give --message-dtype {dtype}")), "{e}");
        }
    }
    // Heads of 16 numbers: 64, 32, 18 and 10 bytes.
    assert_eq!(sizes.iter().map(|bytes| 64 * bytes / sizes[0]).collect::<Vec<_>>(), [64, 32, 18, 10]);
    // What is read is the file's trace, whatever is asked.
    let other =
        place.answers(&["--question", "something longer", "--load-trace", "one.safetensors", "--json"]);
    assert_eq!(other[0]["trace_positions"], 3 + "u:Plan why?\n".len());
    let nothing = ["--question", "x", "--load-trace", "one.safetensors", "--control", "none", "--json"];
    assert_eq!(place.answers(&nothing)[0]["trace_positions"], 0);
}

#[test]
fn a_trace_that_does_not_fit_is_refused_in_a_sentence() {
    let place = Place::new();
    let ask = |file: &str, more: &[&str]| {
        place.run(&[&["--question", "why?", "--load-trace", file][..], more].concat())
    };
    succeed(place.run(&["--question", "why?", "--save-trace", "t.safetensors"]));
    let e = failure(place.run(&["--question", "why?", "--save-trace", "t.safetensors"]), 1);
    assert!(e.contains("t.safetensors: the file exists") && e.contains("--overwrite"), "{e}");
    assert!(failure(ask("none.safetensors", &[]), 1).contains("none.safetensors: the file cannot be read"));
    let e = failure(ask("t.safetensors", &["--model", "tiny-qwen3"]), 1);
    assert!(e.contains("another model: its `model_type` is \"llama\", that of --model is \"qwen3\""), "{e}");
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/tiny-llama/adapter");
    let e = failure(ask("t.safetensors", &["--adapter", adapter.to_str().unwrap()]), 1);
    assert!(e.contains("other weights of the adapter (SHA-256 "), "{e}");
    let weights = place.path("tiny-llama/model.safetensors");
    let mut tuned = read_safetensors(&weights).unwrap();
    tuned.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().1[2] += 0.25;
    fs::create_dir(place.path("tuned")).unwrap();
    write_safetensors(&place.path("tuned/model.safetensors"), &tuned, None).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(place.path("tiny-llama").join(file), place.path("tuned").join(file)).unwrap();
    }
    let e = failure(ask("t.safetensors", &["--model", "tuned"]), 1);
    assert!(e.contains("other weights of the model (SHA-256 ") && e.contains("give the --model"), "{e}");
    let team = "[[agents]]\nname = \"thinker\"\nuser = \"x\"\n[[agents]]\nname = \"solver\"\nuser = \"x\"\n";
    place.write("other.toml", team);
    let e = failure(ask("t.safetensors", &["--system", "other.toml"]), 1);
    assert!(e.contains("another team (planner, solver) than this one (thinker, solver)"), "{e}");
    let bytes = fs::read(place.path("t.safetensors")).unwrap();
    fs::write(place.path("cut.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        failure(ask("cut.safetensors", &[]), 1)
            .contains("cut.safetensors: this is no complete safetensors file")
    );
    let e = failure(ask("tiny-llama/model.safetensors", &[]), 1);
    assert!(e.contains("this is no trace"), "{e}");
    let e = failure(place.run(&["--data", "data.jsonl", "--load-trace", "t.safetensors"]), 1);
    assert!(e.contains("the trace is of 1 questions, but there are 3 here"), "{e}");
    let e = failure(
        place.run(&["--data", "data.jsonl", "--batch-size", "2", "--save-trace", "n.safetensors"]),
        1,
    );
    assert!(e.contains("give --batch-size 3") && !place.path("n.safetensors").exists(), "{e}");
    let long = "x".repeat(900);
    succeed(place.run(&["--question", &long, "--save-trace", "long.safetensors"]));
    let e = failure(ask("long.safetensors", &["--max-new-tokens", "1200"]), 1);
    assert!(e.contains("the trace ends at position 911") && e.contains("max_position_embeddings"), "{e}");
    assert!(failure(ask("t.safetensors", &["--control", "shuffled"]), 1).contains("shuffled"));
    failure(place.run(&["--load-trace", "t.safetensors"]), 2);

    // The same metadata, other tensors.
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let spoilt = |name: &str, change: &dyn Fn(&mut diffmas::checkpoint::NamedTensors)| {
        let mut tensors = read_safetensors(&place.path("t.safetensors")).unwrap();
        change(&mut tensors);
        write_safetensors(&place.path(name), &tensors, Some(metadata.clone())).unwrap();
        failure(ask(name, &[]), 1)
    };
    let key = "messages.0.layers.1.key";
    let e = spoilt("shape.safetensors", &|t| {
        let (shape, _) = t.get_mut(key).unwrap();
        shape.swap(1, 2);
    });
    assert!(e.contains(&format!("shape.safetensors: the tensor `{key}` has the shape [1, ")), "{e}");
    let e = spoilt("less.safetensors", &|t| drop(t.remove(key)));
    assert!(e.contains(&format!("the tensor `{key}` is missing")), "{e}");
    let e = spoilt("more.safetensors", &|t| drop(t.insert("z".into(), (vec![1], vec![0.0]))));
    assert!(e.contains("the tensor `z` belongs to no message"), "{e}");
    let e = spoilt("nan.safetensors", &|t| t.get_mut(key).unwrap().1[3] = f32::NAN);
    assert!(e.contains("not finite"), "{e}");
}

#[test]
fn thinking_is_told_to_the_chat_template() {
    let place = Place::new();
    let positions = |more: &[&str]| -> u64 {
        let answers = place.answers(&[&["--question", "q", "--json"][..], more].concat());
        answers[0]["trace_positions"].as_u64().unwrap()
    };
    let auto = positions(&[]);
    assert_eq!(positions(&["--think", "auto"]), auto);
    assert_eq!(positions(&["--think", "on"]), auto + "[on]".len() as u64);
    assert_eq!(positions(&["--think", "off"]), auto + "[offoff]".len() as u64);
    place.write("c.toml", "think = \"off\"\n");
    assert_eq!(positions(&["--config", "c.toml"]), auto + "[offoff]".len() as u64);
    assert_eq!(positions(&["--config", "c.toml", "--think", "on"]), auto + "[on]".len() as u64);
    assert!(failure(place.run(&["--question", "q", "--think", "yes"]), 2).contains("auto"));
    let config = json!({"eos_token": "<end>"});
    fs::write(place.path("tiny-llama/tokenizer_config.json"), config.to_string()).unwrap();
    let out = succeed(place.run(&["--question", "q", "--think", "on"]));
    assert!(text(out.stderr).contains("--think changes nothing"));
}

#[test]
fn quiet_says_nothing_verbose_says_more_and_rust_log_wins() {
    let place = Place::new();
    let notes = |more: &[&str], log: Option<&str>| {
        let mut c = place.run(&[&["--data", "data.jsonl"][..], more].concat());
        c.env_remove("RUST_LOG");
        if let Some(log) = log {
            c.env("RUST_LOG", log);
        }
        text(succeed(c).stderr)
    };
    assert_eq!(notes(&["--quiet"], None), "");
    let usual = notes(&[], None);
    assert!(usual.contains("answered 3/3") && !usual.contains("layers of width"), "{usual}");
    let verbose = notes(&["--verbose"], None);
    assert!(verbose.contains("layers of width") && verbose.contains("weights loaded"), "{verbose}");
    assert!(!notes(&["--verbose"], Some("error")).contains("layers of width"));
    assert!(notes(&["--quiet"], Some("debug")).contains("layers of width"));
    assert!(!verbose.contains('\u{1b}'), "no colours in a file");
    assert!(
        failure(place.run(&["--quiet", "--question", "a", "--control", "drop:clown"]), 1).contains("clown")
    );
    failure(place.run(&["--quiet", "--verbose"]), 2);
}

#[test]
fn every_command_s_help_ends_with_an_example_and_shells_complete_it() {
    let diffmas = |args: &[&str]| {
        let mut c = Command::cargo_bin("diffmas").unwrap();
        c.args(args);
        stdout(c)
    };
    let help = diffmas(&["--help"]);
    assert!(help.contains("Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted"), "{help}");
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> =
        names.map(|line| line.split_whitespace().next().unwrap()).filter(|n| *n != "help").collect();
    assert!(names.len() >= 5 && names.contains(&"completions"), "{names:?}");
    for name in &names {
        let help = diffmas(&[name, "--help"]);
        let last = help.rsplit("\n\n").next().unwrap();
        assert!(last.trim().starts_with(&format!("Example: diffmas {name}")), "{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = diffmas(&["completions", shell]);
        assert!(names.iter().all(|name| script.contains(name)) && script.contains("load-trace"), "{shell}");
    }
}

#[test]
fn what_agents_wrote_for_right_answers_becomes_training_data() {
    let place = Place::new();
    let text_channel = ["--channel", "text", "--message-tokens", "4", "--greedy"];
    let answer = stdout(place.run(&[&text_channel[..], &["--question", "why?"]].concat()));
    // What the team says is taken for right once, and another thing is.
    let line =
        |gold: &str| json!({"question": "why?", "answer": "x", "gold": gold, "level": 0.5}).to_string();
    place.write("asked.jsonl", &format!("{}\n{}\n", line(answer.trim()), line("never this")));
    let ask = ["--data", "asked.jsonl", "--save-trajectories", "told.jsonl", "--output", "answers.jsonl"];
    let said = succeed(place.run(&[&text_channel[..], &ask].concat()));
    assert!(text(said.stderr).contains("1 of 2 answers were right"));
    let told = fs::read_to_string(place.path("told.jsonl")).unwrap();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((told.len(), &told[0]["gold"], &told[0]["level"]), (1, &json!(answer.trim()), &json!(0.5)));
    let answers = fs::read_to_string(place.path("answers.jsonl")).unwrap();
    let first: Value = serde_json::from_str(answers.lines().next().unwrap()).unwrap();
    let written = &told[0]["trajectories"]["planner"];
    assert!(written == &first["messages"]["planner"] && !written.as_str().unwrap().is_empty(), "{first}");
    assert!(failure(place.run(&[&text_channel[..], &ask].concat()), 1).contains("--overwrite"));

    let flags = "train --model tiny-llama --system team.toml --data told.jsonl --output run --max-steps 2 \
                 --phase-preset individual-then-joint";
    let mut train = Command::cargo_bin("diffmas").unwrap();
    train.current_dir(place.dir.path()).args(flags.split_whitespace());
    succeed(train);
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let metrics: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&metrics[0]["phase"], &metrics[1]["phase"]), (&json!("individual"), &json!("joint")));
    assert!(metrics[0]["trajectory_loss"].as_f64().unwrap() > 0.0 && metrics[1]["trajectory_loss"].is_null());
}
