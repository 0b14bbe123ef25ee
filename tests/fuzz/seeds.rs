//! The valid files that are damaged.

use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use diffmas::agents::TeamConfig;
use diffmas::backbone::{KeyValues, Positions, Precision, WeightDtype};
use diffmas::backends::{Flex, KeyValueBlock};
use diffmas::bench::{
    BenchConfig, BenchRecord, Column, ColumnEvent, Measurement, ModelRecord, Run, Shape, Work,
};
use diffmas::checkpoint::{NamedTensors, write_safetensors};
use diffmas::communication::{Message, MessageDtype, ReceivedMessages, Segment, Vectors};
use diffmas_fuzz::with_trace_owner;
use serde_json::{Value, json};

use crate::shared::{gguf, golden, line};

/// A bench of two columns, one of which failed.
fn bench() -> Vec<u8> {
    let runs = [0.5, 0.25].map(|seconds| Run { seconds, count: 512 });
    let model = ModelRecord::new("m", true, &Shape::Smollm2_135m.config());
    let mut record = BenchRecord::new(model, BenchConfig::default());
    for (backend, dtype) in [("flex", WeightDtype::F32), ("vulkan", WeightDtype::Bf16)] {
        let mut column = Column::new(backend, Precision::stored(dtype));
        column.add(ColumnEvent::Measured { measurement: Measurement::new(Work::Prefill, &runs) });
        column.add(ColumnEvent::Skipped { work: Work::LatentStep, reason: "too long".into() });
        column.add(ColumnEvent::Failed { reason: "out of memory".into() });
        record.columns.push(column);
    }
    serde_json::to_vec(&record).unwrap()
}

/// Valid files for the target `name`.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "safetensors" => vec![small_safetensors(), mixed_safetensors()],
        "gguf" => vec![gguf::tiny()],
        "peft" => {
            vec![fs::read(golden("tiny-llama").join("adapter/adapter_config.json")).unwrap(), patterns()]
        }
        "model_config" => models(),
        "jsonl" => vec![data()],
        "parquet" => parquet(),
        "trace" => MessageDtype::NAMES.iter().map(|name| two_messages(name.parse().unwrap())).collect(),
        "hub_answer" => vec![files_of_a_hub(), headers_of_a_hub()],
        "team" => vec![toml::to_string(&TeamConfig::preset()).unwrap().into(), small_team()],
        "tokenizer" => tokenizers(),
        "chat_template" => chat_templates(),
        "bench" => vec![bench()],
        _ => panic!("no valid file for the target `{name}`"),
    }
}

fn parquet() -> Vec<Vec<u8>> {
    let names = ["messages", "question-none", "question-snappy", "question-zstd"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
    names.map(|name| fs::read(folder.join(format!("{name}.parquet"))).unwrap()).to_vec()
}

fn small_safetensors() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let tensors = NamedTensors::from([
        ("a.weight".to_string(), (vec![2, 3], vec![0.5; 6])),
        ("b.bias".to_string(), (vec![4], vec![1.0; 4])),
        ("scalar".to_string(), (vec![], vec![2.0])),
    ]);
    write_safetensors(&path, &tensors, Some([("format".to_string(), "pt".to_string())].into())).unwrap();
    fs::read(path).unwrap()
}

/// Types of every width, and a tensor without values.
fn mixed_safetensors() -> Vec<u8> {
    let header = json!({
        "h": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]},
        "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
        "i": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
        "none": {"dtype": "F32", "shape": [0, 5], "data_offsets": [24, 24]},
    })
    .to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[1; 24]].concat()
}

fn patterns() -> Vec<u8> {
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 2.5, "target_modules": r".*\.(q|v)_proj",
        "rank_pattern": {r"layers\.1\..*": 8, "^q_proj": 2}, "alpha_pattern": {"v_proj": 1}, "use_rslora": true})
    .to_string()
    .into()
}

/// `config.json` of every tiny model in both spellings, and one with scaled rotary frequencies.
fn models() -> Vec<Vec<u8>> {
    let models = ["tiny-llama", "tiny-qwen2", "tiny-qwen3"].map(|name| golden(name).join("model"));
    let files =
        models.iter().flat_map(|dir| ["config.json", "config.legacy.json"].map(|file| dir.join(file)));
    let mut all: Vec<Vec<u8>> = files.map(|path| fs::read(path).unwrap()).collect();
    let scaled = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "eos_token_id": [1, 2],
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}});
    all.push(scaled.to_string().into());
    all
}

fn data() -> Vec<u8> {
    [
        line(&json!([1, 2]), &json!([3])),
        json!({"question": "q", "answer": "a", "level": 3}),
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        json!({"prompt": "p", "completion": "c\n\u{e9}"}),
    ]
    .map(|line| line.to_string())
    .join("\n")
    .into()
}

fn files_of_a_hub() -> Vec<u8> {
    let file = |name: &str, size: u64| json!({"rfilename": name, "size": size, "blobId": "a1".repeat(20)});
    json!({"id": "org/name", "sha": "c0ffee".repeat(6) + "0000", "tags": ["gguf"],
        "siblings": [file("config.json", 463), file("onnx/model.onnx", 1 << 33), {"rfilename": "a b.gguf"}]})
    .to_string()
    .into()
}

fn headers_of_a_hub() -> Vec<u8> {
    let (commit, etag, linked) = ("c0ffee".repeat(6) + "0000", "a1".repeat(20), "b2".repeat(32));
    format!(
        "ETag: W/\"{etag}\"\nX-Linked-Etag: \"{linked}\"\nX-Repo-Commit: {commit}\nX-Linked-Size: 10\n\
         Content-Range: bytes 3-9/10\n"
    )
    .into()
}

/// Tokenizers of words and of bytes with a rule for words, each with a text.
fn tokenizers() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-facts");
    let words = fs::read(folder.join("tokenizer.json")).unwrap();
    let end = json!({"id": 0, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let vocab = json!({"<end>": 0, "a": 1, "b": 2, "ab": 3, "<0xC3>": 4, "<0xA9>": 5, "\u{120}": 6});
    let file = |pre_tokenizer: Value, decoder: Value| {
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": {"type": "NFC"},
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": [["a", "b"]]}})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": "(a|b)+| ?\\w+"}, "behavior": "Isolated", "invert": false});
    let bytes = file(json!({"type": "Sequence", "pretokenizers": [split, byte_level]}), byte_level.clone());
    let fallback = file(
        Value::Null,
        json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}),
    );
    let texts = ["likes yuri", "ab ba <end> \u{e9}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "ab\u{e9}ab"];
    let files = [words, bytes.to_string().into(), fallback.to_string().into()];
    files.into_iter().zip(texts).map(|(file, text)| [&file, &[0][..], text.as_bytes()].concat()).collect()
}

/// Templates of real models, and one with what those leave out.
fn chat_templates() -> Vec<Vec<u8>> {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    let real = ["smollm2", "qwen3"].map(|model| {
        let config = fs::read(templates.join(model).join("tokenizer_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        config["chat_template"].as_str().unwrap().as_bytes().to_vec()
    });
    let other = "{% macro m(x, y='a') %}{{ x ~ y * 3 }}{% endmacro %}{% set n = namespace(l=[1], s='x') %}\
        {% for i in range(9) %}{% set n.l = n.l + [n.l] %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ m(n.s|replace('x', 'yy')) }}\
        {{ n.l[::2]|tojson(indent=2) }}{{ '%s %05d' % (n.l, 7) }}{{ '{0:>9}'.format(1)|indent(4)|center(80) }}\
        {% for m in messages recursive %}{{ loop.index }}{{ m.content.split()|batch(2, '-')|list }}{% endfor %}\
        {% filter upper %}{% block b %}{{ messages|map(attribute='role')|join(', ') }}{% endblock %}{% endfilter %}";
    real.into_iter().chain([other.into()]).collect()
}

fn small_team() -> Vec<u8> {
    "channel = \"trace\"\ntransmit = \"latent\"\nlatent_steps = 3\nfeed = \"soft\"\n\n[[agents]]\nname = \"a\"\n\
     system = '''{% if level is defined %}{{ level | upper }}{% endif %}'''\nuser = \"{{ question }}\"\n\
     latent_steps = 2\n\n[[agents]]\nname = \"b\"\nuser = \"{{ question[:3] ~ 'x' }}\"\n"
        .into()
}

/// The trace of two agents and two rows, one of them padded; the second agent sends vectors, too. Numbers are passed on as `dtype`.
fn two_messages(dtype: MessageDtype) -> Vec<u8> {
    let message = |sender: usize, ids: [u32; 6]| {
        let part = |x: f32| Tensor::<Flex, 4>::full([2, 2, 3, 2], x, &Default::default());
        let valid = vec![true, true, true, false, true, true];
        let positions = Positions { batch: 2, len: 3, ids: ids.to_vec(), valid };
        let layers = vec![KeyValueBlock { key: part(0.5), value: part(-1.0) }];
        let segment = Some(Segment { prompt_len: 2, kv: KeyValues { layers, positions } });
        let values = Tensor::full([2, 2, 3], 0.25, &Default::default());
        let vectors = (sender == 1).then(|| Vectors { values, valid: vec![true, false, true, true] });
        Message { sender, segment, vectors }
    };
    let messages = vec![message(0, [0, 1, 2, 0, 0, 1]), message(1, [3, 4, 5, 2, 2, 3])];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let received = ReceivedMessages { messages, start: vec![6, 4] };
    with_trace_owner(dtype, |owner| received.write(&path, owner)).unwrap();
    fs::read(path).unwrap()
}
