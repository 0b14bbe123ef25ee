//! The examples, compiled into this program so that they are never stale, on the reference's tiny models.

#[allow(dead_code)]
#[path = "suite/common.rs"]
mod common;
#[allow(dead_code)]
#[path = "../examples/custom_channel.rs"]
mod custom_channel;
#[allow(dead_code)]
#[path = "../examples/custom_topology.rs"]
mod custom_topology;
#[allow(dead_code)]
#[path = "../examples/gradient_attenuation.rs"]
mod gradient_attenuation;
#[allow(dead_code)]
#[path = "../examples/logits.rs"]
mod logits;
#[allow(dead_code)]
#[path = "../examples/pretrain_tiny/main.rs"]
mod pretrain_tiny;
#[allow(dead_code)]
#[path = "../examples/quickstart.rs"]
mod quickstart;
#[allow(dead_code)]
#[path = "../examples/vectors_channel.rs"]
mod vectors_channel;

use std::fs;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use common::{Case, MODELS, close, folder, json, numbers, same_gradients, samples, slopes};
use diffmas::agents::TeamBatch;
use diffmas::backbone::{ModelFiles, Parameters, Positions, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::checkpoint::read_safetensors;
use logits::logits;
use serde_json::json;

/// A copy of a reference model in `dir`, with a tokenizer whose tokens are single letters.
fn with_tokenizer(model: &str, dir: &Path) {
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder(model).join("model").join(file), dir.join(file)).unwrap();
    }
    let letters = (' '..='~').map(|c| c.to_string());
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let vocab: serde_json::Map<_, _> =
        special.into_iter().chain(letters).enumerate().map(|(i, token)| (token, i.into())).collect();
    let tokenizer = json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn quickstart_answers_as_the_program_does_with_the_same_team() {
    let dir = tempfile::tempdir().unwrap();
    with_tokenizer("tiny-qwen3", dir.path());
    let model = dir.path().to_str().unwrap();
    let team = dir.path().join("team.toml");
    fs::write(&team, toml::to_string(&quickstart::team()).unwrap()).unwrap();
    let mut answers = Vec::new();
    for question in ["2 + 3?", "Who?"] {
        let mut program = assert_cmd::Command::cargo_bin("diffmas").unwrap();
        program.args(["run", "--greedy", "--max-new-tokens", "64", "--model", model, "--question", question]);
        let out = program.arg("--system").arg(&team).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let answer = quickstart::ask(model, question).unwrap();
        assert_eq!(answer.trim(), String::from_utf8(out.stdout).unwrap().trim());
        answers.push(answer);
    }
    assert_ne!(answers[0], answers[1], "the question reaches the team");
}

#[test]
fn logits_with_an_adapter_give_the_losses_of_pytorch() {
    let kind = BackendKind::default_kind().unwrap();
    for model in MODELS {
        // The solver alone, positions from 0: a plain causal language model with the adapter on.
        let want = numbers(&json(model, "expected.json")["variants"]["nll_controls"]["none"]["nll"]);
        let sample = samples(&json(model, "input.json")).remove(0);
        let (prompt, target) = (sample.prompts.last().unwrap(), sample.target.unwrap());
        let ids: Vec<u32> = prompt.iter().chain(&target).copied().collect();
        let path = folder(model).join("model");
        let adapter = folder(model).join("adapter");
        let out = logits(kind, path.to_str().unwrap(), Some(&adapter), &ids).unwrap();
        assert_eq!(out.shape[0], ids.len());
        assert_eq!(want.len(), target.len());
        for (i, (&token, want)) in target.iter().zip(want).enumerate() {
            let row = &out.values[(prompt.len() - 1 + i) * out.shape[1]..][..out.shape[1]];
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            close(
                sum.ln() - f64::from(row[token as usize]),
                want,
                want,
                1e-5,
                &format!("{model} target {i}"),
            );
        }
    }
}

#[test]
fn logits_answer_an_unknown_token_with_a_sentence() {
    let path = folder("tiny-llama").join("model");
    let kind = BackendKind::default_kind().unwrap();
    let error = logits(kind, path.to_str().unwrap(), None, &[1, 99_999]).err().unwrap().to_string();
    assert_eq!(error, "--ids holds 99999, but the model has only 512 tokens");
}

#[test]
fn experts_of_a_custom_topology_run_together_and_the_judge_answers() {
    let dir = tempfile::tempdir().unwrap();
    with_tokenizer("tiny-qwen3", dir.path());
    let (answer, stages) = custom_topology::ask(dir.path().to_str().unwrap(), "Is a whale a fish?").unwrap();
    let names: Vec<Vec<&str>> = stages.iter().map(|s| s.iter().map(String::as_str).collect()).collect();
    assert_eq!(names, [vec!["biologist", "linguist"], vec!["critic"], vec!["judge"]]);
    assert!(!answer.is_empty());
}

#[test]
fn vectors_of_a_fixed_size_learn_to_tell_what_only_the_sender_knows() {
    let dir = tempfile::tempdir().unwrap();
    with_tokenizer("tiny-qwen3", dir.path());
    let data = dir.path().join("data.jsonl");
    let line = |(question, answer)| format!("{}\n", json!({"question": question, "answer": answer}));
    fs::write(&data, [("a", "x"), ("bbbbbb", "y")].map(line).concat()).unwrap();
    let learned = vectors_channel::learn(dir.path().to_str().unwrap(), data.to_str().unwrap(), 60).unwrap();
    assert_eq!(learned.bytes, 4 * 64 * size_of::<f32>());
    // A solver that knows nothing of the question cannot go below ln 2 on the token that tells the two answers apart.
    let (first, last) = (learned.losses[0], learned.losses.last().unwrap());
    assert!(*last < 0.25 * first && *last < f64::ln(2.0) / 2.0, "{first} -> {last}");
}

struct Windows;

impl Job for Windows {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let backbone = ModelFiles::open(&folder("tiny-qwen3").join("model"))
            .unwrap()
            .load::<B>(&device, Precision::default())
            .unwrap();
        let model = custom_channel::team(backbone, 2);
        let input = json("tiny-qwen3", "input.json");
        let mut sample = samples(&input).remove(0);
        sample.prompts.remove(0);
        let batch = TeamBatch::new(&[&sample]);
        let p = model.init(0);
        assert_eq!(model.bind(&p).think_all(&batch).positions(0), 4);
        // It is differentiated like any other channel.
        let case = Case { model: &model, batch: &batch, through: &[true; 3], lambda: 0.0 };
        let got = case.recomputed(&p).gradients;
        same_gradients(&got, &case.end_to_end(&p).1, 1e-4, "window");
        slopes(|p| case.loss(p), &p, &got, 1e-2, 2e-3, "window");
        assert!(got.get("window.gain").clone().into_scalar().elem::<f64>() != 0.0);
    }
}

#[test]
fn a_channel_from_outside_the_library_is_trained_like_its_own() {
    BackendKind::default_kind().unwrap().run(None, Windows).unwrap();
}

#[test]
fn gradients_of_chains_are_measured_and_drawn() {
    let job = gradient_attenuation::Measure {
        model: folder("tiny-qwen3").join("model"),
        agents: vec![2, 3],
        seeds: vec![1],
        updates: 1,
    };
    let rows = BackendKind::default_kind().unwrap().run(None, job).unwrap().unwrap();
    assert_eq!(rows.len(), 16);
    for row in &rows {
        assert_eq!(row.norms.len(), row.agents - 1);
        assert!(row.norms.iter().all(|&n| n > 0.0), "{}: {:?}", row.carrier, row.norms);
        let states = if row.carrier.starts_with("overwrite") { row.agents - 2 } else { 0 };
        assert!(row.jacobians.len() == states && row.jacobians.iter().all(|&j| j > 0.0), "{}", row.carrier);
    }
    let text = gradient_attenuation::csv(&rows);
    assert_eq!(text.lines().count(), 1 + rows.iter().map(|r| r.norms.len()).sum::<usize>());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plot.svg");
    gradient_attenuation::plot(&rows, &path).unwrap();
    assert!(fs::read_to_string(path).unwrap().contains("overwrite, gated"));
}

/// Logits of the tiny model by the example's own transformer and by the library's backbone.
struct Pretrained<'a>(&'a Path);

impl Job for Pretrained<'_> {
    type Output = [Vec<f64>; 2];

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let backbone = ModelFiles::open(self.0).unwrap().load::<B>(&device, Precision::default()).unwrap();
        let sizes = pretrain_tiny::model::Sizes::tiny(backbone.config.vocab_size);
        let stored = read_safetensors(&self.0.join("model.safetensors")).unwrap();
        let matrix = |(name, (shape, values)): (String, (Vec<usize>, Vec<f32>))| {
            let shape = [if shape.len() == 1 { 1 } else { shape[0] }, shape[shape.len() - 1]];
            (name, Tensor::<B, 2>::from_data(TensorData::new(values, shape), &device))
        };
        let weights: Parameters<B> = stored.into_iter().map(matrix).collect();
        let ids: Vec<u32> = (3..13).collect();
        let at: Vec<i64> = (0..10).collect();
        let words: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let own = sizes.logits(&weights, &words, 1, &at);
        let positions = Positions::issue(&[true; 10], &mut [0]);
        let (hidden, _) = backbone.forward(backbone.embed(&ids), &positions, &[], None, None);
        [own, backbone.logits(hidden)].map(|t| t.into_data().iter::<f64>().collect())
    }
}

#[test]
fn a_tiny_model_is_trained_written_and_read_by_the_library() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("tiny");
    fs::create_dir(&output).unwrap();
    let job = pretrain_tiny::Pretrain { output: output.clone(), steps: 2, questions: 32 };
    BackendKind::default_kind().unwrap().run(None, job).unwrap().unwrap();
    let [own, library] = BackendKind::default_kind().unwrap().run(None, Pretrained(&output)).unwrap();
    let largest = own.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(own.iter().zip(&library).all(|(a, b)| (a - b).abs() < 1e-5 * largest), "{own:?}\n{library:?}");
    let card = fs::read_to_string(output.join("README.md")).unwrap();
    assert!(card.contains("2 updates") && card.contains("(32 each"), "{card}");
}
