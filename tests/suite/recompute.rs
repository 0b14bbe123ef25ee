//! What is recomputed and what is kept makes no difference to a gradient.

use std::cell::Cell;
use std::path::Path;

use crate::batches::FEEDS;
use crate::bits::is_exact;
use crate::channels::{Setting, with_open_gates};
use crate::common::*;
use diffmas::agents::{AdapterScope, ChannelKind, Dropout, FeedKind, SlotPlacement, Topology, Transmit};
use diffmas::backends::{Job, ModelBackend};
use diffmas::training::{CrossEntropy, Event, GraphMemory, MemorySize, Recompute, TrainConfig, Trainer};

/// Asserts that two outcomes are the same: every loss, and each tensor of the gradients within `tolerance` of its norm; a gate, the terms of which
/// cancel, within `tolerance` of a hundredth of all gradients' norm where that is more.
#[track_caller]
fn same<B: ModelBackend>(got: &Recomputed<B>, want: &Recomputed<B>, tolerance: f64, what: &str) {
    let losses =
        |outcome: &Recomputed<B>| outcome.losses.iter().copied().filter(|x| *x != 0.0).collect::<Vec<_>>();
    let (own, other) = (losses(got), losses(want));
    assert_eq!(own.len(), other.len(), "{what}");
    own.iter().zip(other).for_each(|(a, b)| close(*a, b, b, tolerance.min(1e-6), what));
    let names =
        |outcome: &Recomputed<B>| outcome.gradients.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(got), names(want), "{what}");
    let all = want.gradients.norm();
    for ((name, got), (_, want)) in got.gradients.iter().zip(want.gradients.iter()) {
        let want = values(want);
        let off: Vec<f64> = values(got).iter().zip(&want).map(|(a, b)| a - b).collect();
        let least = if want.len() == 1 { 1e-2 * all } else { 1e-6 };
        close(norm(&off), 0.0, norm(&want).max(least), tolerance, &format!("{what} {name}"));
    }
}

/// One case in all modes, against recomputation of everything.
#[track_caller]
fn all_modes<B: ModelBackend>(g: &Golden<B>, through: &[bool], dropout: Dropout, exact: bool, what: &str) {
    let batch = &batch(&g.samples);
    let case = Case { model: &g.model, batch, through, lambda: 0.5 };
    let mut plan = case.plan();
    plan.drop_messages(dropout, 3, &[7, 8, 9], |message, before, dropped| {
        g.model.channel.inner.hide(message, before, dropped);
    });
    let run_by = |mode| case.differentiated_in(mode, &plan, &CrossEntropy, &g.parameters);
    let run = |mode| run_by((mode, false));
    let always = run(Recompute::Always);
    let never = run(Recompute::Never);
    same(&never, &always, if exact { 0.0 } else { 1e-5 }, &format!("{what}, all kept"));
    for (stage, (got, want)) in never.cotangents.iter().zip(&always.cotangents).enumerate() {
        assert_eq!(got.is_some(), want.is_some(), "{what}, stage {stage}");
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!(
                !exact || values(got) == values(want),
                "{what}: what reaches the message of stage {stage}"
            );
        }
    }
    let prompts = run(Recompute::Prompts);
    // Nothing is added up in another order where no block moves, nobody computes anything of what it reads but attention, and no text is
    // learned beside latent steps.
    let config = &g.model.layout.config;
    let alike = config.channel.kind == ChannelKind::TRACE
        && config.topology == Topology::Sequential
        && batch.trajectories.iter().all(Option::is_none);
    let tolerance = if exact && alike { 0.0 } else { 1e-5 };
    same(&prompts, &always, tolerance, &format!("{what}, prompts recomputed"));
    for mode in [Recompute::Always, Recompute::Prompts] {
        same(&run_by((mode, true)), &always, tolerance, &format!("{what}, {mode} by layer"));
    }
    let senders = |outcome: &Recomputed<B>| outcome.cotangents.iter().flatten().count();
    assert!(senders(&prompts) >= senders(&always), "{what}");
    same(&run(Recompute::Prompts), &prompts, if exact { 0.0 } else { 1e-6 }, &format!("{what}, again"));
}

struct Channels;

impl Job for Channels {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let exact = is_exact::<B>(&device);
        let drops = Dropout { senders: 0.3, positions: 0.3 };
        for setting in Setting::all() {
            for (through, dropout) in [([true; 4], Dropout::default()), ([false, true, true, true], drops)] {
                let g = with_open_gates(setting.load::<B>(&device));
                all_modes(
                    &g,
                    &through,
                    dropout,
                    exact,
                    &format!("{} {through:?} {dropout:?}", setting.name()),
                );
            }
        }
    }
}

#[test]
fn every_channel_and_topology_has_one_gradient_whatever_is_recomputed() {
    on_backend(Channels);
}

struct Feeds;

impl Job for Feeds {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let exact = is_exact::<B>(&device);
        let feeds = FEEDS.into_iter().map(|feed| (feed, SlotPlacement::End));
        for (feed, placement) in feeds.chain([(FeedKind::Slots, SlotPlacement::Spread)]) {
            for transmit in [Transmit::All, Transmit::Latent, Transmit::Prompt] {
                for mut setting in [0, 7, 10].map(|i| Setting::all().swap_remove(i)) {
                    setting.trajectories = transmit == Transmit::All;
                    let change = |c: &mut diffmas::agents::TeamConfig| {
                        (c.feed, c.slot_placement, c.transmit) = (feed, placement, transmit);
                    };
                    let g = with_open_gates(setting.load_with::<B>(change, &device));
                    let what = format!("{} {feed} {placement} {transmit}", setting.name());
                    all_modes(&g, &[true; 4], Dropout::default(), exact, &what);
                }
            }
        }
    }
}

#[test]
fn every_feed_and_transmission_has_one_gradient_whatever_is_recomputed() {
    on_backend(Feeds);
}

/// How runs of `Modes` are trained.
fn config(recompute: Recompute) -> TrainConfig {
    TrainConfig {
        learning_rate: 1e-2,
        batch_size: 2,
        gradient_accumulation_steps: 2,
        max_steps: Some(4),
        save_steps: 2,
        recompute,
        ..TrainConfig::default()
    }
}

struct Modes;

impl Job for Modes {
    type Output = ();

    /// Whole runs: what is kept changes no update, and a resumed run goes on as it began.
    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, |c| c.latent_steps = 2, &device);
        let trained = |mut trainer: Trainer<B>, output: Option<&Path>, updates: usize| {
            let done = Cell::new(0);
            let count = |_: &Trainer<B>, event: Event<'_>| {
                done.set(done.get() + usize::from(matches!(event, Event::Step { .. })));
                Ok(())
            };
            trainer.train(&g.samples, output, || done.get() == updates, count).unwrap();
            trainer
        };
        let run = |mode| trained(g.trainer(config(mode)), None, 4).parameters().clone();
        let (always, never, prompts) =
            (run(Recompute::Always), run(Recompute::Never), run(Recompute::Prompts));
        let exact = is_exact::<B>(&device);
        same_gradients(&never, &always, if exact { 0.0 } else { 1e-4 }, "all kept");
        same_gradients(&prompts, &always, if exact { 0.0 } else { 1e-4 }, "prompts recomputed");
        let by_layer = TrainConfig { activation_checkpointing: true, ..config(Recompute::Prompts) };
        let by_layer = trained(g.trainer(by_layer), None, 4);
        same_gradients(by_layer.parameters(), &always, if exact { 0.0 } else { 1e-4 }, "by layer");
        let neither = TrainConfig { activation_checkpointing: true, ..config(Recompute::Never) };
        let error = neither.validate().unwrap_err().to_string();
        assert!(error.contains("but recompute is never"), "{error}");
        for (limit, mode, whole) in [(0, Recompute::Always, &always), (u64::MAX, Recompute::Never, &never)] {
            let dir = tempfile::tempdir().unwrap();
            let chooses = |limit| {
                let memory_limit = Some(MemorySize(limit));
                g.trainer(TrainConfig { memory_limit, ..config(Recompute::Auto) })
            };
            let first = trained(chooses(limit), Some(dir.path()), 3);
            assert_eq!(
                (first.config().recompute, first.config().memory_limit),
                (mode, Some(MemorySize(limit)))
            );
            // On another day there is more memory, or less.
            let mut second = chooses(u64::MAX - limit);
            assert_eq!(second.resume(dir.path(), &g.samples).unwrap(), Some(3));
            assert_eq!(second.choose_recompute(&g.samples, || None), None, "it has been chosen");
            let second = trained(second, None, 4);
            assert_eq!(second.config().recompute, mode);
            same_gradients(second.parameters(), whole, if exact { 0.0 } else { 1e-4 }, "resumed");
            let by_layer = TrainConfig { activation_checkpointing: true, ..config(Recompute::Auto) };
            let error = g.trainer(by_layer).resume(dir.path(), &g.samples).unwrap_err().to_string();
            assert!(error.contains("`activation_checkpointing` was not set and is now true"), "{error}");
            let error =
                g.trainer(config(Recompute::Prompts)).resume(dir.path(), &g.samples).unwrap_err().to_string();
            assert!(error.contains(&format!("`recompute` was \"{mode}\" and is now \"prompts\"")), "{error}");
        }
    }
}

#[test]
fn a_run_learns_the_same_whatever_it_keeps_and_goes_on_in_the_mode_in_which_it_began() {
    on_backend(Modes);
}

struct Chosen;

impl Job for Chosen {
    type Output = ();

    /// The mode that keeps most of those that fit, by sizes alone.
    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all() {
            let what = setting.name();
            let g = setting.load::<B>(&device);
            let choose = |limit, samples: &[_]| {
                let memory_limit = Some(MemorySize(limit));
                let mut trainer = g.trainer(TrainConfig { memory_limit, ..config(Recompute::Auto) });
                trainer.choose_recompute(samples, || panic!("{what}: a limit is set")).unwrap()
            };
            let memory = choose(0, &g.samples).memory;
            let GraphMemory { never, prompts, always } = memory;
            assert!(always > 0 && prompts <= never && always <= prompts, "{what}: {memory:?}");
            assert_eq!(choose(never, &g.samples).mode, Recompute::Never, "{what}");
            if setting.channel != ChannelKind::TEXT {
                assert!(always <= prompts && prompts < never, "{what}: {memory:?}");
                let modes = [never - 1, prompts, prompts - 1].map(|limit| choose(limit, &g.samples).mode);
                assert_eq!(modes, [Recompute::Prompts, Recompute::Prompts, Recompute::Always], "{what}");
            }
            let by_layer = TrainConfig { activation_checkpointing: true, ..config(Recompute::Auto) };
            let choice = g.trainer(by_layer).choose_recompute(&g.samples, || Some(u64::MAX)).unwrap();
            assert!(choice.mode == Recompute::Prompts && choice.memory.prompts < prompts, "{what}: {choice}");
            let mut longer = g.samples.clone();
            longer[1].prompts[3].extend([1; 20]);
            assert!(choose(0, &longer).memory.never > never, "{what}: a longer prompt takes more");
            assert_eq!(choose(0, &longer).memory, choose(1, &longer).memory);
        }
        let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, |_| (), &device);
        let mut unknown = g.trainer(config(Recompute::Auto));
        let choice = unknown.choose_recompute(&g.samples, || None).unwrap();
        assert_eq!((choice.mode, choice.limit), (Recompute::Always, None));
        assert!(choice.to_string().contains("--memory-limit"), "{choice}");
        let choice =
            g.trainer(config(Recompute::Auto)).choose_recompute(&g.samples, || Some(3 << 30)).unwrap();
        assert_eq!((choice.mode, choice.limit), (Recompute::Never, Some(MemorySize(3 << 29))));
        assert!(choice.to_string().starts_with("recompute = never: no pass runs twice"), "{choice}");
    }
}

#[test]
fn what_is_recomputed_is_chosen_by_sizes_and_the_limit_alone() {
    on_backend(Chosen);
}
