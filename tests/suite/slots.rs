//! Slots: trainable input embeddings, read in one pass, at the end of a prompt or spread in it.

use crate::bits::is_exact;
use crate::channels::{Setting, experts_together_and_alone, with_open_gates};
use crate::common::*;
use burn::prelude::*;
use diffmas::agents::{
    AdapterScope, AgentInput, FeedKind, PaddedEmbeddings, SlotPlacement, TeamBatch, TeamConfig, TeamModel,
    Topology, Transmit,
};
use diffmas::backbone::ParameterGroup;
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::ChannelKind;
use diffmas::training::{PhaseConfig, TraceGradient, TrainConfig, Trainer};

/// How far a tensor's gradient may be off, relative to its norm.
const TENSOR: f64 = 1e-3;

const PLACEMENTS: [SlotPlacement; 2] = [SlotPlacement::End, SlotPlacement::Spread];

fn with_slots(placement: SlotPlacement) -> impl Fn(&mut TeamConfig) {
    move |c| (c.feed, c.slot_placement) = (FeedKind::Slots, placement)
}

struct Gradients;

impl Job for Gradients {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let latent = |s: &Setting| s.channel != ChannelKind::TEXT;
        for mut setting in Setting::all().into_iter().filter(latent) {
            for placement in PLACEMENTS {
                setting.trajectories = placement == SlotPlacement::Spread || setting.trajectories;
                let what = format!("{} slots {placement}", setting.name());
                let mut g = with_open_gates(setting.load_with::<B>(with_slots(placement), &device));
                // The first row's content is a part of its prompt.
                for sample in &mut g.samples[..1] {
                    sample.contents = sample.prompts.iter().map(|p| 2..p.len() - 1).collect();
                }
                let p = g.parameters.clone();
                let config = TrainConfig { trajectory_weight: 0.5, ..TrainConfig::default() };
                let trainer = g.trainer(config);
                let mut samples = g.samples.clone();
                samples[1..]
                    .iter_mut()
                    .for_each(|s| s.contents = s.prompts.iter().map(|p| 0..p.len()).collect());
                let b = &batch(&samples);
                let case = Case { model: &g.model, batch: b, through: &[true; 4], lambda: 0.5 };
                let got = case.recomputed(&p);
                let (loss, want) = case.end_to_end(&p);
                close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
                same_gradients(&got.gradients, &want, 1e-4, &what);
                slope_of_every_tensor(|p| case.loss(p), &p, &got.gradients, &what);
                let slots = got.gradients.iter().filter(|(name, _)| name.starts_with("slots.")).count();
                assert_eq!(slots, 3, "{what}");
                let apart = trainer.gradients(&micro_batches(&samples, 1));
                close(trainer.gradients(std::slice::from_ref(b)).loss, apart.loss, apart.loss, 1e-5, &what);
                same_gradients(&got.gradients, &apart.gradients, TENSOR, &what);
                same_gradients(&apart.gradients, &got.gradients, TENSOR, &what);
            }
        }
    }
}

#[test]
fn slots_of_every_channel_and_topology_have_the_gradient_of_plain_autodiff_the_slope_and_the_sum_of_rows() {
    on_backend(Gradients);
}

struct AsEmbeddings;

impl Job for AsEmbeddings {
    type Output = ();

    /// An agent with slots is one without latent steps whose prompt has their embeddings in their places.
    fn run<B: ModelBackend>(self, device: B::Device) {
        let steps = 3;
        for placement in PLACEMENTS {
            for transmit in [Transmit::All, Transmit::Latent, Transmit::Prompt] {
                let what = format!("{placement} {transmit}");
                let change = |c: &mut TeamConfig| {
                    with_slots(placement)(c);
                    (c.transmit, c.latent_steps) = (transmit, steps);
                };
                let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, change, &device);
                let team = g.model.bind(&g.parameters);
                let received = team.roll_out_all(&batch(&g.samples[..1]));
                let sample = &g.samples[0];
                // The prompts of the upstream agents as one row of numbers each, with slots among the tokens.
                let mut marks = Vec::new();
                let mut inputs: Vec<AgentInput> = Vec::new();
                for (j, prompt) in sample.prompts.iter().enumerate() {
                    let tokens: Vec<Tensor<B, 2>> =
                        prompt.iter().map(|id| team.roles[0].embed(&[*id])).collect();
                    if j == 3 {
                        inputs.push(diffmas::agents::PaddedIds::left(&[prompt]).into());
                        continue;
                    }
                    let slots =
                        values(&team.feed.slots(&team.layout.config.agents[j].name, &team.parameters));
                    let width = slots.len() / steps;
                    let mut rows: Vec<(bool, Vec<f64>)> = tokens.iter().map(|t| (false, values(t))).collect();
                    for t in (1..=steps).rev() {
                        let share = (t * prompt.len()) as f64 / steps as f64;
                        let at = match placement {
                            SlotPlacement::End => prompt.len(),
                            SlotPlacement::Spread => (share.round_ties_even() as usize).min(prompt.len() - 1),
                        };
                        rows.insert(at, (true, slots[(t - 1) * width..t * width].to_vec()));
                    }
                    marks.push(rows.iter().map(|(slot, _)| *slot).collect::<Vec<_>>());
                    let flat: Vec<f32> = rows.iter().flat_map(|(_, x)| x.iter().map(|&x| x as f32)).collect();
                    inputs.push(PaddedEmbeddings::left(&[&flat], width).into());
                }
                let mut plain = g.model.clone();
                let layout = std::sync::Arc::make_mut(&mut plain.layout);
                (layout.config.feed, layout.config.latent_steps) = (FeedKind::Identity, 0);
                layout.config.transmit = Transmit::All;
                let plain = plain.bind(&g.parameters);
                // Only the first agent reads nothing: what the others read is another trace where less is transmitted.
                let batch = TeamBatch::of_inputs(inputs);
                let all = plain.roll_out_all(&batch);
                let readers = if transmit == Transmit::All { 3 } else { 1 };
                for (j, marks) in marks.iter().enumerate().take(readers) {
                    let keep = |i: &usize| match transmit {
                        Transmit::All => true,
                        Transmit::Latent => marks[*i],
                        Transmit::Prompt => !marks[*i],
                    };
                    let whole = &all.messages[j].segment.as_ref().unwrap().kv;
                    let own = &received.messages[j].segment.as_ref().unwrap().kv;
                    let kept: Vec<usize> = (0..whole.len()).filter(keep).collect();
                    let mut ids: Vec<u32> = kept.iter().map(|&i| whole.positions.ids[i]).collect();
                    let place = |id: u32| own.positions.ids.iter().position(|own| *own == id).unwrap();
                    for (a, b) in own.clone().into_tensors().iter().zip(whole.clone().into_tensors()) {
                        for (&i, &id) in kept.iter().zip(&ids) {
                            let (a, b) = (
                                values(&a.clone().narrow(2, place(id), 1)),
                                values(&b.clone().narrow(2, i, 1)),
                            );
                            let off: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
                            close(norm(&off), 0.0, norm(&b), 1e-5, &format!("{what} agent {j} at {i}"));
                        }
                    }
                    ids.sort_unstable();
                    let mut found = own.positions.ids.clone();
                    found.sort_unstable();
                    assert_eq!(found, ids, "{what} agent {j}");
                }
                if transmit == Transmit::All {
                    assert_eq!(received.start, all.start, "{what}");
                }
            }
        }
    }
}

#[test]
fn slots_are_embeddings_among_those_of_the_prompt() {
    on_backend(AsEmbeddings);
}

struct Mixed;

impl Job for Mixed {
    type Output = ();

    /// Agents of one level run together whatever their feeds, and each as alone.
    fn run<B: ModelBackend>(self, device: B::Device) {
        for scope in [AdapterScope::Shared, AdapterScope::PerRole] {
            for placement in PLACEMENTS {
                let mut setting = Setting::new(ChannelKind::HYBRID, Topology::Hierarchical);
                (setting.scope, setting.steps) = (scope, [3, 2, 1]);
                let change = |c: &mut TeamConfig| {
                    with_slots(placement)(c);
                    c.agents[1].feed = Some(FeedKind::Soft);
                    c.agents[2].transmit = Some(Transmit::Latent);
                };
                let g = setting.load_with::<B>(change, &device);
                let team = g.model.bind(&g.parameters);
                experts_together_and_alone(
                    &team,
                    &g.samples,
                    setting.steps,
                    &format!("{scope:?} {placement}"),
                );
            }
        }
    }
}

#[test]
fn agents_with_and_without_slots_run_as_one_level() {
    on_backend(Mixed);
}

struct Kept;

impl Job for Kept {
    type Output = ();

    /// Slots are written, read, part of the fingerprint, and a resumed run is the one that never stopped.
    fn run<B: ModelBackend>(self, device: B::Device) {
        for placement in PLACEMENTS {
            let mut setting = Setting::new(ChannelKind::TRACE, Topology::Hierarchical);
            setting.steps = [1, 3, 2];
            let g = setting.load_with::<B>(with_slots(placement), &device);
            let config = TrainConfig {
                learning_rate: 1e-2,
                max_steps: Some(4),
                save_steps: 2,
                batch_size: 2,
                position_dropout: 0.3,
                ..TrainConfig::default()
            };
            let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let run = |mut trainer: Trainer<B>, dir: &std::path::Path, updates: usize| {
                let done = std::cell::Cell::new(0);
                let stop = || done.get() == updates;
                trainer
                    .train(&g.samples, Some(dir), stop, |_, event| {
                        if let diffmas::training::Event::Step { .. } = event {
                            done.set(done.get() + 1);
                        }
                        Ok(())
                    })
                    .unwrap();
                trainer
            };
            let straight = run(g.trainer(config.clone()), whole.path(), 4);
            run(g.trainer(config.clone()), cut.path(), 2);
            let mut resumed = g.trainer(config);
            assert_eq!(resumed.resume(cut.path(), &g.samples).unwrap(), Some(2));
            let resumed = run(resumed, cut.path(), 2);
            for (name, want) in straight.parameters().iter() {
                let (got, want) = (values(resumed.parameters().get(name)), values(want));
                if is_exact::<B>(&device) {
                    assert_eq!(got, want, "{name}");
                }
                if name.starts_with("slots.") {
                    assert_ne!(want, values(g.parameters.get(name)), "{name} learns");
                }
            }
            let read = tempfile::tempdir().unwrap();
            straight.write(read.path()).unwrap();
            let layout = &g.model.layout;
            let open = |config: TeamConfig| {
                TeamModel::open(read.path(), None, config, g.model.backbone.clone())
                    .map_err(|e| e.to_string())
            };
            let (model, parameters) = open(layout.config.clone()).unwrap();
            let hash = |model: &TeamModel<B>, p| model.bind(p).learned_sha256();
            assert_eq!(hash(&model, &parameters), hash(&g.model, straight.parameters()));
            assert_ne!(hash(&model, &parameters), hash(&g.model, &g.parameters));
            let mut other = layout.config.clone();
            other.agents[1].latent_steps = Some(2);
            let error = open(other).unwrap_err();
            assert!(error.contains("their `slots` is"), "{error}");
            let mut other = layout.config.clone();
            other.slot_placement = PLACEMENTS.into_iter().find(|p| *p != placement).unwrap();
            let error = open(other).unwrap_err();
            assert!(error.contains("their `slot_placement` is"), "{error}");
            let mut other = layout.config.clone();
            other.feed = FeedKind::Identity;
            open(other).unwrap();
        }
    }
}

#[test]
fn slots_are_kept() {
    on_backend(Kept);
}

struct Unreached;

impl Job for Unreached {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let setting = Setting::new(ChannelKind::TRACE, Topology::Sequential);
        let g = setting.load_with::<B>(with_slots(SlotPlacement::End), &device);
        let run = |trace_gradient, train: Option<Vec<ParameterGroup>>| {
            let phase = PhaseConfig { name: "only".into(), train, ..PhaseConfig::default() };
            let config = TrainConfig { trace_gradient, phases: vec![phase], ..TrainConfig::default() };
            Trainer::new(config, g.model.clone(), g.parameters.clone()).map(|_| ()).map_err(|e| e.to_string())
        };
        run(TraceGradient::Full, None).unwrap();
        run(TraceGradient::Last(3), None).unwrap();
        run(TraceGradient::Last(0), Some(vec![ParameterGroup::LORA])).unwrap();
        for (gradient, name) in [(TraceGradient::Last(0), "planner"), (TraceGradient::Last(2), "planner")] {
            let error = run(gradient, None).unwrap_err();
            assert!(error.starts_with(&format!("agent `{name}`: its slots are to learn")), "{error}");
        }
    }
}

#[test]
fn slots_that_no_gradient_reaches_are_refused() {
    on_backend(Unreached);
}
