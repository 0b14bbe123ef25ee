//! What a team learns by: distillation against numbers computed in f64 on the host, against finite differences, and at its ends.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::batches::open_team;
use crate::channels::Setting;
use crate::common::*;
use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas::agents::{ChannelKind, FeedKind, Loss, LossTerm, Objective, TeamBatch, Text, Topology};
use diffmas::backbone::Parameters;
use diffmas::backends::{Job, ModelBackend};
use diffmas::training::{CrossEntropy, Distillation, Teach, TrainConfig};

/// Numbers `[tokens, V]` of each sample's target, by the sample's number.
type PerToken = BTreeMap<u64, Vec<Vec<f64>>>;

/// What is known of each sample's target tokens, by the sample's number.
#[derive(Clone, Debug)]
struct Given<D> {
    numbers: BTreeMap<u64, TensorData>,
    device: D,
}

impl<D> Given<D> {
    fn rows<B: Backend<Device = D>>(&self, batch: &TeamBatch) -> Tensor<B, 2> {
        let row = |number| Tensor::from_data(self.numbers[number].clone(), &self.device);
        Tensor::cat(batch.numbers.iter().map(row).collect(), 0)
    }
}

impl<D: Send + Sync, B: ModelBackend<Device = D>> Teach<B> for Given<D> {
    fn log_probs(&self, batch: &TeamBatch) -> Tensor<B, 2> {
        self.rows(batch)
    }
}

fn given<D: Clone>(numbers: &PerToken, device: &D) -> Given<D> {
    let data = |rows: &Vec<Vec<f64>>| {
        let values: Vec<f32> = rows.iter().flatten().map(|x| *x as f32).collect();
        TensorData::new(values, [rows.len(), rows[0].len()])
    };
    let numbers = numbers.iter().map(|(n, rows)| (*n, data(rows))).collect();
    Given { numbers, device: device.clone() }
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max;
    logits.iter().map(|x| x - lse).collect()
}

/// The team's own logits at each target token, and the tokens.
fn predictions<B: ModelBackend>(
    g: &Golden<B>,
    p: &Parameters<B>,
    batch: &TeamBatch,
) -> (PerToken, BTreeMap<u64, Vec<u32>>) {
    let team = g.model.bind(p);
    let context = team.read(&team.roll_out_all(batch));
    let found = team.predict_target(batch.prompts.last().unwrap(), batch.target.as_ref().unwrap(), &context);
    let [_, vocabulary] = found.logits.dims();
    let (mut logits, mut tokens) = (PerToken::new(), BTreeMap::<u64, Vec<u32>>::new());
    let values = values(&found.logits);
    for ((own, row), token) in values.chunks_exact(vocabulary).zip(found.rows).zip(found.tokens) {
        let number = batch.numbers[row];
        logits.entry(number).or_default().push(own.to_vec());
        tokens.entry(number).or_default().push(token);
    }
    (logits, tokens)
}

/// Each row of `rows` replaced.
fn each(rows: &PerToken, change: impl Fn(u64, usize, &[f64]) -> Vec<f64>) -> PerToken {
    let own = |n: u64, rows: &Vec<Vec<f64>>| rows.iter().enumerate().map(|(i, x)| change(n, i, x)).collect();
    rows.iter().map(|(&n, rows)| (n, own(n, rows))).collect()
}

/// A teacher that knows nothing of the team.
fn stranger(like: &PerToken) -> PerToken {
    each(like, |n, i, x| {
        let logits = det_fill(&format!("teacher/{n}/{i}"), x.len(), 6.0);
        log_softmax(&logits.into_iter().map(f64::from).collect::<Vec<_>>())
    })
}

/// A loss that is linear in the logits of the target: its gradient with respect to them is given. Trajectories as ever.
#[derive(Debug)]
struct Linear<D>(Given<D>);

impl<D: Debug + Send + Sync, B: ModelBackend<Device = D>> Objective<B> for Linear<D> {
    fn loss(&self, term: LossTerm<'_, B>) -> Loss<B> {
        if term.text != Text::Target {
            return CrossEntropy.loss(term);
        }
        B::sum(term.predictions.logits * self.0.rows(term.batch)).mul_scalar(term.weight).into()
    }
}

const WEIGHT: f64 = 0.7;

struct Direct;

impl Job for Direct {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all() {
            let what = setting.name();
            let g = open_team::<B>(&setting, FeedKind::Identity, &device);
            let p = g.parameters.clone();
            let batch = &batch(&g.samples);
            let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.0 };
            let (logits, tokens) = predictions(&g, &p, batch);
            let teacher = stranger(&logits);
            let got = case.recomputed_by(&Distillation::new(given(&teacher, &device), WEIGHT), &p);

            // The loss of one token and its slope in each logit.
            let count: usize = tokens.values().map(Vec::len).sum();
            let mut loss = 0.0;
            for (n, rows) in &logits {
                for (i, row) in rows.iter().enumerate() {
                    let (log_q, log_p) = (log_softmax(row), &teacher[n][i]);
                    let kl: f64 = log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum();
                    let nll = -log_q[tokens[n][i] as usize];
                    loss += (WEIGHT * kl + (1.0 - WEIGHT) * nll) / count as f64;
                }
            }
            close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
            let slopes = each(&logits, |n, i, row| {
                let token = tokens[&n][i] as usize;
                let log_p = &teacher[&n][i];
                let slope = |(v, q): (usize, f64)| {
                    let target = WEIGHT * log_p[v].exp() + (1.0 - WEIGHT) * f64::from(v == token);
                    q.exp() - target
                };
                log_softmax(row).into_iter().enumerate().map(slope).collect()
            });
            let want = case.recomputed_by(&Linear(given(&slopes, &device)), &p);
            same_gradients(&got.gradients, &want.gradients, 1e-4, &what);
            same_gradients(&want.gradients, &got.gradients, 1e-4, &what);
        }
    }
}

#[test]
fn distillation_is_what_f64_says_in_value_and_in_the_gradient_of_every_tensor() {
    on_backend(Direct);
}

struct Slopes;

impl Job for Slopes {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for channel in [ChannelKind::TRACE, ChannelKind::HYBRID] {
            let mut setting = Setting::new(channel, Topology::Sequential);
            setting.trajectories = true;
            let g = open_team::<B>(&setting, FeedKind::Learned, &device);
            let p = g.parameters.clone();
            let batch = &batch(&g.samples);
            let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.5 };
            let objective =
                Distillation::new(given(&stranger(&predictions(&g, &p, batch).0), &device), WEIGHT);
            let gradients = case.recomputed_by(&objective, &p).gradients;
            slope_of_every_tensor(|p| case.loss_by(&objective, p), &p, &gradients, &setting.name());
        }
    }
}

#[test]
fn every_tensor_has_the_slope_of_the_distillation_loss() {
    on_backend(Slopes);
}

struct Ends;

impl Job for Ends {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut setting = Setting::new(ChannelKind::HYBRID, Topology::Sequential);
        setting.trajectories = true;
        let g = open_team::<B>(&setting, FeedKind::Identity, &device);
        let p = g.parameters.clone();
        let batch = &batch(&g.samples);
        let case = |lambda| Case { model: &g.model, batch, through: &[true; 4], lambda };
        let (logits, tokens) = predictions(&g, &p, batch);

        // Who has nothing to learn: the team is its own teacher.
        let own = Distillation::new(given(&each(&logits, |_, _, row| log_softmax(row)), &device), 1.0);
        let (got, scale) = (case(0.0).recomputed_by(&own, &p), case(0.0).recomputed(&p).gradients.norm());
        close(got.losses.iter().sum(), 0.0, 1.0, 1e-6, "divergence of a team from itself");
        close(got.gradients.norm(), 0.0, scale, 1e-5, "its gradient");

        // A teacher that is sure of the text, and one that is not asked.
        let sure = each(&logits, |n, i, row| {
            let mut log_p = vec![f64::NEG_INFINITY; row.len()];
            log_p[tokens[&n][i] as usize] = 0.0;
            log_p
        });
        let want = case(0.5).recomputed(&p);
        for (teacher, weight) in [(sure, 1.0), (stranger(&logits), 0.0)] {
            let got = case(0.5).recomputed_by(&Distillation::new(given(&teacher, &device), weight), &p);
            for (got, want) in got.losses.iter().zip(&want.losses) {
                close(*got, *want, 1.0, 1e-6, "a stage's loss");
            }
            same_gradients(&got.gradients, &want.gradients, 1e-5, "gradients of cross-entropy");
        }
    }
}

#[test]
fn a_team_learns_nothing_from_itself_and_from_a_sure_teacher_the_text() {
    on_backend(Ends);
}

struct Rows;

impl Job for Rows {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut setting = Setting::new(ChannelKind::HYBRID, Topology::Hierarchical);
        setting.trajectories = true;
        let g = open_team::<B>(&setting, FeedKind::Identity, &device);
        let numbers = vec![4, 0, 9];
        let all = batch(&g.samples).numbered(numbers.clone());
        let (logits, _) = predictions(&g, &g.parameters, &all);
        let teacher = given(&stranger(&logits), &device);
        let config = TrainConfig { trajectory_weight: 0.5, ..TrainConfig::default() };
        let trainer = g.trainer(config).with_objective(Distillation::new(teacher, WEIGHT));
        let together = trainer.gradients(&[all]);
        let rows = g.samples.iter().zip(numbers).rev();
        let rows: Vec<TeamBatch> = rows.map(|(s, n)| TeamBatch::new(&[s]).numbered(vec![n])).collect();
        let apart = trainer.gradients(&rows);
        close(together.loss, apart.loss, apart.loss, 1e-5, "loss");
        close(together.trajectory_loss, apart.trajectory_loss, apart.loss, 1e-5, "loss of trajectories");
        same_gradients(&together.gradients, &apart.gradients, 1e-3, "together");
        same_gradients(&apart.gradients, &together.gradients, 1e-3, "apart");
    }
}

#[test]
fn distillation_of_a_batch_is_the_sum_over_rows_wherever_they_stand() {
    on_backend(Rows);
}
