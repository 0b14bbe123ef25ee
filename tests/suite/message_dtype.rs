//! Messages that are rounded where they leave their sender.

use crate::batches::FEEDS;
use crate::bits::is_exact;
use crate::channels::{LATENT, Setting, with_open_gates};
use crate::common::*;
use burn::prelude::*;
use diffmas::agents::{
    ChannelKind, FeedKind, LossWeights, MessageDtype, Objective, StageGraph, TeamBatch, TeamStages,
    TokenCounts, Topology, Transmit,
};
use diffmas::backbone::Parameters;
use diffmas::backends::{Autodiff, Job, ModelBackend};
use diffmas::communication::{Fingerprint, ReceivedMessages, TraceOwner};
use diffmas::evaluation::Control;
use diffmas::training::CrossEntropy;

const ROUNDED: [MessageDtype; 3] = [MessageDtype::Bf16, MessageDtype::Int8, MessageDtype::Int4];

/// Settings of every channel, and with blocks that move.
fn settings() -> Vec<Setting> {
    let sequential = LATENT.map(|channel| Setting::new(channel, Topology::Sequential));
    let graph = Setting::new(ChannelKind::TRACE, Topology::Graph);
    sequential.into_iter().chain([graph]).collect()
}

fn load<B: ModelBackend>(setting: &Setting, dtype: MessageDtype, device: &B::Device) -> Golden<B> {
    with_open_gates(setting.load_with::<B>(|c| c.message_dtype = dtype, device))
}

fn tensors<B: ModelBackend>(received: &ReceivedMessages<B>) -> Vec<Vec<f64>> {
    received.messages.iter().flat_map(|m| m.clone().into_tensors()).map(|t| values(&t)).collect()
}

struct Rounds;

impl Job for Rounds {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in settings() {
            let of = |dtype| {
                let g = load::<B>(&setting, dtype, &device);
                let team = g.model.bind(&g.parameters);
                let received = team.roll_out_all(&batch(&g.samples));
                let bytes: Vec<usize> = (0..3).map(|row| received.bytes(row, dtype)).collect();
                (tensors(&received), bytes, losses(&team, &g.samples, 3, &Control::Real))
            };
            let (exact, whole, loss) = of(MessageDtype::F32);
            let mut before = f64::INFINITY;
            for dtype in ROUNDED.into_iter().rev() {
                let what = format!("{} {dtype}", setting.name());
                let (got, bytes, theirs) = of(dtype);
                let apart: f64 = norm(
                    &exact.iter().flatten().zip(got.iter().flatten()).map(|(a, b)| a - b).collect::<Vec<_>>(),
                ) / norm(&exact.concat());
                // Of a number, half of 1/7, 1/127 and 1/256; later agents read what was rounded.
                let most = match dtype {
                    MessageDtype::Int4 => 0.3,
                    MessageDtype::Int8 => 0.02,
                    _ => 0.01,
                };
                assert!(apart > 1e-5 && apart < most && apart < before, "{what}: {apart}");
                before = apart;
                assert_ne!(theirs, loss, "{what}");
                for (bytes, whole) in bytes.iter().zip(&whole) {
                    let parts = match dtype {
                        MessageDtype::Bf16 => 2..=2,
                        MessageDtype::Int8 => 3..=4,
                        _ => 4..=8,
                    };
                    assert!(parts.contains(&(whole / bytes)), "{what}: {bytes} of {whole} bytes");
                }
            }
        }
    }
}

#[test]
fn messages_are_as_near_as_their_type_says_and_as_small() {
    on_backend(Rounds);
}

struct Batches;

impl Job for Batches {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for (setting, feed) in settings().iter().flat_map(|s| FEEDS.map(|feed| (s, feed))) {
            let change = |c: &mut diffmas::agents::TeamConfig| {
                (c.message_dtype, c.feed) = (MessageDtype::Int4, feed);
            };
            let g = with_open_gates(setting.load_with::<B>(change, &device));
            let team = g.model.bind(&g.parameters);
            for control in [Control::Real, Control::SelfRollout] {
                let what = format!("{} {feed} {control}", setting.name());
                let [together, alone] = [3, 1].map(|size| losses(&team, &g.samples, size, &control));
                // Elsewhere rounding makes a step of what is apart in its last bit.
                if is_exact::<B>(&device) {
                    assert_eq!(together, alone, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_rounded_row_is_the_same_whatever_stands_beside_it() {
    on_backend(Batches);
}

struct Gradients;

impl Job for Gradients {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in settings() {
            for dtype in ROUNDED {
                let what = format!("{} {dtype}", setting.name());
                let g = load::<B>(&setting, dtype, &device);
                let batch = &batch(&g.samples);
                let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.5 };
                let got = case.recomputed(&g.parameters);
                let (loss, want) = case.end_to_end(&g.parameters);
                close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
                same_gradients(&got.gradients, &want, 1e-4, &what);
            }
        }
    }
}

#[test]
fn recomputation_and_plain_autodiff_round_alike() {
    on_backend(Gradients);
}

struct StraightThrough;

impl Job for StraightThrough {
    type Output = ();

    /// Two agents: the gradient is that of the final agent on the rounded message, and that of the first one's exact message, seeded with the
    /// gradient of the loss at the rounded one.
    fn run<B: ModelBackend>(self, device: B::Device) {
        for channel in [ChannelKind::TRACE, ChannelKind::HYBRID, ChannelKind::OVERWRITE] {
            let of = |dtype| {
                let mut setting = Setting::new(channel, Topology::Sequential);
                setting.steps = [2, 0, 0];
                let change = |c: &mut diffmas::agents::TeamConfig| {
                    c.message_dtype = dtype;
                    c.agents.drain(1..3);
                };
                let mut g = with_open_gates(setting.load_with::<B>(change, &device));
                g.samples.iter_mut().for_each(|sample| drop(sample.prompts.drain(1..3)));
                g
            };
            let (rounded, exact) = (of(MessageDtype::Int4), of(MessageDtype::F32));
            let batch = &batch(&rounded.samples);
            let case = Case { model: &rounded.model, batch, through: &[true; 2], lambda: 0.0 };
            let got = case.recomputed(&rounded.parameters).gradients;

            let (plan, outer) = (&case.plan(), exact.model.to_autodiff());
            let weights = &LossWeights::new(&TokenCounts::new(std::slice::from_ref(batch), 1), 0.0);
            let objective: Option<&dyn Objective<Autodiff<B>>> = Some(&CrossEntropy);
            let stages = TeamStages { model: &outer, batch, plan, objective, weights, through: &[true; 2] };
            let leaves = exact.parameters.leaves(|_| true);
            // 1. The final agent on the rounded message.
            let message = rounded.model.bind(&rounded.parameters).roll_out_all(batch).messages.remove(0);
            let message: Vec<Tensor<Autodiff<B>, 4>> =
                message.into_tensors().into_iter().map(|t| Tensor::from_inner(t).require_grad()).collect();
            let loss = stages.run(1, &leaves, vec![message.clone()]).loss.unwrap();
            let last = loss.backward();
            let seeds: Vec<Tensor<B, 4>> = message.iter().map(|t| t.grad(&last).unwrap()).collect();
            // 2. The first agent's exact message.
            let sent = stages.run(0, &leaves, Vec::new()).message;
            let product =
                |(t, seed): (Tensor<Autodiff<B>, 4>, Tensor<B, 4>)| (t * Tensor::from_inner(seed)).sum();
            let sum = sent.into_iter().zip(seeds).map(product).reduce(|a, b| a + b).unwrap();
            let first = sum.backward();
            let want: Parameters<B> = leaves
                .iter()
                .filter_map(|(name, t)| {
                    let sum = match (t.grad(&first), t.grad(&last)) {
                        (Some(a), Some(b)) => a + b,
                        (a, b) => a.or(b)?,
                    };
                    Some((name.clone(), sum))
                })
                .collect();
            same_gradients(&got, &want, 1e-4, &channel.to_string());
        }
    }
}

#[test]
fn the_gradient_at_the_rounded_message_is_that_of_the_exact_one() {
    on_backend(StraightThrough);
}

struct Files;

impl Job for Files {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let dir = tempfile::tempdir().unwrap();
        for (setting, dtype) in settings().iter().flat_map(|s| ROUNDED.map(|dtype| (s, dtype))) {
            let what = format!("{} {dtype}", setting.name());
            let g = load::<B>(setting, dtype, &device);
            let (team, config) = (g.model.bind(&g.parameters), &g.model.layout.config);
            let sent = team.roll_out_all(&TeamBatch::new(&[&g.samples[0]]));
            let agents: Vec<&str> = config.agents.iter().map(|a| a.name.as_str()).collect();
            let fingerprint = Fingerprint { model: "m".into(), adapter: "a".into() };
            let owner = |dtype| TraceOwner {
                model: &g.model.layout.sizes,
                fingerprint: &fingerprint,
                agents: &agents,
                vectors: config.vectors(),
                dtype,
            };
            let path = dir.path().join(format!("{what}.safetensors"));
            sent.write(&path, owner(dtype)).unwrap();
            let read = ReceivedMessages::<B>::read(&path, owner(dtype), &device).unwrap();
            let (a, b) = (tensors(&sent).concat(), tensors(&read).concat());
            // Whole numbers and scales come back as they were; a block that moved was turned twice.
            if is_exact::<B>(&device) && dtype != MessageDtype::Bf16 && setting.reads_in_order() {
                assert_eq!(a, b, "{what}");
            }
            for (a, b) in a.iter().zip(&b) {
                close(*a, *b, b.abs().max(1.0), 1e-5, &what);
            }
            let bytes: usize = sent.bytes(0, dtype);
            let values = std::fs::metadata(&path).unwrap().len() as usize;
            let header = u64::from_le_bytes(std::fs::read(&path).unwrap()[..8].try_into().unwrap()) as usize;
            assert_eq!(values, 8 + header + bytes, "{what}: what a message takes is what a file of it takes");
            let error = ReceivedMessages::<B>::read(&path, owner(MessageDtype::F32), &device).unwrap_err();
            let says = format!("the messages of the trace are {dtype}, but those of this team are f32");
            assert!(error.to_string().contains(&says), "{error}");
        }
    }
}

#[test]
fn a_trace_file_holds_the_rounded_numbers_themselves() {
    on_backend(Files);
}

struct OwnRollouts;

impl Job for OwnRollouts {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let own = |dtype| {
            let change = |c: &mut diffmas::agents::TeamConfig| {
                (c.message_dtype, c.transmit, c.feed) = (dtype, Transmit::Latent, FeedKind::Soft);
            };
            let g = Setting::new(ChannelKind::TRACE, Topology::Sequential).load_with::<B>(change, &device);
            tensors(&g.model.bind(&g.parameters).roll_out_self(&batch(&g.samples)).0)
        };
        assert_ne!(own(MessageDtype::Int4), own(MessageDtype::F32));
    }
}

#[test]
fn its_own_rollout_is_rounded_as_the_messages_that_it_stands_for() {
    on_backend(OwnRollouts);
}
