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

use std::fs;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use common::{Case, MODELS, batch, close, folder, json, losses, numbers, same_gradients, samples, slopes};
use custom_channel::{Window, vectors_channel};
use diffmas::agents::{AdapterScope, AdapterSet, Base, Origin, TeamBatch, TeamConfig, TeamModel};
use diffmas::backbone::{ModelFiles, Parameters, Positions, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::checkpoint::read_safetensors;
use diffmas::communication::register;
use diffmas::evaluation::Control;
use diffmas::text::TokenizedSample;
use diffmas::training::{TrainConfig, Trainer};
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
fn trajectories_of_a_custom_topology_run_together_and_the_judge_answers() {
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
    let learned = vectors_channel::learn(
        vectors_channel::team(),
        dir.path().to_str().unwrap(),
        data.to_str().unwrap(),
        60,
    )
    .unwrap();
    assert_eq!(learned.bytes, 4 * 64 * size_of::<f32>());
    // A solver that knows nothing of the question cannot go below ln 2 on the token that tells the two answers apart.
    let (first, last) = (learned.losses[0], learned.losses.last().unwrap());
    assert!(*last < 0.25 * first && *last < f64::ln(2.0) / 2.0, "{first} -> {last}");
}

/// The team of the example's file, with `more` lines in the channel's table.
fn window_team(dir: &Path, more: &str) -> diffmas::Result<TeamConfig> {
    register::<Window>().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/custom_channel.toml");
    let text = fs::read_to_string(file).unwrap().replace("positions = 2\n", more);
    let path = dir.join("team.toml");
    fs::write(&path, text).unwrap();
    TeamConfig::read(&path)
}

struct Windows;

impl Job for Windows {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let backbone = ModelFiles::open(&folder("tiny-qwen3").join("model"))
            .unwrap()
            .load::<B>(&device, Precision::default())
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let team = window_team(dir.path(), "positions = 2\n").unwrap();
        let model = TeamModel::new(team, AdapterSet::none(), backbone);
        let input = json("tiny-qwen3", "input.json");
        let mut sample = samples(&input).remove(0);
        sample.prompts.remove(0);
        let batch = TeamBatch::new(&[&sample]);
        let p = model.init(0);
        assert_eq!(model.bind(&p).roll_out_all(&batch).positions(0), 4);
        // It is differentiated like any other channel.
        let case = Case { model: &model, batch: &batch, through: &[true; 3], lambda: 0.0 };
        let got = case.recomputed(&p).gradients;
        same_gradients(&got, &case.end_to_end(&p).1, 1e-4, "window");
        slopes(|p| case.loss(p), &p, &got, 1e-2, 2e-3, "window");
        assert!(got.get("window.gain").clone().into_scalar().elem::<f64>() != 0.0);
        self.saved_and_read(model, &[sample], dir.path());
    }
}

impl Windows {
    /// What a channel from outside learned is read again, with its table, by the team that wrote it and no other.
    fn saved_and_read<B: ModelBackend>(&self, model: TeamModel<B>, samples: &[TokenizedSample], dir: &Path) {
        let backbone = model.backbone.clone();
        let base = Base::new("tiny".into(), "0".repeat(64), &backbone.config, AdapterScope::Shared);
        let config = TrainConfig { learning_rate: 0.1, ..TrainConfig::default() };
        let parameters = model.init(0);
        let mut trainer = Trainer::new(config, model, parameters).unwrap().with_base(base);
        (0..3).for_each(|_| drop(trainer.update(&[batch(samples)], 0.1)));
        let gain = trainer.parameters().get("window.gain").clone().into_scalar().elem::<f64>();
        assert!((gain - 1.0).abs() > 0.05, "{gain}");
        trainer.write(dir).unwrap();
        let team = Origin::read(dir).unwrap().unwrap().team;
        assert_eq!(team, trainer.model().layout.config);
        assert!(
            fs::read_to_string(dir.join("team.toml")).unwrap().contains("[channel.window]\npositions = 2")
        );
        let read = |team: TeamConfig| {
            let (model, parameters) = TeamModel::open(dir, None, team, backbone.clone())?;
            Ok(model.bind(&parameters))
        };
        let own = losses(&trainer.team(), samples, 1, &Control::Real);
        assert_eq!(losses(&read(team).unwrap(), samples, 1, &Control::Real), own);
        let wider = tempfile::tempdir().unwrap();
        let wider = window_team(wider.path(), "positions = 3\n").unwrap();
        let origin = Origin::read(dir).unwrap().unwrap();
        let differences = origin.differences(&wider);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!(differences[0].1, "`channel.window.positions` is 3, but the adapter learned with 2");
        let refused: diffmas::Error = read(wider).err().unwrap();
        assert!(refused.to_string().contains("their `channel` is"), "{refused}");
    }
}

#[test]
fn a_wrong_key_in_the_table_of_a_channel_from_outside_names_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |more: &str| window_team(dir.path(), more).unwrap_err().to_string();
    let path = dir.path().join("team.toml").display().to_string();
    let error = refused("position = 2\n");
    assert_eq!(
        error,
        format!(
            "{path}, line 4: unknown key `position`; did you mean `positions`? (known here: `positions`)"
        )
    );
    let error = refused("positions = \"two\"\n");
    assert!(error.starts_with(&format!("{path}, line 4: invalid type: string")), "{error}");
    let error = refused("positions = 2\n[channel.zero]\n");
    assert!(error.contains("a team has one channel"), "{error}");
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
