//! What is recomputed and what is kept makes no difference to a gradient.

use crate::batches::FEEDS;
use crate::bits::is_exact;
use crate::channels::{Setting, with_open_gates};
use crate::common::*;
use diffmas::agents::{Dropout, FeedKind, SlotPlacement, Transmit};
use diffmas::backends::{Job, ModelBackend};
use diffmas::training::{CrossEntropy, Outcome, Recompute};

/// Asserts that two outcomes are the same: every loss, and each tensor of the gradients and of what reaches messages, within `tolerance` of
/// its norm.
#[track_caller]
fn same<B: ModelBackend>(got: &Outcome<B>, want: &Outcome<B>, tolerance: f64, what: &str) {
    let losses =
        |outcome: &Outcome<B>| outcome.losses.iter().copied().filter(|x| *x != 0.0).collect::<Vec<_>>();
    assert_eq!(losses(got), losses(want), "{what}: what is lost is computed in the same way");
    same_gradients(&got.gradients, &want.gradients, tolerance, what);
    assert_eq!(got.gradients.len(), want.gradients.len(), "{what}");
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
    let run = |mode| case.differentiated_in(mode, &plan, &CrossEntropy, &g.parameters);
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
    same(&prompts, &always, 1e-5, &format!("{what}, prompts recomputed"));
    let senders = |outcome: &Outcome<B>| outcome.cotangents.iter().flatten().count();
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
