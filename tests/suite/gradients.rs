//! Recomputation against plain autodiff, and both against finite differences, on the trace channel.

use crate::bits::is_exact;
use crate::common::*;
use burn::prelude::*;
use diffmas::agents::{AdapterScope, AgentConfig, FeedKind, Transmit};
use diffmas::backbone::{KeyValues, Parameters};
use diffmas::backends::{Job, ModelBackend, autodiff};
use diffmas::communication::{Channel, ChannelPair, Context, ReceivedMessages};
use diffmas::text::TokenizedSample;

struct Oracle;

impl Job for Oracle {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        type Setting = (AdapterScope, Transmit, FeedKind, usize, [bool; 4]);
        let cases: [Setting; 6] = [
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
            let p = g.parameters.clone();
            let batch = &batch(&g.samples);
            let case = Case { model: &g.model, batch, through: &through, lambda: 0.0 };
            let got = case.recomputed(&p);
            let (loss, want) = case.end_to_end(&p);
            close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
            assert!(want.len() > 40, "{what}: gradients of {} parameters", want.len());
            same_gradients(&got.gradients, &want, 1e-4, &what);
        }
    }
}

#[test]
fn recomputation_equals_plain_autodiff() {
    on_backend(Oracle);
}

/// The trace copied together for each reader.
#[derive(Debug)]
struct Joined;

impl<B: ModelBackend> Channel<B> for Joined {
    fn read(&self, _: &Parameters<B>, received: &ReceivedMessages<B>) -> Context<B> {
        let joined = KeyValues::cat(&received.segments().collect::<Vec<_>>());
        Context { kv: joined.into_iter().collect(), hook: None, start: received.start.clone() }
    }
}

struct TwelveAgents;

impl Job for TwelveAgents {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for transmit in [Transmit::All, Transmit::Latent] {
            let change = |c: &mut diffmas::agents::TeamConfig| {
                c.agents = (0..12).map(|j| AgentConfig::named(format!("agent{j}"))).collect();
                (c.transmit, c.latent_steps) = (transmit, 2);
            };
            let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, change, &device);
            let p = g.parameters.clone();
            let samples: Vec<TokenizedSample> = (0..2)
                .map(|i| {
                    let prompts = |j: usize| g.samples[i].prompts[j % 4][..4 + j % 3].to_vec();
                    TokenizedSample { prompts: (0..12).map(prompts).collect(), ..g.samples[i].clone() }
                })
                .collect();
            let batch = &batch(&samples);
            let mut joined = g.model.clone();
            joined.channel = ChannelPair::new(Joined);
            let case = |model| Case { model, batch, through: &[true; 12], lambda: 0.0 };
            let got = case(&g.model).recomputed(&p);
            let (loss, want) = case(&g.model).end_to_end(&p);
            close(got.losses.iter().sum(), loss, loss, 1e-6, &format!("{transmit}"));
            same_gradients(&got.gradients, &want, 1e-4, &format!("{transmit}, by plain autodiff"));
            let want = case(&joined).recomputed(&p);
            // On the CPU no bit depends on how the past is cut.
            let tolerance = if is_exact::<B>(&device) { 0.0 } else { 1e-5 };
            same_gradients(&got.gradients, &want.gradients, tolerance, &format!("{transmit}, joined"));
            assert_eq!(got.gradients.len(), want.gradients.len());
        }
    }
}

#[test]
fn twelve_agents_that_read_all_segments_where_they_lie_learn_what_they_learn_from_a_copy() {
    on_backend(TwelveAgents);
}

struct ManyThreads;

impl Job for ManyThreads {
    type Output = ();

    /// What is computed from a leaf that has been through a pass starts a graph of one node, which another thread's backward pass takes for
    /// unused while an operation on it is under way.
    fn run<B: ModelBackend>(self, device: B::Device) {
        let one_round = || {
            let _pass = autodiff::one_pass();
            let leaf = autodiff::leaves(vec![Tensor::<B, 2>::ones([256, 256], &device)]).remove(0);
            let longer = Tensor::cat(vec![leaf.clone().mul_scalar(2.0), leaf.clone().detach()], 0);
            let grads = longer.sum().backward();
            leaf.grad(&grads).map(|g| g.sum().into_data().iter::<f32>().sum::<f32>())
        };
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(one_round(), Some(2.0 * 256.0 * 256.0));
                    }
                });
            }
        });
    }
}

#[test]
fn gradients_are_the_same_beside_other_threads() {
    on_backend(ManyThreads);
}

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
                let p = g.parameters.clone();
                let batch = &batch(&g.samples[1..]);
                let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.0 };
                let gradients = case.recomputed(&p).gradients;
                let what = format!("{:?} {transmit} {feed}", g.model.backbone.config.family);
                slopes(|p| case.loss(p), &p, &gradients, self.step, self.tolerance, &what);
            }
        }
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let cases = [(Transmit::All, FeedKind::Learned), (Transmit::Latent, FeedKind::Identity)];
    on_backend(FiniteDifferences { cases, step: 1e-3, tolerance: 2e-3 });
}
