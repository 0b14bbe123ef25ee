//! Recomputation against plain autodiff, and both against finite differences.

use crate::common::*;
use diffmas::agents::{AdapterScope, FeedKind, TeamBatch, TeamPlan, TeamStages, Transmit};
use diffmas::backends::{Job, ModelBackend};
use diffmas::training::{Outcome, Parameters, end_to_end, recompute};

fn recomputed<B: ModelBackend>(
    g: &Golden<B>,
    p: &Parameters<B>,
    batch: &TeamBatch,
    through: &[bool],
) -> Outcome<B> {
    let outer = g.model.to_autodiff();
    let plan = TeamPlan::new(&g.model.config, batch);
    let (adapters, target_tokens) = (&g.adapters, batch.target_tokens());
    let inner = TeamStages { model: &g.model, adapters, batch, plan: &plan, target_tokens };
    let outer = TeamStages { model: &outer, adapters, batch, plan: &plan, target_tokens };
    recompute(&inner, &outer, p, &p.leaves(), through)
}

struct Oracle;

impl Job for Oracle {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        type Case = (AdapterScope, Transmit, FeedKind, usize, [bool; 4]);
        let cases: [Case; 6] = [
            (AdapterScope::Shared, Transmit::All, FeedKind::Identity, 3, [true; 4]),
            (AdapterScope::Shared, Transmit::Latent, FeedKind::Learned, 2, [true; 4]),
            (AdapterScope::PerRole, Transmit::Prompt, FeedKind::Identity, 2, [true; 4]),
            (AdapterScope::Shared, Transmit::All, FeedKind::Soft, 2, [false, true, true, true]),
            (AdapterScope::Shared, Transmit::All, FeedKind::Realign, 2, [true; 4]),
            (AdapterScope::Shared, Transmit::All, FeedKind::Identity, 0, [false, false, false, true]),
        ];
        for (scope, transmit, feed, steps, through) in cases {
            let what = format!("{scope:?} {transmit} {feed} T={steps} {through:?}");
            let change = |c: &mut diffmas::agents::TeamConfig| {
                (c.transmit, c.feed, c.latent_steps) = (transmit, feed, steps);
            };
            let g = Golden::<B>::load("tiny-qwen3", scope, change, &device);
            let p = g.model.parameters(&g.adapters);
            let b = batch(&g.samples);
            let got = recomputed(&g, &p, &b, &through);
            let outer = g.model.to_autodiff();
            let plan = TeamPlan::new(&g.model.config, &b);
            let stages = TeamStages {
                model: &outer,
                adapters: &g.adapters,
                batch: &b,
                plan: &plan,
                target_tokens: b.target_tokens(),
            };
            let (loss, want) = end_to_end(&stages, &p.leaves(), &through);
            close(got.loss, loss, loss, 1e-6, &what);
            assert!(want.len() > 40, "{what}: gradients of {} parameters", want.len());
            for (name, want) in want.iter() {
                let want = values(want);
                let scale = norm(&want);
                let Some(got) = got.gradients.find(name) else {
                    assert!(scale < 1e-12, "{what}: no gradient for {name}");
                    continue;
                };
                let difference: Vec<f64> = values(got).iter().zip(&want).map(|(a, b)| a - b).collect();
                close(norm(&difference), 0.0, scale.max(1e-6), 1e-4, &format!("{what} {name}"));
            }
        }
    }
}

#[test]
fn recomputation_equals_plain_autodiff() {
    on_backend(Oracle);
}

/// Five-point central differences of the loss along unit directions against `⟨∇f, v⟩`: the gradient's own, and a pseudo-random one.
struct FiniteDifferences {
    cases: [(Transmit, FeedKind); 2],
    step: f64,
    tolerance: f64,
}

impl Job for FiniteDifferences {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for model in MODELS {
            for (transmit, feed) in self.cases {
                let change = |c: &mut diffmas::agents::TeamConfig| {
                    (c.transmit, c.feed, c.latent_steps) = (transmit, feed, 2);
                };
                let g = Golden::<B>::load(model, AdapterScope::Shared, change, &device);
                let p = g.model.parameters(&g.adapters);
                let b = batch(&g.samples[1..]);
                let grads = recomputed(&g, &p, &b, &[true; 4]).gradients;
                let loss = |p: &Parameters<B>| -> f64 {
                    let team = g.model.bind(&g.adapters, p);
                    let plan = TeamPlan::new(&g.model.config, &b);
                    let trace = team.think_all(&b, &plan);
                    let target = b.target.as_ref().unwrap();
                    let nll = team.target_nll(&b.prompts[3], target, &trace, &plan.stages[3].start);
                    values(&nll).iter().sum::<f64>() / b.target_tokens() as f64
                };
                let random: Parameters<B> = p
                    .iter()
                    .map(|(name, t)| {
                        let data = det_fill(name, t.shape().num_elements(), 1.0);
                        let data = burn::tensor::TensorData::new(data, t.shape());
                        (name.clone(), burn::tensor::Tensor::from_data(data, &device))
                    })
                    .collect();
                for (direction, v) in [("its own", grads.clone()), ("a random", random)] {
                    let v = v.clone().scaled(1.0 / v.norm());
                    let at = |h: f64| {
                        let mut moved = p.clone();
                        moved.add(v.clone().scaled(h));
                        loss(&moved)
                    };
                    let h = self.step;
                    let measured = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                    let slope: f64 = grads
                        .iter()
                        .map(|(name, t)| {
                            values(t).iter().zip(values(v.get(name))).map(|(a, b)| a * b).sum::<f64>()
                        })
                        .sum();
                    let what = format!("{model} {transmit} {feed}, {direction} direction");
                    close(measured, slope, grads.norm(), self.tolerance, &what);
                }
            }
        }
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let cases = [(Transmit::All, FeedKind::Learned), (Transmit::Latent, FeedKind::Identity)];
    on_backend(FiniteDifferences { cases, step: 1e-3, tolerance: 2e-3 });
}
