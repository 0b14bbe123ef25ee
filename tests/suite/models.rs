//! Every kind of model and adapter that is read, tiny and from files, with the numbers of PyTorch, transformers and PEFT in float64.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use crate::common::*;
use diffmas::agents::{AdapterScope, AdapterSet, AgentConfig, Team, TeamConfig, TeamModel};
use diffmas::backbone::{ModelFiles, Parameters, Precision, merge};
use diffmas::backends::{Job, ModelBackend};
use diffmas::checkpoint::{NamedTensors, write_safetensors};
use diffmas::evaluation::Control;
use diffmas::inference::{DecodeOptions, decode};
use diffmas::text::TokenizedSample;
use diffmas::training::TrainConfig;
use serde::Deserialize;
use serde_json::Value;

/// What every filler's seed string begins with.
const SEED: u32 = 20_260_421;

/// A model with an adapter in a team of three, and what the reference computes for its rows; `scripts/make_model_fixtures.py` makes it.
#[derive(Deserialize)]
struct Kind {
    name: String,
    /// `config.json`.
    config: Value,
    /// Shapes of the model's tensors.
    tensors: BTreeMap<String, Vec<usize>>,
    /// `adapter_config.json`.
    adapter: Value,
    /// The adapter's tensors: what each is filled by, and its shape.
    factors: BTreeMap<String, Vec<Value>>,
    latent_steps: usize,
    rows: Vec<Row>,
    /// The mean over each row's target tokens.
    losses: Vec<f64>,
    /// The mean over all target tokens.
    loss: f64,
    /// Norm of every factor's gradient, and its product with the factor's probe.
    gradients: BTreeMap<String, [f64; 2]>,
    greedy: Vec<Greedy>,
}

#[derive(Deserialize)]
struct Row {
    agents: Vec<Vec<u32>>,
    target: Vec<u32>,
}

#[derive(Deserialize)]
struct Greedy {
    tokens: Vec<u32>,
    /// The smallest distance of the best two scores.
    gap: f64,
}

impl Kind {
    fn all() -> Vec<Self> {
        serde_json::from_value(json("", "models.json")).unwrap()
    }

    /// Writes the model to `dir/model` and the adapter to `dir/adapter`.
    fn write(&self, dir: &Path) {
        let [model, adapter] = ["model", "adapter"].map(|name| dir.join(name));
        for dir in [&model, &adapter] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(model.join("config.json"), self.config.to_string()).unwrap();
        fs::write(adapter.join("adapter_config.json"), self.adapter.to_string()).unwrap();
        let own = |(name, shape): (&String, &Vec<usize>)| (name.clone(), filled(name, shape.clone()));
        let weights: NamedTensors = self.tensors.iter().map(own).collect();
        write_safetensors(&model.join("model.safetensors"), &weights, None).unwrap();
        let factor = |(name, filler): (&String, &Vec<Value>)| {
            let shape = filler[1..].iter().map(|n| n.as_u64().unwrap() as usize).collect();
            (name.clone(), filled(filler[0].as_str().unwrap(), shape))
        };
        let factors: NamedTensors = self.factors.iter().map(factor).collect();
        write_safetensors(&adapter.join("adapter_model.safetensors"), &factors, None).unwrap();
    }

    fn samples(&self) -> Vec<TokenizedSample> {
        let sample = |(row, line): (&Row, usize)| TokenizedSample {
            line,
            prompts: row.agents.clone(),
            target: Some(row.target.clone()),
            ..TokenizedSample::default()
        };
        self.rows.iter().zip(1..).map(sample).collect()
    }

    fn check<B: ModelBackend>(&self, device: &B::Device) {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        let model = dir.path().join("model");
        let adapter = dir.path().join("adapter");
        let files = ModelFiles::open(&model).unwrap().with_saved_modules(&adapter).unwrap();
        let backbone = files.load::<B>(device, Precision::default()).unwrap();
        let agents = ["planner", "critic", "solver"].map(AgentConfig::named).to_vec();
        let team = TeamConfig { latent_steps: self.latent_steps, agents, ..TeamConfig::default() };
        let (adapters, parameters) =
            AdapterSet::read(&adapter, Some(AdapterScope::Shared), &team, &backbone).unwrap();
        let model = TeamModel::new(team, adapters, backbone);
        let samples = self.samples();
        let g = Golden { expected: Value::Null, samples, model, parameters };
        self.check_losses(&g.model.bind(&g.parameters), &g.samples, "adapted");
        self.check_merged::<B>(dir.path(), &g);
        // Whole modules are not trained.
        if self.adapter.get("modules_to_save").is_none() {
            self.check_gradients(&g);
        }
        self.check_answers(&g);
    }

    fn check_losses<B: ModelBackend>(&self, team: &Team<B>, samples: &[TokenizedSample], what: &str) {
        for size in [1, self.rows.len()] {
            let got = losses(team, samples, size, &Control::Real);
            for (got, want) in got.iter().zip(&self.losses) {
                close(*got, *want, *want, 1e-5, &format!("{} {what} in batches of {size}", self.name));
            }
        }
    }

    /// Base and adapter as one model.
    fn check_merged<B: ModelBackend>(&self, dir: &Path, g: &Golden<B>) {
        let [base, adapter, merged] = ["model", "adapter", "merged"].map(|name| dir.join(name));
        merge(&base, &adapter, &merged, None, |_| Ok(())).unwrap();
        let device = g.model.backbone.device();
        let merged = ModelFiles::open(&merged).unwrap().load::<B>(&device, Precision::default()).unwrap();
        let team = TeamModel::new(g.model.layout.config.clone(), AdapterSet::none(), merged);
        self.check_losses(&team.bind(&Parameters::default()), &g.samples, "merged");
    }

    fn check_gradients<B: ModelBackend>(&self, g: &Golden<B>) {
        let got = g.trainer(TrainConfig::default()).gradients(&micro_batches(&g.samples, 1));
        close(got.loss, self.loss, self.loss, 1e-5, &format!("{} loss", self.name));
        assert_eq!(got.gradients.iter().count(), self.gradients.len(), "{}", self.name);
        for (name, [norm_wanted, product_wanted]) in &self.gradients {
            let values = values(got.gradients.get(name));
            let probe = det_fill(&format!("{SEED}/probe/{name}"), values.len(), 1.0);
            let product: f64 = values.iter().zip(probe).map(|(x, v)| x * f64::from(v)).sum();
            let what = format!("{} gradient of {name}", self.name);
            close(norm(&values), *norm_wanted, *norm_wanted, 2e-4, &what);
            close(product, *product_wanted, *norm_wanted, 2e-4, &format!("{what}, product"));
        }
        let together = g.trainer(TrainConfig::default()).gradients(&[batch(&g.samples)]);
        close(together.loss, self.loss, self.loss, 1e-5, &format!("{} loss of one batch", self.name));
    }

    fn check_answers<B: ModelBackend>(&self, g: &Golden<B>) {
        let team = g.model.bind(&g.parameters);
        let b = batch(&g.samples);
        let context = team.read(&team.roll_out_all(&b));
        let max_new_tokens = self.greedy[0].tokens.len();
        let options = DecodeOptions { max_new_tokens, ..DecodeOptions::default() };
        let ids: Vec<u64> = (0..g.samples.len() as u64).collect();
        let prompt = b.prompts.last().unwrap();
        let answers =
            decode(team.answering(), prompt, &context, &options, &ids, |_, _| ControlFlow::Continue(()));
        for (got, want) in answers.unwrap().iter().zip(&self.greedy) {
            // Best two scores that are closer may change places in f32.
            assert!(got.token_ids == want.tokens || want.gap < 1e-3, "{}: {:?}", self.name, got.token_ids);
        }
    }
}

/// What the reference fills a tensor with.
fn filled(name: &str, shape: Vec<usize>) -> (Vec<usize>, Vec<f32>) {
    let count = shape.iter().product();
    let bound = match shape[..] {
        [_] => 0.2,
        _ if name.contains(".lora_B.") => 0.3,
        _ => (3.0 / shape[1] as f64).sqrt(),
    };
    let mut values = det_fill(&format!("{SEED}/{name}"), count, bound);
    if name.ends_with("norm.weight") {
        values.iter_mut().for_each(|x| *x += 1.0);
    }
    (shape, values)
}

struct AllKinds;

impl Job for AllKinds {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        Kind::all().iter().for_each(|kind| kind.check::<B>(&device));
    }
}

#[test]
fn every_kind_of_model_and_adapter_has_the_numbers_of_transformers_and_peft() {
    on_backend(AllKinds);
}
