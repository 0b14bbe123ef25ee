//! An independent PyTorch reference in float64 for every channel, topology, feed, trajectory, phase and dropout, on the backend under
//! test. `tests/fixtures/golden/README.md` says what its cases are and how their weights are filled.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::common::*;
use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas::agents::{AdapterScope, PromptBuilder, Team, TeamConfig};
use diffmas::backbone::Parameters;
use diffmas::backends::{Job, ModelBackend};
use diffmas::evaluation::{Control, evaluate};
use diffmas::inference::{Answer, DecodeOptions, decode};
use diffmas::text::{Sample, SampleIds, TokenizedSample};
use diffmas::training::{Event, TrainConfig};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What every filler's seed string begins with.
const SEED: u32 = 20_260_421;

/// Tolerances, relative to the reference's number: of losses; of norms of gradients, whole, by part and by message; of a single tensor's
/// gradient, relative to its norm; and of what several updates end in.
const LOSS: f64 = 2e-5;
const GRADIENT: f64 = 3e-4;
const TENSOR: f64 = 1e-3;
const UPDATES: f64 = 1e-3;

/// Best two scores that are closer than this may change places in f32.
const GAP: f64 = 1e-3;

/// A team with its rows, and what the reference computes for them.
#[derive(Deserialize)]
struct Reference {
    name: String,
    /// Whose backbone and adapter it is.
    model: String,
    scope: AdapterScope,
    team: TeamConfig,
    rows: Vec<Row>,
    /// First updates under different settings, all rows in each.
    train: Vec<Update>,
    /// Norm of every tensor's gradient in updates called `full-…`, and its product with the tensor's probe.
    #[serde(default)]
    tensors: BTreeMap<String, [f64; 2]>,
    /// The losses of the first rows under a control.
    eval: BTreeMap<String, Vec<f64>>,
    /// The answer to each row.
    greedy: Option<Vec<Greedy>>,
    updates: Option<Run>,
    /// Whether the reference knows the gradients of messages.
    #[serde(default = "known")]
    messages: bool,
}

fn known() -> bool {
    true
}

#[derive(Deserialize)]
struct Row {
    /// Prompts in the order of the team file.
    agents: Vec<Vec<u32>>,
    target: Vec<u32>,
    /// Trajectories by role.
    #[serde(rename = "experts")]
    trajectories: Option<BTreeMap<String, Vec<u32>>>,
}

#[derive(Deserialize)]
struct Update {
    tag: String,
    /// Flags of `diffmas train`, each followed by its value.
    flags: Vec<Value>,
    /// A settings file beside them.
    config: Option<String>,
    loss: f64,
    trajectory_loss: f64,
    grad_norm: f64,
    /// By part: the first word of its parameters' names. Nothing in phases and with dropout.
    parts: Option<BTreeMap<String, f64>>,
    /// By sender; nothing while the channel is off.
    trace_grad_norm: Option<BTreeMap<String, f64>>,
}

#[derive(Deserialize)]
struct Greedy {
    tokens: Vec<u32>,
    /// The smallest distance of the best two scores.
    gap: f64,
}

/// Several updates.
#[derive(Deserialize)]
struct Run {
    flags: Vec<Value>,
    steps: Vec<Step>,
    /// The loss after the last one.
    after: f64,
    /// Norms of all parameters then.
    norms: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Step {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    clip_factor: f64,
}

/// Which test a case belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Group {
    Channels,
    Topologies,
    Feeds,
    TrajectoriesAndPhases,
    Dropout,
    Updates,
    Slots,
}

impl Group {
    fn of(case: &str) -> Self {
        match case.split('-').next().unwrap() {
            "experts" => Self::TrajectoriesAndPhases,
            _ if case.ends_with("-phases") => Self::TrajectoriesAndPhases,
            "vectors" | "hybrid" | "overwrite" => Self::Channels,
            "hierarchical" | "graph" => Self::Topologies,
            "feed" => Self::Feeds,
            "dropout" => Self::Dropout,
            "updates" => Self::Updates,
            "slots" => Self::Slots,
            _ => panic!("no test runs the case {case}"),
        }
    }
}

/// Checks all cases of a group, and tells everything that disagrees at once.
impl Job for Group {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        // Each file names the script that made it in tests/fixtures/golden/README.md.
        let file = if self == Self::Slots { "slots.json" } else { "expected.json" };
        let all: Vec<Reference> = serde_json::from_value(json("channels", file)).unwrap();
        let (mut runs, mut wrong, mut lines) = (0, 0, Vec::new());
        for case in all.iter().filter(|case| Self::of(&case.name) == self) {
            for (run, deviations) in case.check::<B>(&device) {
                runs += 1;
                wrong += usize::from(!deviations.is_empty());
                lines.extend(deviations.into_iter().map(|d| format!("{} {run}: {d}", case.name)));
            }
        }
        assert!(runs > 0, "{self:?}: no case");
        assert!(lines.is_empty(), "{self:?}: {wrong} of {runs} runs disagree\n{}", lines.join("\n"));
    }
}

impl Reference {
    /// Every run of the case by name, and what is wrong with it.
    fn check<B: ModelBackend>(&self, device: &B::Device) -> Vec<(String, Vec<String>)> {
        let g = self.load::<B>(device);
        let team = g.model.bind(&g.parameters);
        let mut runs: Vec<_> = self.train.iter().map(|u| (u.tag.clone(), self.update(&g, u))).collect();
        for size in [1, 3] {
            let scored = |(control, want): (&String, &Vec<f64>)| {
                (format!("{control} in batches of {size}"), scores(&team, &g.samples, size, control, want))
            };
            runs.extend(self.eval.iter().map(scored));
            let answered = |want| (format!("answers in batches of {size}"), answers(&team, &g, size, want));
            runs.extend(self.greedy.as_deref().map(answered));
        }
        runs.extend(self.updates.as_ref().map(|run| ("updates".into(), run.check(&g))));
        runs
    }

    /// The team with all weights of the reference, and the rows as its samples.
    fn load<B: ModelBackend>(&self, device: &B::Device) -> Golden<B> {
        let team = self.team.clone().ordered().unwrap();
        let mut g = Golden::<B>::load(&self.model, self.scope, |c| *c = team, device);
        let prompts = PromptBuilder::new(&g.model.layout.config.agents, None).unwrap();
        let vocab_size = g.model.backbone.config.vocab_size;
        let tokenized = |(row, line): (&Row, usize)| {
            let names = self.team.agents.iter().map(|a| a.name.clone());
            let ids = SampleIds {
                prompt_ids: names.zip(row.agents.iter().cloned()).collect(),
                target_ids: row.target.clone(),
                trajectory_ids: row.trajectories.clone().unwrap_or_default(),
            };
            let sample = Sample { line, ids: Some(ids), ..Sample::default() };
            prompts.build(self.name.as_ref(), &sample, vocab_size).unwrap()
        };
        g.samples = self.rows.iter().zip(1..).map(tokenized).collect();
        g.parameters.extend(filled(&g.model.init_modules(0)));
        g
    }

    /// What is wrong with the gradient of a first update.
    fn update<B: ModelBackend>(&self, g: &Golden<B>, want: &Update) -> Vec<String> {
        let config = train_config(&want.flags, want.config.as_deref());
        let batches = micro_batches(&g.samples, config.batch_size);
        assert!(batches.len() <= config.gradient_accumulation_steps, "{}: rows are left over", want.tag);
        let got = g.trainer(config).gradients(&batches);
        let mut off = vec![
            relative(got.loss, want.loss, LOSS, "loss"),
            relative(got.trajectory_loss, want.trajectory_loss, LOSS, "loss of trajectories"),
            relative(got.gradients.norm(), want.grad_norm, GRADIENT, "gradient"),
        ];
        let at = |norms: &BTreeMap<String, f64>, name: &str| norms.get(name).copied().unwrap_or(0.0);
        let messages = want.trace_grad_norm.clone().unwrap_or_default();
        let upstream = g.model.layout.config.upstream().iter().map(|a| &a.name);
        for (name, got) in upstream.zip(got.message_norms()).filter(|_| self.messages) {
            let (got, want) = (got.unwrap_or(0.0), at(&messages, name));
            off.push(relative(got, want, GRADIENT, &format!("gradient of {name}'s message")));
        }
        if let Some(parts) = &want.parts {
            for part in ["adapter", "cross_attention", "encoder", "feed", "overwrite", "slots"] {
                let own = got.gradients.iter().filter(|(name, _)| name.split('.').next() == Some(part));
                let own: Vec<f64> = own.flat_map(|(_, t)| values(t)).collect();
                off.push(relative(norm(&own), at(parts, part), GRADIENT, &format!("gradient of {part}")));
            }
        }
        if want.tag.starts_with("full-") {
            let found = got.gradients.iter().map(|(name, _)| name);
            for name in self.tensors.keys().chain(found).collect::<BTreeSet<_>>() {
                let got = got.gradients.find(name).map(values).unwrap_or_default();
                let probe = det_fill(&format!("{SEED}/probe/{name}"), got.len(), 1.0);
                let product: f64 = got.iter().zip(probe).map(|(x, v)| x * f64::from(v)).sum();
                let [want_norm, want_product] = self.tensors.get(name).copied().unwrap_or_default();
                let scale = want_norm.max(1e-6);
                off.push(deviation(norm(&got), want_norm, scale, TENSOR, &format!("{name}, norm")));
                off.push(deviation(product, want_product, scale, TENSOR, &format!("{name}, product")));
            }
        }
        off.into_iter().flatten().collect()
    }
}

impl Run {
    /// What is wrong with a run from `g` with these settings.
    fn check<B: ModelBackend>(&self, g: &Golden<B>) -> Vec<String> {
        let mut trainer = g.trainer(train_config(&self.flags, None));
        let mut steps = Vec::new();
        let record = |_: &diffmas::training::Trainer<B>, event: Event<'_>| {
            if let Event::Step { metrics, .. } = event {
                steps.push(metrics.clone());
            }
            Ok(())
        };
        trainer.train(&g.samples, None, || false, record).unwrap();
        assert_eq!(steps.len(), self.steps.len(), "updates");
        let mut off = Vec::new();
        for (i, (got, want)) in steps.iter().zip(&self.steps).enumerate() {
            let what = |part: &str| format!("update {i}, {part}");
            let number = |x: Option<f64>| x.unwrap_or(f64::NAN);
            off.push(relative(number(got.loss), want.loss, UPDATES, &what("loss")));
            off.push(relative(number(got.grad_norm), want.grad_norm, UPDATES, &what("gradient")));
            off.push(relative(got.clip_factor, want.clip_factor, UPDATES, &what("clip factor")));
            off.push(deviation(got.learning_rate, want.learning_rate, 1.0, 1e-9, &what("learning rate")));
        }
        let after =
            evaluate(&trainer.team(), &g.samples, &scoring(3, &Control::Real, 0), |_| Ok(())).unwrap();
        off.push(relative(after.loss, self.after, UPDATES, "loss after the last update"));
        for (name, want) in &self.norms {
            // These names leave a part of the module's path out.
            let got = values(trainer.parameters().get(&name.replace(".layers.", ".model.layers.")));
            off.push(relative(norm(&got), *want, UPDATES, &format!("{name} after the last update")));
        }
        off.into_iter().flatten().collect()
    }
}

/// What is wrong with the losses of rows under a control.
fn scores<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    size: usize,
    control: &str,
    want: &[f64],
) -> Vec<String> {
    let got = losses(team, &samples[..want.len()], size, &control.parse().unwrap());
    let row = |(i, (got, want)): (usize, (&f64, &f64))| relative(*got, *want, LOSS, &format!("row {i}"));
    got.iter().zip(want).enumerate().filter_map(row).collect()
}

/// What is wrong with the answers to all rows.
fn answers<B: ModelBackend>(team: &Team<B>, g: &Golden<B>, size: usize, want: &[Greedy]) -> Vec<String> {
    let stop_tokens = g.model.backbone.config.eos_token_ids.clone();
    let options =
        DecodeOptions { max_new_tokens: want[0].tokens.len(), stop_tokens, ..DecodeOptions::default() };
    let answer = |rows: &[TokenizedSample]| {
        let b = batch(rows);
        let context = team.read(&team.roll_out_all(&b));
        let sample_ids: Vec<u64> = (0..rows.len() as u64).collect();
        let prompt = b.prompts.last().unwrap();
        decode(team.answering(), prompt, &context, &options, &sample_ids, |_, _| ControlFlow::Continue(()))
            .unwrap()
    };
    let got = g.samples.chunks(size).flat_map(answer);
    let row = |(i, (got, want)): (usize, (Answer, &Greedy))| {
        // The token that ends an answer is no part of it.
        let end = want.tokens.iter().position(|t| options.stop_tokens.contains(t));
        let tokens = &want.tokens[..end.unwrap_or(want.tokens.len())];
        let wrong = got.token_ids != tokens && want.gap > GAP;
        wrong.then(|| format!("row {i}: {:?} instead of {tokens:?}", got.token_ids))
    };
    got.zip(want).enumerate().filter_map(row).collect()
}

/// How `got` deviates from `want`, unless it is within `tolerance` of it.
fn relative(got: f64, want: f64, tolerance: f64, what: &str) -> Option<String> {
    deviation(got, want, want.abs().max(1e-9), tolerance, what)
}

/// Settings of training by the names of flags, over those of a settings file.
fn train_config(flags: &[Value], file: Option<&str>) -> TrainConfig {
    let Value::Object(mut settings) = serde_json::to_value(TrainConfig::default()).unwrap() else {
        unreachable!("settings are a struct");
    };
    settings.extend(file.map(|text| toml::from_str::<Map<String, Value>>(text).unwrap()).unwrap_or_default());
    for flag in flags.chunks(2) {
        let name = flag[0].as_str().unwrap().trim_start_matches("--").replace('-', "_");
        let known = settings.insert(name, flag[1].clone());
        assert!(known.is_some(), "{} is no setting", flag[0]);
    }
    serde_json::from_value(Value::Object(settings)).unwrap()
}

/// What a team learns beside its adapters, filled as the reference does; all gates are half open.
fn filled<B: ModelBackend>(modules: &Parameters<B>) -> Parameters<B> {
    let fill = |(name, t): (&String, &Tensor<B, 2>)| {
        let [rows, cols] = t.dims();
        let bound = match name.split('.').collect::<Vec<_>>()[..] {
            ["cross_attention", _, "gate"] => return (name.clone(), t.full_like(0.5)),
            ["encoder", "queries", _] | ["cross_attention", "sender", _] | ["overwrite", "initial"] => 0.5,
            ["overwrite", "bias"] => 0.3,
            ["feed", "learned"] => 0.05,
            _ => (3.0 / rows as f64).sqrt(),
        };
        let data = TensorData::new(det_fill(&format!("{SEED}/{name}"), rows * cols, bound), [rows, cols]);
        let value = Tensor::from_data(data, &t.device());
        // A learned feed is near the identity.
        let value = if name == "feed.learned" { value + Tensor::eye(rows, &t.device()) } else { value };
        (name.clone(), value)
    };
    modules.iter().map(fill).collect()
}

#[test]
fn every_channel_has_the_numbers_of_pytorch() {
    on_backend(Group::Channels);
}

#[test]
fn every_topology_has_the_numbers_of_pytorch() {
    on_backend(Group::Topologies);
}

#[test]
fn every_feed_has_the_numbers_of_pytorch() {
    on_backend(Group::Feeds);
}

#[test]
fn trajectory_texts_and_phases_have_the_numbers_of_pytorch() {
    on_backend(Group::TrajectoriesAndPhases);
}

#[test]
fn communication_dropout_has_the_numbers_of_pytorch() {
    on_backend(Group::Dropout);
}

#[test]
fn several_updates_have_the_numbers_of_pytorch() {
    on_backend(Group::Updates);
}

#[test]
fn slots_have_the_numbers_of_pytorch() {
    on_backend(Group::Slots);
}
