//! Every channel and topology: gradients, batching, joins, masks, phases and controls.

use crate::common::*;
use std::sync::Arc;

use burn::prelude::*;
use diffmas::agents::{
    AdapterScope, ChannelKind, Dropout, FeedKind, OverwriteUpdate, PromptBuilder, Team, TeamConfig, Topology,
    Transmit,
};
use diffmas::backbone::{ParameterGroup, Parameters, Pull};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::Message;
use diffmas::evaluation::Control;
use diffmas::inference::{DecodeOptions, Writing};
use diffmas::text::TokenizedSample;
use diffmas::training::{Curriculum, PhaseConfig, TrainConfig};

pub const MODEL: &str = "tiny-qwen3";

/// Every channel that passes internal state.
pub const LATENT: [ChannelKind; 4] =
    [ChannelKind::TRACE, ChannelKind::VECTORS, ChannelKind::HYBRID, ChannelKind::OVERWRITE];

/// What a test changes of the reference's team.
#[derive(Clone)]
pub struct Setting {
    pub channel: ChannelKind,
    topology: Topology,
    pub scope: AdapterScope,
    update: OverwriteUpdate,
    /// Latent steps of each upstream agent.
    pub steps: [usize; 3],
    /// What each of the four agents reads, in a graph.
    pub reads: [&'static [usize]; 4],
    pub trajectories: bool,
}

impl Setting {
    pub fn new(channel: ChannelKind, topology: Topology) -> Self {
        Self {
            channel,
            topology,
            scope: AdapterScope::Shared,
            update: OverwriteUpdate::Tanh,
            steps: [2, 2, 2],
            // Two experts; one that reads the first of them; a final agent that reads all, the reader before the second expert.
            reads: [&[], &[], &[0], &[0, 2, 1]],
            trajectories: false,
        }
    }

    pub fn all() -> Vec<Self> {
        use {ChannelKind as C, Topology as T};
        let mut all = Vec::new();
        for channel in LATENT {
            all.push(Self::new(channel, T::Sequential));
        }
        all.push(Self { update: OverwriteUpdate::Gated, ..Self::new(C::OVERWRITE, T::Sequential) });
        for channel in [C::TRACE, C::VECTORS, C::HYBRID] {
            all.push(Self { steps: [1, 3, 2], ..Self::new(channel, T::Hierarchical) });
        }
        all.push(Self { scope: AdapterScope::PerRole, ..Self::new(C::TRACE, T::Hierarchical) });
        all.push(Self::new(C::TRACE, T::Graph));
        all.push(Self { steps: [3, 1, 2], trajectories: true, ..Self::new(C::HYBRID, T::Graph) });
        all.push(Self { trajectories: true, ..Self::new(C::TEXT, T::Sequential) });
        all
    }

    /// Whether each agent reads all earlier ones, so that no block moves.
    pub fn reads_in_order(&self) -> bool {
        self.topology == Topology::Sequential
    }

    pub fn name(&self) -> String {
        format!(
            "{} {} {:?} {} experts={}",
            self.channel, self.topology, self.scope, self.update, self.trajectories
        )
    }

    fn change(&self, c: &mut TeamConfig) {
        (c.channel, c.topology, c.overwrite_update) = (self.channel.into(), self.topology, self.update);
        (c.num_vectors, c.vector_dim, c.vector_heads) = (3, 16, 2);
        c.cross_attention_layers = Some(vec![0, 1]);
        let names: Vec<String> = c.agents.iter().map(|a| a.name.clone()).collect();
        for (j, agent) in c.agents.iter_mut().enumerate() {
            agent.latent_steps = self.steps.get(j).copied().filter(|_| self.channel != ChannelKind::TEXT);
            if self.topology == Topology::Graph {
                agent.reads = Some(self.reads[j].iter().map(|&r| names[r].clone()).collect());
            }
        }
    }

    pub fn load<B: ModelBackend>(&self, device: &B::Device) -> Golden<B> {
        self.load_with(|_| (), device)
    }

    /// The team with more of it changed.
    pub fn load_with<B: ModelBackend>(
        &self,
        more: impl FnOnce(&mut TeamConfig),
        device: &B::Device,
    ) -> Golden<B> {
        let change = |c: &mut TeamConfig| {
            self.change(c);
            more(c);
        };
        let mut g = Golden::<B>::load(MODEL, self.scope, change, device);
        if self.trajectories {
            for (i, sample) in g.samples.iter_mut().enumerate() {
                // The first agent has a text in every row, the third in the first row only.
                let ids = |n: u32| (0..n).map(|k| 20 + 7 * k + i as u32).collect::<Vec<u32>>();
                sample.trajectories = vec![Some(ids(3 + i as u32)), None, (i == 0).then(|| ids(4)), None];
            }
        }
        g
    }
}

/// What a team learns, with all gates at 0.5.
fn opened<B: ModelBackend>(g: &Golden<B>) -> Parameters<B> {
    let p = g.parameters.clone();
    let open = |(name, t): (&String, &Tensor<B, 2>)| {
        let t = if name.ends_with(".gate") && name.starts_with("cross_attention") {
            t.clone() + 0.5
        } else {
            t.clone()
        };
        (name.clone(), t)
    };
    p.iter().map(open).collect()
}

/// `g` with all gates of its team at 0.5.
pub fn with_open_gates<B: ModelBackend>(g: Golden<B>) -> Golden<B> {
    Golden { parameters: opened(&g), ..g }
}

struct Gradients;

impl Job for Gradients {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all() {
            let what = setting.name();
            let g = setting.load::<B>(&device);
            let p = opened(&g);
            let batch = &batch(&g.samples);
            let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.5 };
            let got = case.recomputed(&p);
            let (loss, want) = case.end_to_end(&p);
            close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
            same_gradients(&got.gradients, &want, 1e-4, &what);
            slopes(|p| case.loss(p), &p, &got.gradients, 1e-3, 3e-3, &what);
            let learns = |part: &str| got.gradients.iter().any(|(name, _)| name.starts_with(part));
            let vectors = ![ChannelKind::TRACE, ChannelKind::TEXT].contains(&setting.channel);
            assert_eq!((learns("encoder."), learns("cross_attention.")), (vectors, vectors), "{what}");
        }
    }
}

#[test]
fn every_channel_and_topology_has_the_gradient_of_plain_autodiff_and_the_slope_of_the_loss() {
    on_backend(Gradients);
}

struct Described;

impl Job for Described {
    type Output = ();

    /// What is said of each parameter without tensors is so: name and shape; its group, by which phases choose; what weight decay spares.
    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all() {
            let what = setting.name();
            let g = setting.load_with::<B>(|c| c.feed = FeedKind::Learned, &device);
            let specs = g.model.parameter_specs();
            let said: Vec<_> = specs.iter().map(|spec| (spec.name.clone(), spec.shape)).collect();
            let found: Vec<_> =
                g.parameters.iter().map(|(name, value)| (name.clone(), value.dims())).collect();
            assert_eq!(said, found, "{what}");
            for spec in specs.iter() {
                let name = spec.name.as_str();
                let group = match name.split('.').next().unwrap() {
                    "adapter" => ParameterGroup::LORA,
                    "encoder" | "overwrite" => ParameterGroup::ENCODER,
                    "cross_attention" => ParameterGroup::CROSS_ATTENTION,
                    "feed" => ParameterGroup::FEED,
                    _ => panic!("{what}: {name}"),
                };
                let gate = name.starts_with("cross_attention.") && name.ends_with(".gate");
                let spared = gate
                    || name.starts_with("encoder.queries.")
                    || name.starts_with("cross_attention.sender.")
                    || ["overwrite.initial", "overwrite.bias"].contains(&name);
                let pull = match name {
                    "feed.learned" => Pull::Identity,
                    _ if spared => Pull::Nowhere,
                    _ => Pull::Zero,
                };
                let of_channel = ![ParameterGroup::LORA, ParameterGroup::FEED].contains(&group);
                let said = (&spec.group, spec.gate, spec.pull, spec.needs_channel);
                assert_eq!(said, (&group, gate, pull, of_channel), "{what}: {name}");
            }
            let groups: Vec<_> = setting.channel.groups.iter().collect();
            let learned: Vec<_> = specs.iter().filter(|s| s.needs_channel).map(|s| &s.group).collect();
            assert!(learned.iter().all(|group| groups.contains(group)), "{what}");
        }
    }
}

#[test]
fn what_is_said_of_parameters_without_tensors_is_so() {
    on_backend(Described);
}

struct Batches;

impl Job for Batches {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all() {
            let g = setting.load::<B>(&device);
            let team = g.model.bind(&opened(&g));
            for control in [Control::Real, Control::Random, Control::Shuffled, Control::None] {
                if control.validate(&team.layout.config, 3).is_err() {
                    continue;
                }
                let what = format!("{} {control}", setting.name());
                let together = losses(&team, &g.samples, 3, &control);
                for (a, b) in together.iter().zip(losses(&team, &g.samples, 1, &control)) {
                    close(*a, b, b, 1e-5, &what);
                }
            }
            // Another order of rows is another order of results.
            let turned: Vec<_> = [2, 0, 1].map(|i| g.samples[i].clone()).to_vec();
            let (own, other) =
                (losses(&team, &g.samples, 3, &Control::Real), losses(&team, &turned, 3, &Control::Real));
            for (i, j) in [2, 0, 1].into_iter().enumerate() {
                close(other[i], own[j], own[j], 1e-5, &format!("{} turned", setting.name()));
            }
        }
    }
}

#[test]
fn every_channel_scores_rows_the_same_together_and_alone_and_in_any_order() {
    on_backend(Batches);
}

struct Texts;

impl Job for Texts {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut setting = Setting::new(ChannelKind::TEXT, Topology::Graph);
        setting.trajectories = true;
        let mut g = setting.load::<B>(&device);
        Arc::make_mut(&mut g.model.layout).config.message_tokens = 3;
        let team = g.model.bind(&g.parameters);
        let prompts = Arc::new(PromptBuilder::new(&team.layout.config.agents, None).unwrap());
        let writing = Writing::new(&team.layout.config, prompts, DecodeOptions::default()).unwrap();
        let write = |writing: &Writing, rows: std::ops::Range<usize>| {
            let sample_ids: Vec<u64> = rows.clone().map(|i| i as u64).collect();
            writing.write(&team, &g.samples[rows], &sample_ids).unwrap()
        };
        let (samples, written) = write(&writing, 0..3);
        for row in 0..3 {
            let (alone, own) = write(&writing, row..row + 1);
            assert_eq!((&alone[0], &own[0]), (&samples[row], &written[row]), "row {row}");
            let said = |j: usize| written[row][j].token_ids.clone();
            assert!((0..3).all(|j| said(j).len() == 3));
            // The third agent reads the first; the final one reads the first, the third and the second.
            let before = |j: usize| g.samples[row].prompts[j].clone();
            assert_eq!(samples[row].prompts[0], before(0));
            assert_eq!(samples[row].prompts[2], [said(0), before(2)].concat());
            assert_eq!(samples[row].prompts[3], [said(0), said(2), said(1), before(3)].concat());
        }
        let (_, given) = write(&writing.teacher_forced(), 0..3);
        for (row, given) in given.iter().enumerate() {
            assert_eq!(Some(&given[0].token_ids), g.samples[row].trajectories[0].as_ref());
        }
    }
}

#[test]
fn what_agents_write_stands_before_the_prompts_of_those_who_read_them() {
    on_backend(Texts);
}

struct ClosedGates;

impl Job for ClosedGates {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let score = |channel: ChannelKind, control: Control| {
            let g = Setting::new(channel, Topology::Sequential).load::<B>(&device);
            let team = g.model.bind(&g.parameters);
            losses(&team, &g.samples, 3, &control)
        };
        // With all gates at 0 the vectors change no bit: hybrid is the trace, and vectors are a final agent alone.
        assert_eq!(score(ChannelKind::HYBRID, Control::Real), score(ChannelKind::TRACE, Control::Real));
        assert_eq!(score(ChannelKind::VECTORS, Control::Real), score(ChannelKind::TRACE, Control::None));
        assert_eq!(score(ChannelKind::OVERWRITE, Control::Real), score(ChannelKind::TRACE, Control::None));
    }
}

#[test]
fn closed_gates_leave_the_backbone_bit_for_bit_as_it_is() {
    on_backend(ClosedGates);
}

struct Joins;

impl Job for Joins {
    type Output = ();

    /// A segment that was built on nothing and moved is the segment built at the place to which it is moved.
    fn run<B: ModelBackend>(self, device: B::Device) {
        for model in MODELS {
            let change = |c: &mut TeamConfig| c.topology = Topology::Hierarchical;
            let g = Golden::<B>::load(model, AdapterScope::Shared, change, &device);
            let team = g.model.bind(&g.parameters);
            let b = batch(&g.samples);
            let plan = team.plan(&b);
            let received = team.roll_out_all(&b);
            assert_eq!(received.messages.len(), 3);
            for (message, read) in received.messages.into_iter().zip(&plan.agents[3].reads) {
                let j = message.sender;
                let mut context = diffmas::communication::Context::empty(3);
                context.start.clone_from(&read.offsets);
                let there = team.roll_out(&[j], &b, &plan, &[context]).remove(0).segment();
                let moved = message.segment.unwrap();
                assert_eq!(moved.kv.positions, there.kv.positions, "{model} agent {j}");
                for (a, b) in moved.kv.into_tensors().iter().zip(there.kv.into_tensors()) {
                    let (a, b) = (values(a), values(&b));
                    let off: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
                    close(norm(&off), 0.0, norm(&b), 2e-6, &format!("{model} agent {j}"));
                }
            }
        }
    }
}

#[test]
fn a_joined_trace_is_the_one_built_at_its_positions() {
    on_backend(Joins);
}

struct Together;

impl Job for Together {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for scope in [AdapterScope::Shared, AdapterScope::PerRole] {
            let mut setting = Setting::new(ChannelKind::HYBRID, Topology::Hierarchical);
            (setting.scope, setting.steps) = (scope, [1, 3, 2]);
            let mut g = setting.load::<B>(&device);
            Arc::make_mut(&mut g.model.layout).config.agents[1].transmit = Some(Transmit::Latent);
            Arc::make_mut(&mut g.model.layout).config.agents[2].feed = Some(FeedKind::Soft);
            let team = g.model.bind(&opened(&g));
            experts_together_and_alone(&team, &g.samples, setting.steps, &format!("{scope:?}"));
        }
    }
}

/// Asserts that the first three agents, which read nobody and make so many latent positions, send the same as one batch and each alone.
pub fn experts_together_and_alone<B: ModelBackend>(
    team: &Team<B>,
    samples: &[TokenizedSample],
    steps: [usize; 3],
    what: &str,
) {
    let b = batch(samples);
    let plan = team.plan(&b);
    assert_eq!(plan.stages[0].agents, [0, 1, 2]);
    let contexts = [0, 1, 2].map(|j| team.read(&team.find(j, &[None, None, None, None], &plan)));
    let together = team.roll_out(&[0, 1, 2], &b, &plan, &contexts);
    for (j, rollout) in together.iter().enumerate() {
        let alone = team.roll_out(&[j], &b, &plan, &contexts[j..=j]).remove(0);
        assert_eq!((rollout.sender, alone.sender), (j, j), "{what}");
        assert_eq!([rollout.latents.len(), alone.latents.len()], [steps[j] + 1; 2], "{what} agent {j}");
        let received = team.find(j, &[None, None, None, None], &plan);
        let send = |t| team.send(t, &received);
        let (a, b): (Message<B>, Message<B>) = (send(rollout), send(&alone));
        let positions = |m: &Message<B>| m.segment.as_ref().unwrap().kv.positions.clone();
        assert_eq!(positions(&a), positions(&b), "{what} agent {j}");
        for (a, b) in a.into_tensors().iter().zip(b.into_tensors()) {
            let (a, b) = (values(a), values(&b));
            let off: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            close(norm(&off), 0.0, norm(&b), 1e-4, &format!("{what} agent {j}"));
        }
    }
}

#[test]
fn trajectories_think_the_same_as_one_batch_and_alone() {
    on_backend(Together);
}

struct Controls;

impl Job for Controls {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all().into_iter().filter(|s| s.channel != ChannelKind::TEXT) {
            let what = setting.name();
            let g = setting.load::<B>(&device);
            let team = g.model.bind(&opened(&g));
            let real = team.roll_out_all(&batch(&g.samples));
            let apply = |control: Control| control.apply(real.clone(), &team.layout.config, 5, &[0, 1, 2]);
            let tensors = |t: &diffmas::communication::ReceivedMessages<B>| -> Vec<Vec<f64>> {
                t.messages.iter().flat_map(|m| m.clone().into_tensors()).map(|t| values(&t)).collect()
            };
            let seen = |t: &diffmas::communication::ReceivedMessages<B>| {
                (0..3).map(|b| t.positions(b)).collect::<Vec<_>>()
            };
            assert_eq!(tensors(&apply(Control::Real)), tensors(&real), "{what}");
            let zero = apply(Control::Zero);
            assert!(tensors(&zero).iter().flatten().all(|&x| x == 0.0), "{what}");
            let random = apply(Control::Random);
            assert_ne!(tensors(&random), tensors(&real), "{what}");
            for other in [&zero, &random] {
                assert_eq!((seen(other), &other.start), (seen(&real), &real.start), "{what}");
            }
            let none = apply(Control::None);
            assert_eq!((none.messages.len(), &none.start[..]), (0, &[0; 3][..]), "{what}");
            let role = team.layout.config.agents[real.messages[0].sender].name.clone();
            let dropped = apply(Control::Drop(role));
            assert_eq!((tensors(&dropped), &dropped.start), (tensors(&real), &real.start), "{what}");
            let first = |b| real.messages[0].positions(b);
            let left: Vec<usize> = (0..3).map(|b| real.positions(b) - first(b)).collect();
            assert_eq!(seen(&dropped), left, "{what}");
        }
    }
}

#[test]
fn controls_change_only_what_they_say() {
    on_backend(Controls);
}

struct Drops;

impl Job for Drops {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for channel in LATENT {
            let g = with_open_gates(Setting::new(channel, Topology::Sequential).load::<B>(&device));
            let config = TrainConfig { sender_dropout: 0.5, position_dropout: 0.5, ..TrainConfig::default() };
            let b = [batch(&g.samples)];
            let mut trainer = g.trainer(config);
            let first = trainer.gradients(&b);
            assert!(first.dropped[0] > 0 && first.dropped[1] > 0, "{channel}: {:?}", first.dropped);
            // The same step draws the same masks, in the forward pass and in recomputation; another step draws others.
            let again = trainer.gradients(&b);
            assert_eq!((again.loss, again.dropped), (first.loss, first.dropped), "{channel}");
            same_gradients(&again.gradients, &first.gradients, 0.0, &format!("{channel}"));
            trainer.update(&b, 0.0).unwrap();
            assert_ne!(trainer.gradients(&b).loss, first.loss, "{channel}");
            // With everything hidden from the final agent, it is alone, at the positions it had.
            let team = g.model.bind(&opened(&g));
            let mut plan = team.plan(&b[0]);
            let all = Dropout { senders: 1.0, positions: 0.0 };
            plan.drop_messages(all, 0, &[0, 1, 2], |m, before, dropped| {
                team.channel.inner.hide(m, before, dropped)
            });
            for agent in &plan.agents[..3] {
                let masked = |valid: &[bool]| valid.iter().all(|v| !v);
                assert!(agent.message.segment.as_ref().is_none_or(|s| masked(&s.positions.valid)));
                assert!(agent.message.vectors.as_ref().is_none_or(|v| masked(v)));
            }
        }
    }
}

#[test]
fn communication_dropout_repeats_within_a_step_and_hides_what_it_drops() {
    on_backend(Drops);
}

struct Phases;

impl Job for Phases {
    type Output = ();

    /// In each phase, only what it names changes; with draws of dropout and of a curriculum that a resumed run repeats.
    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut setting = Setting::new(ChannelKind::HYBRID, Topology::Sequential);
        setting.trajectories = true;
        let parts = [
            (ParameterGroup::CROSS_ATTENTION, true),
            (ParameterGroup::ENCODER, true),
            (ParameterGroup::LORA, false),
            (ParameterGroup::FEED, true),
        ];
        let phase = |(part, channel): (ParameterGroup, bool)| PhaseConfig {
            name: part.to_string(),
            max_steps: Some(2),
            train: Some(vec![part]),
            channel: Some(channel),
            trajectory_weight: Some(if channel { 0.0 } else { 1.0 }),
            ..PhaseConfig::default()
        };
        let config = TrainConfig {
            phases: parts.clone().map(phase).to_vec(),
            learning_rate: 1e-2,
            save_steps: 1,
            batch_size: 2,
            sender_dropout: 0.3,
            position_dropout: 0.2,
            curriculum: Curriculum::Length,
            ..TrainConfig::default()
        };
        let load = || {
            let mut g = Golden::<B>::load(
                MODEL,
                AdapterScope::Shared,
                |c| {
                    setting.change(c);
                    c.feed = FeedKind::Learned;
                },
                &device,
            );
            for sample in &mut g.samples {
                sample.trajectories = vec![Some(vec![21, 22, 23]), None, None, None];
            }
            g
        };
        let g = load();
        let dir = tempfile::tempdir().unwrap();
        let mut trainer = g.trainer(config.clone());
        let specs = g.model.parameter_specs();
        let mut phases = Vec::new();
        trainer
            .train(
                &g.samples,
                Some(dir.path()),
                || false,
                |_, event| {
                    if let diffmas::training::Event::Step { metrics, .. } = event {
                        phases.push(metrics.phase.clone().unwrap());
                    }
                    Ok(())
                },
            )
            .unwrap();
        let named: Vec<String> = parts.iter().flat_map(|(p, _)| [p.to_string(), p.to_string()]).collect();
        assert_eq!(phases, named);
        let at = |step: usize| {
            let checkpoints = dir.path().join("checkpoints");
            let read = |file: &str| {
                diffmas::checkpoint::read_safetensors(&checkpoints.join(format!("step-{step}")).join(file))
                    .unwrap()
            };
            let mut all = read("adapter/communication.safetensors");
            let lora = read("adapter/adapter_model.safetensors");
            all.extend(lora.into_iter().map(|(name, x)| (format!("adapter.{name}"), x)));
            all
        };
        for (i, (part, _)) in parts.into_iter().enumerate().skip(1) {
            let (before, after) = (at(2 * i), at(2 * i + 2));
            let mut moved = 0;
            for (name, value) in &after {
                let group = specs.get(name).map_or(ParameterGroup::LORA, |spec| spec.group.clone());
                if group == part {
                    moved += usize::from(before[name] != *value);
                } else {
                    assert_eq!(before[name], *value, "{name} in phase {part}");
                }
            }
            assert!(moved > 0, "nothing learned in phase {part}");
        }
        // A run that goes on inside any phase ends in the same parameters.
        for step in [1, 3, 5, 6] {
            let checkpoints = dir.path().join("checkpoints");
            let cut = tempfile::tempdir().unwrap();
            let name = format!("step-{step}");
            copy(&checkpoints.join(&name), &cut.path().join("checkpoints").join(&name));
            let g = load();
            let mut resumed = g.trainer(config.clone());
            assert_eq!(resumed.resume(cut.path(), &g.samples).unwrap(), Some(step));
            resumed.train(&g.samples, None, || false, |_, _| Ok(())).unwrap();
            for (name, value) in trainer.parameters().iter() {
                assert_eq!(values(value), values(resumed.parameters().get(name)), "{name} after step {step}");
            }
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_phase_trains_only_what_it_names_and_runs_go_on_inside_any_phase() {
    on_backend(Phases);
}

struct Refusals;

impl Job for Refusals {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = Setting::new(ChannelKind::VECTORS, Topology::Sequential).load::<B>(&device);
        let try_new = |phases: Vec<PhaseConfig>| {
            let config = TrainConfig { phases, ..TrainConfig::default() };
            diffmas::training::Trainer::new(config, g.model.clone(), g.parameters.clone())
                .err()
                .map(|e| e.to_string())
        };
        let phase = |name: &str, train: &[ParameterGroup], channel| PhaseConfig {
            name: name.into(),
            train: Some(train.to_vec()),
            channel: Some(channel),
            ..PhaseConfig::default()
        };
        let encoder = phase("a", &[ParameterGroup::ENCODER], true);
        let error = try_new(vec![encoder.clone()]).unwrap();
        assert!(error.starts_with("phase `a` trains the encoder while all gates"), "{error}");
        let opening = phase("b", &[ParameterGroup::CROSS_ATTENTION], true);
        assert_eq!(try_new(vec![opening, encoder.clone()]), None);
        for nothing in
            [phase("c", &[ParameterGroup::FEED], true), phase("c", &[ParameterGroup::ENCODER], false)]
        {
            let error = try_new(vec![nothing]).unwrap();
            assert!(error.starts_with("phase `c` trains nothing"), "{error}");
            assert!(error.ends_with("(its parts: cross_attention, encoder, lora)"), "{error}");
        }
        let error = try_new(vec![phase("d", &[ParameterGroup::named("encodr")], true)]).unwrap();
        let part = "phase `d` cannot train: unknown part `encodr`; did you mean `encoder`? (known: lora, ";
        assert!(error.starts_with(part), "{error}");
        let config = TrainConfig { trajectory_weight: 0.5, max_steps: Some(1), ..TrainConfig::default() };
        let mut trainer = g.trainer(config);
        let error = trainer.train(&g.samples, None, || false, |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("no line has `trajectories`"), "{error}");
    }
}

#[test]
fn phases_that_cannot_learn_are_refused() {
    on_backend(Refusals);
}
