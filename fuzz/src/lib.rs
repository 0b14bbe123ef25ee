//! The readers of everything that a user hands in or a hub answers, each as a function of bytes. They may refuse their input, but not panic, and what
//! they accept must make sense.
//!
//! `cargo +nightly fuzz run --features libfuzzer NAME` runs one guided by coverage, which needs a nightly compiler; a stable one checks that
//! all of them compile (`cargo check -p diffmas-fuzz --features libfuzzer`). `tests/fuzz` runs them on seeded mutations of valid files in the ordinary tests. A new kind of
//! file needs a function here, a line in [`TARGETS`], and a file in `fuzz_targets`.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use diffmas::agents::{PromptBuilder, TeamConfig};
use diffmas::backbone::BackboneConfig;
use diffmas::backends::Flex;
use diffmas::bench::{BenchRecord, Comparison};
use diffmas::checkpoint::hub::answer::{self, ContentRange, Etag, FileHeaders, Listing};
use diffmas::checkpoint::{AdapterConfig, GgufWeights, SafetensorsWeights, Weights};
use diffmas::communication::{Fingerprint, MessageDtype, ReceivedMessages, TraceOwner};
use diffmas::text::{Answers, ChatMessage, ChatTemplate, DataSource, Thinking, Tokenizer, read_samples};

/// A fuzzed reader.
pub type Target = fn(&[u8]);

/// Every reader by name.
pub const TARGETS: [(&str, Target); 12] = [
    ("safetensors", safetensors),
    ("gguf", gguf),
    ("peft", peft),
    ("model_config", model_config),
    ("jsonl", jsonl),
    ("parquet", parquet),
    ("team", team),
    ("trace", trace),
    ("hub_answer", hub_answer),
    ("tokenizer", tokenizer),
    ("chat_template", chat_template),
    ("bench", bench),
];

/// The weights of a folder: the table of tensors and their values.
pub fn safetensors(data: &[u8]) {
    let path = file("model.safetensors", data);
    if let Ok(weights) = SafetensorsWeights::open(path.parent().expect("the file lies in a folder")) {
        read_all(&weights);
    }
}

/// A GGUF file: tensors, configuration, tokenizer and chat template.
pub fn gguf(data: &[u8]) {
    let path = file("model.gguf", data);
    let Ok(weights) = GgufWeights::open(&path) else { return };
    read_all(&weights);
    if let Ok(config) = BackboneConfig::from_gguf(&weights) {
        sensible(&config);
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&path, weights.content())
        && let Ok(ids) = tokenizer.encode("ab ba <end> \u{e9}")
    {
        let _ = tokenizer.decode(&ids);
    }
}

/// `adapter_config.json` of PEFT.
pub fn peft(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = PathBuf::from("adapter_config.json");
    let Ok(config) = AdapterConfig::from_json(&path, text) else { return };
    for module in ["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"] {
        let _ = config.targets(module);
        assert!(config.rank(module) > 0 && config.scaling(module) > 0.0, "{config:?}");
    }
    let again = AdapterConfig::from_json(&path, &config.to_json()).expect("what is written is read");
    assert_eq!((again.r, &again.rank_pattern), (config.r, &config.rank_pattern));
    assert_eq!(again.target_modules, config.target_modules);
}

/// `config.json` of a model.
pub fn model_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = BackboneConfig::from_json(&PathBuf::from("config.json"), text) {
        sensible(&config);
    }
}

/// A Parquet file of data.
pub fn parquet(data: &[u8]) {
    let source = DataSource::from(file("data.parquet", data));
    for answers in [Answers::Required, Answers::Optional] {
        let samples = read_samples(&source, answers).unwrap_or_default();
        assert!((1..).zip(&samples).all(|(row, sample)| sample.line == row || sample.question > 1));
    }
}

/// A data file, and the prompts that the built-in team makes of its lines.
pub fn jsonl(data: &[u8]) {
    let path = file("data.jsonl", data);
    let builder = PromptBuilder::new(&TeamConfig::preset().agents, None).expect("the built-in team is valid");
    let lines = data.iter().filter(|&&b| b == b'\n').count() + 1;
    for answers in [Answers::Required, Answers::Optional] {
        for sample in read_samples(&DataSource::from(&path), answers).unwrap_or_default() {
            assert!((1..=lines).contains(&sample.line));
            let _ = builder.messages(&path, &sample, 0);
            if let Ok(built) = builder.build(&path, &sample, 512) {
                assert!(built.prompts.iter().all(|ids| !ids.is_empty() && ids.iter().all(|&id| id < 512)));
            }
        }
    }
}

/// A team file and its templates.
pub fn team(data: &[u8]) {
    let Ok(team) = TeamConfig::read(&file("team.toml", data)) else { return };
    let _ = PromptBuilder::new(&team.agents, None);
    let text = toml::to_string(&team).expect("a team can be written");
    let again = TeamConfig::read(&file("again.toml", text.as_bytes())).expect("what is written is read");
    assert_eq!(again, team);
}

/// The `bench.json` of an earlier bench.
pub fn bench(data: &[u8]) {
    let Ok(before) = BenchRecord::read(&file("bench.json", data)) else { return };
    let text = serde_json::to_string(&before).expect("a record can be written");
    let again = BenchRecord::read(&file("again.json", text.as_bytes())).expect("what is written is read");
    assert_eq!(again, before);
    let comparison = Comparison { now: &again, before: &before, name: "bench.json".into() };
    assert!(comparison.differences().is_empty());
    assert!(!comparison.markdown().contains("NaN"));
}

/// A trace file.
pub fn trace(data: &[u8]) {
    let path = file("trace.safetensors", data);
    let dtypes = MessageDtype::NAMES.iter().map(|name| name.parse().expect("one of the names"));
    dtypes.for_each(|dtype| {
        with_trace_owner(dtype, |owner| {
            let Ok(trace) = ReceivedMessages::<Flex>::read(&path, owner, &Default::default()) else { return };
            for message in &trace.messages {
                assert!(message.sender + 1 < owner.agents.len());
                if let Some(segment) = &message.segment {
                    assert!(segment.prompt_len <= segment.kv.len());
                    assert_eq!(segment.kv.positions.batch, trace.start.len());
                }
                if let Some(vectors) = &message.vectors {
                    assert_eq!(vectors.values.dims(), [trace.start.len(), 2, 3]);
                }
            }
            let _ = diffmas::backbone::KeyValues::cat(&trace.segments().collect::<Vec<_>>());
            let again = self::file("again.safetensors", &[]);
            trace.write(&again, owner).expect("what was read can be written");
            let again = ReceivedMessages::<Flex>::read(&again, owner, &Default::default())
                .expect("what is written is read");
            let bytes = |trace: &ReceivedMessages<_>| {
                (0..trace.start.len()).map(|row| trace.bytes(row, owner.dtype)).collect::<Vec<_>>()
            };
            assert_eq!((bytes(&again), again.start), (bytes(&trace), trace.start));
        })
    });
}

/// What a hub answers: a list of files, or headers about one, a line each.
pub fn hub_answer(data: &[u8]) {
    if let Ok(listing) = Listing::parse(data) {
        assert!(is_hash(&listing.commit, 40), "{listing:?}");
        for file in &listing.files {
            let mut parts = Path::new(&file.name).components();
            assert!(parts.all(|part| matches!(part, Component::Normal(_))), "{file:?}");
            assert!(!file.name.contains(char::is_control) && file.name.len() <= 1024, "{file:?}");
            assert_eq!(listing.file(&file.name).map(|found| &found.name), Some(&file.name));
        }
    }
    let text = String::from_utf8_lossy(data);
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(": ")).collect();
    let header = |name: &str| lines.iter().find(|line| line.0.eq_ignore_ascii_case(name)).map(|line| line.1);
    let mut headers = FileHeaders::default();
    headers.add(header);
    let asked = header("x-repo-commit").and_then(answer::commit).unwrap_or_default();
    if let Ok(etag) = headers.etag(&asked) {
        let digits = if matches!(etag, Etag::Git(_)) { 40 } else { 64 };
        assert!(is_hash(etag.hash(), digits), "{etag:?}");
    }
    let range = header("content-range");
    if let Ok(Some(bytes)) = headers.bytes(None, range, Some(7)) {
        assert!(bytes <= 500_000_000_000);
        let from = range.and_then(|range| ContentRange::parse(range).ok()).map_or(0, |range| range.from);
        assert!(from <= bytes);
    }
}

/// Whether `text` is so many hexadecimal digits, none of them a capital letter.
fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `tokenizer.json`, and after a NUL a text for it.
pub fn tokenizer(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let path = file("tokenizer.json", parts.next().unwrap_or_default());
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    file("tokenizer_config.json", br#"{"eos_token": "<end>"}"#);
    let folder = path.parent().expect("the file lies in a folder");
    let Ok(Some(tokenizer)) = Tokenizer::from_folder(folder) else { return };
    let _ = tokenizer.encode_plain(&text);
    let Ok(ids) = tokenizer.encode(&text) else { return };
    let mut stream = tokenizer.stream(&["<end>".to_string(), "b".to_string()]);
    for id in ids.into_iter().rev() {
        if stream.push(id).is_err() {
            return;
        }
    }
    let _ = stream.finish();
    assert!(!stream.text().contains('b'), "the text goes on after a stop text");
}

/// A chat template, on a short conversation.
pub fn chat_template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let clock = Instant::now();
    if let Ok(template) = ChatTemplate::new(source, &[("eos_token", "<end>")]) {
        let turns =
            [("system", "S"), ("user", "Q \u{e9}"), ("assistant", "<think>\n</think>\nA"), ("user", "R")];
        let turns = turns.map(|(role, content)| ChatMessage::new(role, content));
        let _ = template.render(&turns, None, true, Thinking::Off);
    }
    assert!(clock.elapsed() < Duration::from_secs(4), "it took {:?}", clock.elapsed());
}

/// Calls `f` with the owner of the traces that [`trace`] reads: a team of three on a model of one layer, whose messages are `dtype`.
pub fn with_trace_owner<T>(dtype: MessageDtype, f: impl FnOnce(TraceOwner<'_>) -> T) -> T {
    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}"#;
    let model =
        BackboneConfig::from_json(&PathBuf::from("config.json"), CONFIG).expect("a valid configuration");
    let fingerprint = Fingerprint { model: "m".into(), adapter: "a".into() };
    f(TraceOwner {
        model: &model,
        fingerprint: &fingerprint,
        agents: &["a", "b", "c"],
        vectors: Some([2, 3]),
        dtype,
    })
}

/// Reads every tensor, which has as many values as its shape says.
fn read_all(weights: &dyn Weights) {
    for name in weights.names() {
        let shape = weights.shape(&name).expect("a name that is listed has a shape");
        if let Ok(values) = weights.read_f32(&name) {
            assert_eq!(
                Some(values.len()),
                shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)),
                "{name}"
            );
        }
    }
}

/// What the backbone divides by and multiplies is neither 0 nor out of bounds.
fn sensible(config: &BackboneConfig) {
    let heads = (config.num_attention_heads, config.num_key_value_heads);
    assert!(heads.0 > 0 && heads.1 > 0 && heads.0.is_multiple_of(heads.1), "{config:?}");
    assert!(config.head_dim > 0 && config.head_dim.is_multiple_of(2) && config.vocab_size > 0, "{config:?}");
    assert!(heads.0.checked_mul(config.head_dim).is_some() && config.rms_norm_eps.is_finite(), "{config:?}");
}

/// A file of these bytes in this thread's own folder.
fn file(name: &str, data: &[u8]) -> PathBuf {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("there is room for temporary files");
    }
    FOLDER.with(|folder| {
        let path = folder.path().join(name);
        std::fs::write(&path, data).expect("there is room for temporary files");
        path
    })
}
