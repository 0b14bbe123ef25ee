//! Reference models and numbers for integration tests, and the backend they run on.
//!
//! `DIFFMAS_TEST_BACKEND` names the backend; the default is that of the binary.

#[path = "../shared/filler.rs"]
pub mod filler;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas::agents::{
    AdapterScope, AdapterSet, AgentConfig, LossWeights, Objective, Team, TeamBatch, TeamConfig, TeamModel,
    TeamPlan, TeamStages, TokenCounts,
};
use diffmas::backbone::{ModelFiles, Parameters, Precision};
use diffmas::backends::{Autodiff, BackendKind, Job, ModelBackend};
use diffmas::evaluation::{Control, Scoring, evaluate};
use diffmas::processes::OneProcess;
use diffmas::text::TokenizedSample;
use diffmas::training::{
    CrossEntropy, FlatGradient, FlatLayout, Outcome, Recompute, TrainConfig, Trainer, end_to_end, recompute,
};
pub use filler::det_fill;
use serde_json::Value;

/// The models of the reference.
pub const MODELS: [&str; 4] = ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3-tied"];

/// Runs `job` on the backend under test.
pub fn on_backend<J: Job>(job: J) -> J::Output {
    under_test().run(None, job).unwrap()
}

/// The backend under test.
pub fn under_test() -> BackendKind {
    match std::env::var("DIFFMAS_TEST_BACKEND") {
        Ok(name) => name.parse().unwrap(),
        Err(_) => BackendKind::default_kind().unwrap(),
    }
}

/// The folder of a reference model.
pub fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(model)
}

/// Reads one of the reference's JSON files.
pub fn json(model: &str, file: &str) -> Value {
    let path = folder(model).join(file);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// The numbers of a JSON array.
pub fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// The reference's team: four roles, `latent_steps` from its input.
pub fn team(input: &Value) -> TeamConfig {
    let roles = input["agents"].as_array().unwrap();
    TeamConfig {
        latent_steps: input["latent_steps"].as_u64().unwrap() as usize,
        agents: roles.iter().map(|a| AgentConfig::named(a["role"].as_str().unwrap())).collect(),
        ..TeamConfig::default()
    }
}

/// The reference's samples: the main one, then the rows of other lengths.
pub fn samples(input: &Value) -> Vec<TokenizedSample> {
    let main = TokenizedSample {
        line: 1,
        prompts: input["agents"].as_array().unwrap().iter().map(|a| ids(&a["ids"])).collect(),
        target: Some(ids(&input["target"])),
        ..TokenizedSample::default()
    };
    let rows = input["rows"].as_array().unwrap().iter().zip(2..).map(|(row, line)| TokenizedSample {
        line,
        prompts: row["agents"].as_array().unwrap().iter().map(ids).collect(),
        target: Some(ids(&row["target"])),
        ..TokenizedSample::default()
    });
    std::iter::once(main).chain(rows).collect()
}

/// One batch of all `samples`.
pub fn batch(samples: &[TokenizedSample]) -> TeamBatch {
    TeamBatch::new(&samples.iter().collect::<Vec<_>>())
}

/// The micro-batches of an update on `samples`, `size` rows each, numbered through.
pub fn micro_batches(samples: &[TokenizedSample], size: usize) -> Vec<TeamBatch> {
    let numbers: Vec<u64> = (0..samples.len() as u64).collect();
    let each = samples.chunks(size).zip(numbers.chunks(size));
    each.map(|(rows, numbers)| batch(rows).numbered(numbers.to_vec())).collect()
}

/// A reference model on a device.
pub struct Golden<B: ModelBackend> {
    pub expected: Value,
    pub samples: Vec<TokenizedSample>,
    pub model: TeamModel<B>,
    /// Everything that the team learns.
    pub parameters: Parameters<B>,
}

impl<B: ModelBackend> Golden<B> {
    /// Loads `name` with the team changed by `change` and the reference's adapter in `scope`.
    pub fn load(
        name: &str,
        scope: AdapterScope,
        change: impl FnOnce(&mut TeamConfig),
        device: &B::Device,
    ) -> Self {
        Self::load_as(name, &folder(name).join("model"), Precision::default(), scope, change, device)
    }

    /// The same on the base of another file, stored as `precision` says.
    pub fn load_as(
        name: &str,
        model: &Path,
        precision: Precision,
        scope: AdapterScope,
        change: impl FnOnce(&mut TeamConfig),
        device: &B::Device,
    ) -> Self {
        let input = json(name, "input.json");
        let mut config = team(&input);
        change(&mut config);
        config.validate().unwrap();
        let backbone = ModelFiles::open(model).unwrap().load::<B>(device, precision).unwrap();
        let adapter = folder(name).join("adapter");
        let (adapters, mut parameters) = AdapterSet::read(&adapter, Some(scope), &config, &backbone).unwrap();
        if scope == AdapterScope::PerRole {
            parameters = refilled_per_role(&adapters, &parameters, &input);
        }
        let model = TeamModel::new(config, adapters, backbone);
        parameters.extend(model.init_modules(7));
        Self { expected: json(name, "expected.json"), samples: samples(&input), model, parameters }
    }

    /// A run over this team that starts from the reference's adapter.
    pub fn trainer(&self, config: TrainConfig) -> Trainer<B> {
        Trainer::new(config, self.model.clone(), self.parameters.clone()).unwrap()
    }

    /// The team without any adapter.
    pub fn bare(&self) -> Team<B> {
        self.model.clone().with_adapters(AdapterSet::none()).bind(&self.parameters)
    }
}

/// Scoring of loss alone.
pub fn scoring(batch_size: usize, control: &Control, seed: u64) -> Scoring<'_> {
    Scoring { batch_size, control, seed, writing: None, checking: None, processes: &OneProcess }
}

/// The loss of each row, in batches of `size`.
pub fn losses<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    size: usize,
    control: &Control,
) -> Vec<f64> {
    let mut all = Vec::new();
    evaluate(team, samples, &scoring(size, control, 3), |scores| {
        all.extend(scores.iter().map(|s| s.loss));
        Ok(())
    })
    .unwrap();
    all
}

/// One team on one batch, to be differentiated.
pub struct Case<'a, B: ModelBackend> {
    pub model: &'a TeamModel<B>,
    pub batch: &'a TeamBatch,
    /// Agents that the gradient goes through.
    pub through: &'a [bool],
    /// Weight of trajectories.
    pub lambda: f64,
}

/// A sum of gradients of `p` before any was added.
pub fn no_gradient<B: ModelBackend>(p: &Parameters<B>) -> FlatGradient<B> {
    let layout = FlatLayout::new(p.iter().map(|(name, value)| (name.clone(), value.dims())));
    let (_, first) = p.iter().next().expect("something that learns");
    FlatGradient::new(Arc::new(layout), &first.device())
}

/// What recomputation of a case tells.
pub struct Recomputed<B: ModelBackend> {
    outcome: Outcome<B>,
    /// By name; those that the loss does not depend on are missing.
    pub gradients: Parameters<B>,
}

impl<B: ModelBackend> std::ops::Deref for Recomputed<B> {
    type Target = Outcome<B>;

    fn deref(&self) -> &Outcome<B> {
        &self.outcome
    }
}

impl<B: ModelBackend> Case<'_, B> {
    pub fn plan(&self) -> TeamPlan {
        TeamPlan::new(&self.model.layout.config, self.batch, |rollout| {
            self.model.channel.inner.layout(rollout)
        })
    }

    /// Loss and gradients by recomputation.
    pub fn recomputed(&self, p: &Parameters<B>) -> Recomputed<B> {
        self.recomputed_on(&self.plan(), p)
    }

    /// The same on a plan of its own.
    pub fn recomputed_on(&self, plan: &TeamPlan, p: &Parameters<B>) -> Recomputed<B> {
        self.differentiated(plan, &CrossEntropy, p)
    }

    /// The same by another objective.
    pub fn recomputed_by(&self, objective: &dyn Objective<Autodiff<B>>, p: &Parameters<B>) -> Recomputed<B> {
        self.differentiated(&self.plan(), objective, p)
    }

    fn differentiated(
        &self,
        plan: &TeamPlan,
        objective: &dyn Objective<Autodiff<B>>,
        p: &Parameters<B>,
    ) -> Recomputed<B> {
        self.differentiated_in((Recompute::Always, false), plan, objective, p)
    }

    /// The same where `mode` says what is recomputed, and whether by layer.
    pub fn differentiated_in(
        &self,
        (mode, checkpointing): (Recompute, bool),
        plan: &TeamPlan,
        objective: &dyn Objective<Autodiff<B>>,
        p: &Parameters<B>,
    ) -> Recomputed<B> {
        let layers = self.model.backbone.layers.len();
        let (plan, keep) = &mode.divide(plan.clone(), layers, checkpointing);
        let outer = self.model.to_autodiff();
        let weights = &self.weights();
        let (model, batch, through) = (self.model, self.batch, self.through);
        let inner = TeamStages { model, batch, plan, objective: None, weights, through };
        let objective = Some(objective);
        let outer = TeamStages { model: &outer, batch, plan, objective, weights, through };
        let mut gradient = no_gradient(p);
        let leaves = p.leaves(|_| true);
        let outcome = recompute(&inner, &outer, p, &leaves, &inner.reached(), keep, &mut gradient);
        Recomputed { outcome, gradients: gradient.by_name() }
    }

    /// The same by plain autodiff over the whole team.
    pub fn end_to_end(&self, p: &Parameters<B>) -> (f64, Parameters<B>) {
        self.end_to_end_by(&CrossEntropy, p)
    }

    /// The same by another objective.
    pub fn end_to_end_by(
        &self,
        objective: &dyn Objective<Autodiff<B>>,
        p: &Parameters<B>,
    ) -> (f64, Parameters<B>) {
        self.end_to_end_of(&self.plan(), objective, p)
    }

    /// The same on a plan of its own.
    pub fn end_to_end_on(&self, plan: &TeamPlan, p: &Parameters<B>) -> (f64, Parameters<B>) {
        self.end_to_end_of(plan, &CrossEntropy, p)
    }

    fn end_to_end_of(
        &self,
        plan: &TeamPlan,
        objective: &dyn Objective<Autodiff<B>>,
        p: &Parameters<B>,
    ) -> (f64, Parameters<B>) {
        let outer = self.model.to_autodiff();
        let weights = &self.weights();
        let (batch, through) = (self.batch, self.through);
        let objective = Some(objective);
        let outer = TeamStages { model: &outer, batch, plan, objective, weights, through };
        let all = vec![true; plan.stages.len()];
        end_to_end(&outer, &p.leaves(|_| true), &all)
    }

    /// The loss alone, on the backend itself.
    pub fn loss(&self, p: &Parameters<B>) -> f64 {
        self.loss_by(&CrossEntropy, p)
    }

    /// The same on a plan of its own.
    pub fn loss_on(&self, plan: &TeamPlan, p: &Parameters<B>) -> f64 {
        self.loss_of(plan, &CrossEntropy, p)
    }

    /// The same by another objective.
    pub fn loss_by(&self, objective: &dyn Objective<B>, p: &Parameters<B>) -> f64 {
        self.loss_of(&self.plan(), objective, p)
    }

    fn loss_of(&self, plan: &TeamPlan, objective: &dyn Objective<B>, p: &Parameters<B>) -> f64 {
        let weights = &self.weights();
        let (model, batch, through) = (self.model, self.batch, self.through);
        let objective = Some(objective);
        let stages = TeamStages { model, batch, plan, objective, weights, through };
        recompute_forward(&stages, p)
    }

    fn weights(&self) -> LossWeights {
        let upstream = self.model.layout.config.agents.len() - 1;
        LossWeights::new(&TokenCounts::new(std::slice::from_ref(self.batch), upstream), self.lambda)
    }
}

/// The sum of all stages' losses.
fn recompute_forward<B: ModelBackend>(
    stages: &impl diffmas::agents::StageGraph<B>,
    p: &Parameters<B>,
) -> f64 {
    let mut messages: Vec<Vec<Tensor<B, 4>>> = Vec::new();
    let mut loss = 0.0;
    for stage in 0..stages.len() {
        let inputs = stages.reads(stage).iter().map(|&r| messages[r].clone()).collect();
        let out = stages.run(stage, p, inputs);
        loss += out.loss.map_or(0.0, |l| values(&l).iter().sum());
        messages.push(out.message);
    }
    loss
}

/// Asserts that two sets of gradients are the same, each tensor within `tolerance` of its norm.
#[track_caller]
pub fn same_gradients<B: Backend>(got: &Parameters<B>, want: &Parameters<B>, tolerance: f64, what: &str) {
    assert!(!want.is_empty(), "{what}: no gradients");
    for (name, want) in want.iter() {
        let want = values(want);
        let scale = norm(&want);
        let Some(got) = got.find(name) else {
            assert!(scale < 1e-12, "{what}: no gradient for {name}");
            continue;
        };
        let difference: Vec<f64> = values(got).iter().zip(&want).map(|(a, b)| a - b).collect();
        close(norm(&difference), 0.0, scale.max(1e-6), tolerance, &format!("{what} {name}"));
    }
}

/// The slope of `f` at 0 by five-point central differences of width `h`.
pub fn five_point(f: impl Fn(f64) -> f64, h: f64) -> f64 {
    (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)
}

/// Asserts that `gradients` are the slope of `loss` at `p`: five-point central differences along unit directions, the gradient's own and a
/// pseudo-random one, against `⟨∇f, v⟩`.
#[track_caller]
pub fn slopes<B: ModelBackend>(
    loss: impl Fn(&Parameters<B>) -> f64,
    p: &Parameters<B>,
    gradients: &Parameters<B>,
    h: f64,
    tolerance: f64,
    what: &str,
) {
    let random: Parameters<B> = p
        .iter()
        .map(|(name, t)| {
            let data = TensorData::new(det_fill(name, t.shape().num_elements(), 1.0), t.shape());
            (name.clone(), Tensor::from_data(data, &t.device()))
        })
        .collect();
    for (direction, v) in [("its own", gradients.clone()), ("a random", random)] {
        let v = v.clone().scaled(1.0 / v.norm());
        let at = |h: f64| {
            let mut moved = p.clone();
            moved.add(v.clone().scaled(h));
            loss(&moved)
        };
        let measured = five_point(at, h);
        let slope: f64 = gradients
            .iter()
            .map(|(name, t)| values(t).iter().zip(values(v.get(name))).map(|(a, b)| a * b).sum::<f64>())
            .sum();
        close(measured, slope, gradients.norm(), tolerance, &format!("{what}, {direction} direction"));
    }
}

/// Asserts that the gradient of each tensor is the slope of `loss` at `p`. One direction a tensor, half along its gradient and half at random,
/// so that neither a gradient of the wrong direction nor one that is missing passes.
#[track_caller]
pub fn slope_of_every_tensor<B: ModelBackend>(
    loss: impl Fn(&Parameters<B>) -> f64,
    p: &Parameters<B>,
    gradients: &Parameters<B>,
    what: &str,
) {
    for (name, value) in p.iter() {
        let n = value.shape().num_elements();
        let own = gradients.find(name).map_or_else(|| vec![0.0; n], |t| values(t));
        let random: Vec<f64> = det_fill(name, n, 1.0).into_iter().map(f64::from).collect();
        // Turned towards the gradient, so that the two never cancel.
        let turned: f64 = own.iter().zip(&random).map(|(x, y)| x * y).sum();
        let (a, b) = (norm(&own).max(1e-12), norm(&random).copysign(turned));
        let v: Vec<f64> = own.iter().zip(&random).map(|(x, y)| x / a + y / b).collect();
        let length = norm(&v);
        let v: Vec<f32> = v.iter().map(|x| (x / length) as f32).collect();
        let slope: f64 = own.iter().zip(&v).map(|(g, v)| g * f64::from(*v)).sum();
        let v = Tensor::<B, 2>::from_data(TensorData::new(v, value.shape()), &value.device());
        let at = |h: f64| {
            let mut moved = p.clone();
            moved.insert(name.clone(), value.clone() + v.clone().mul_scalar(h));
            loss(&moved)
        };
        // As short a step as moves the loss by a hundredth: where it moves by more, it is no longer a straight line.
        let measured = five_point(at, 1e-2 / norm(&own).max(1.0));
        // Rounding of the two losses, which are sums of f32, over the distance between them.
        let noise = 2e-4 * at(0.0).abs();
        let what = format!("{what}, {name}, whose gradient has norm {a:.1e}");
        close(measured, slope, 2e-2 * norm(&own) + noise, 1.0, &what);
    }
}

/// Each role's factors, filled as the reference does: seed string `{seed}/{role}/{tensor name}`.
fn refilled_per_role<B: ModelBackend>(
    adapters: &AdapterSet,
    parameters: &Parameters<B>,
    input: &Value,
) -> Parameters<B> {
    let (seed, b_bound) = (&input["lora"]["seed"], input["lora"]["b_bound"].as_f64().unwrap());
    let fill = |role: &String, (name, value): (&String, &Tensor<B, 2>)| {
        let shape = value.dims();
        let bound = if name.ends_with("lora_A") { (1.0 / shape[1] as f64).sqrt() } else { b_bound };
        let data =
            det_fill(&format!("{seed}/{role}/base_model.model.{name}.weight"), shape[0] * shape[1], bound);
        let data = Tensor::from_data(TensorData::new(data, shape), &value.device());
        (format!("adapter.{role}.{name}"), data)
    };
    let of_role = |role: &String| -> Vec<_> {
        parameters.within(&format!("adapter.{role}.")).iter().map(|factor| fill(role, factor)).collect()
    };
    adapters.adapters.keys().flat_map(of_role).collect()
}

/// The values of a tensor.
pub fn values<B: Backend, const D: usize>(t: &Tensor<B, D>) -> Vec<f64> {
    t.to_data().iter::<f64>().collect()
}

/// The Frobenius norm of several lists of values.
pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Asserts `got ≈ want` relative to `scale`.
#[track_caller]
pub fn close(got: f64, want: f64, scale: f64, tolerance: f64, what: &str) {
    if let Some(deviation) = deviation(got, want, scale, tolerance, what) {
        panic!("{deviation}");
    }
}

/// How `got` deviates from `want`, unless it is within `tolerance` of `scale`.
pub fn deviation(got: f64, want: f64, scale: f64, tolerance: f64, what: &str) -> Option<String> {
    let off = (got - want).abs();
    // Not a number is not close.
    let close = off <= tolerance * scale;
    (!close).then(|| format!("{what}: {got} instead of {want} (off by {:.2e} of {scale})", off / scale))
}

/// Asserts that `tensor` has the reference's norm and first values: `[norm, values…]`, within `tolerance` of the norm.
#[track_caller]
pub fn close_tensor(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    let scale = want[0];
    close(norm(got), scale, scale, tolerance, &format!("{what}, norm"));
    for (i, &w) in want[1..].iter().enumerate() {
        close(got[i], w, scale, tolerance, &format!("{what}[{i}]"));
    }
}

/// Asserts that gradients are those of the reference (`{module}.lora_A.weight: [norm, first 8]`) for adapter `adapter`.
#[track_caller]
pub fn close_gradients<B: Backend>(got: &Parameters<B>, want: &Value, adapter: &str, what: &str) {
    let want = want.as_object().unwrap();
    assert!(!want.is_empty());
    for (name, want) in want {
        let key = format!("adapter.{adapter}.model.{}", name.strip_suffix(".weight").unwrap());
        let want = numbers(want);
        match got.find(&key) {
            Some(t) => close_tensor(&values(t), &want, 2e-4, &format!("{what}, {key}")),
            None => assert!(want[0] < 1e-12, "{what}: no gradient for {key}, whose norm is {}", want[0]),
        }
    }
}
