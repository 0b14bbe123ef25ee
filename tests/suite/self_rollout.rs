//! The control `self`: the final agent's own rollout in place of the messages that it reads.

use crate::bits::is_exact;
use crate::channels::{Setting, with_open_gates};
use crate::common::*;
use diffmas::agents::{ChannelKind, FeedKind, SlotPlacement, TeamBatch, TeamConfig, Topology, Transmit};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::ReceivedMessages;
use diffmas::evaluation::{Checking, Control, Scoring, evaluate};
use diffmas::inference::DecodeOptions;

fn tensors<B: ModelBackend>(received: &ReceivedMessages<B>) -> Vec<Vec<f64>> {
    received.messages.iter().flat_map(|m| m.clone().into_tensors()).map(|t| values(&t)).collect()
}

struct Sizes;

impl Job for Sizes {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let settings = Setting::all().into_iter().filter(|s| s.channel != ChannelKind::TEXT);
        let settings = settings.flat_map(|s| [(s.clone(), FeedKind::Soft), (s, FeedKind::Slots)]);
        for (setting, feed) in settings {
            let what = format!("{} {feed}", setting.name());
            // Of a sender with slots, those alone are as many as its message has positions.
            let transmit = if feed == FeedKind::Slots { Transmit::Latent } else { Transmit::All };
            let change = |c: &mut TeamConfig| {
                (c.feed, c.transmit, c.slot_placement) = (feed, transmit, SlotPlacement::Spread);
            };
            let g = with_open_gates(setting.load_with::<B>(change, &device));
            let team = g.model.bind(&g.parameters);
            let real = team.roll_out_all(&batch(&g.samples));
            let (own, positions) = team.roll_out_self(&batch(&g.samples));
            let senders = |r: &ReceivedMessages<B>| r.messages.iter().map(|m| m.sender).collect::<Vec<_>>();
            assert_eq!(senders(&own), senders(&real), "{what}");
            let dtype = team.layout.config.message_dtype;
            for (row, sample) in g.samples.iter().enumerate() {
                let sizes = |r: &ReceivedMessages<B>| -> Vec<[usize; 2]> {
                    r.messages.iter().map(|m| [m.positions(row), m.bytes(row, dtype)]).collect()
                };
                assert_eq!(sizes(&own), sizes(&real), "{what}");
                let mut ids = Vec::new();
                for kv in own.segments() {
                    let at = row * kv.len()..(row + 1) * kv.len();
                    let cells = kv.positions.ids[at.clone()].iter().zip(&kv.positions.valid[at]);
                    ids.extend(cells.filter(|(_, valid)| **valid).map(|(id, _)| *id));
                }
                // Its prompt stands before the first of them, and its prompt comes next.
                let prompt = sample.prompts.last().unwrap().len() as u32;
                if !ids.is_empty() {
                    assert_eq!(ids, (prompt..own.start[row]).collect::<Vec<_>>(), "{what}");
                }
            }
            let prompts: usize = g.samples.iter().map(|s| s.prompts.last().unwrap().len()).sum();
            let last: usize = own.start.iter().map(|&id| id as usize).sum();
            assert_eq!(positions, last, "{what}: all that stands before the second reading was computed");
            assert!(positions > prompts, "{what}");
            // Nothing of the other agents counts but how long their prompts are.
            let mut others = g.samples.clone();
            for sample in &mut others {
                let upstream = sample.prompts.len() - 1;
                sample.prompts[..upstream].iter_mut().flatten().for_each(|id| *id = (*id + 11) % 400);
            }
            let (changed, _) = team.roll_out_self(&batch(&others));
            assert_eq!(tensors(&changed), tensors(&own), "{what}");
            assert_ne!(tensors(&team.roll_out_all(&batch(&others))), tensors(&real), "{what}");
            // Batched as alone; on some backends to the bit.
            let control = Control::SelfRollout;
            let together = losses(&team, &g.samples, 3, &control);
            if is_exact::<B>(&device) {
                assert_eq!(together, losses(&team, &g.samples, 1, &control), "{what}");
            } else if transmit == Transmit::Latent {
                // A step for every position of the messages is dozens of them: of a random model's mixtures of words each makes what rounding
                // leaves larger.
                for (a, b) in together.iter().zip(losses(&team, &g.samples, 1, &control)) {
                    close(*a, b, b, 1e-5, &what);
                }
            }
            assert_ne!(together, losses(&team, &g.samples, 3, &Control::Real), "{what}");
        }
    }
}

#[test]
fn its_own_rollout_is_as_large_as_the_messages_and_knows_nothing_of_them() {
    on_backend(Sizes);
}

struct Reference;

impl Job for Reference {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for (channel, transmit, feed) in [
            (ChannelKind::TRACE, Transmit::All, FeedKind::Soft),
            (ChannelKind::TRACE, Transmit::Prompt, FeedKind::Identity),
            (ChannelKind::TRACE, Transmit::Latent, FeedKind::Realign),
            (ChannelKind::HYBRID, Transmit::All, FeedKind::Soft),
            (ChannelKind::VECTORS, Transmit::Latent, FeedKind::Identity),
            (ChannelKind::VECTORS, Transmit::All, FeedKind::Soft),
        ] {
            let what = format!("{channel} {transmit} {feed}");
            let load = |steps: usize, own: Option<Transmit>| {
                let mut setting = Setting::new(channel, Topology::Sequential);
                setting.steps = [steps, 2, 3];
                let change = |c: &mut TeamConfig| {
                    (c.transmit, c.agents[0].feed, c.agents[0].transmit) = (transmit, Some(feed), own);
                };
                with_open_gates(setting.load_with::<B>(change, &device))
            };
            let g = load(1, None);
            let team = g.model.bind(&g.parameters);
            for sample in &g.samples {
                let (own, positions) = team.roll_out_self(&TeamBatch::new(&[sample]));
                // The first agent with the prompt of the final one, and as many steps as that makes.
                let prompt = sample.prompts.last().unwrap();
                let steps = positions - prompt.len();
                let like = load(steps, (channel != ChannelKind::VECTORS).then_some(Transmit::All));
                let mut sample = sample.clone();
                sample.prompts[0] = prompt.clone();
                let like = like.model.bind(&like.parameters).roll_out_all(&TeamBatch::new(&[&sample]));
                let first = &like.messages[0];
                if let Some(segment) = &first.segment {
                    let latent = segment.kv.slice(segment.prompt_len, segment.kv.len());
                    let joined =
                        diffmas::backbone::KeyValues::cat(&own.segments().collect::<Vec<_>>()).unwrap();
                    assert_eq!(joined.positions, latent.positions, "{what}");
                    for (a, b) in joined.into_tensors().iter().zip(latent.into_tensors()) {
                        for (a, b) in values(a).iter().zip(values(&b)) {
                            close(*a, b, b.abs().max(1.0), 1e-5, &what);
                        }
                    }
                }
                if let Some(vectors) = &first.vectors {
                    let own = own.messages[0].vectors.as_ref().unwrap();
                    for (a, b) in values(&own.values).iter().zip(values(&vectors.values)) {
                        close(*a, b, b.abs().max(1.0), 1e-5, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn it_is_what_the_first_agent_would_make_of_the_final_one_s_prompt() {
    on_backend(Reference);
}

struct Slots;

impl Job for Slots {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for (channel, transmit, serial) in [
            (ChannelKind::TRACE, Transmit::Latent, false),
            (ChannelKind::TRACE, Transmit::All, true),
            (ChannelKind::HYBRID, Transmit::All, false),
            (ChannelKind::VECTORS, Transmit::All, true),
            (ChannelKind::TRACE, Transmit::Prompt, false),
        ] {
            let what = format!("{channel} {transmit} {serial}");
            let change = |c: &mut TeamConfig| {
                (c.feed, c.transmit) = (FeedKind::Slots, transmit);
                // One of them makes steps.
                c.agents[1].feed = serial.then_some(FeedKind::Soft);
            };
            let setting = Setting::new(channel, Topology::Sequential);
            let g = with_open_gates(setting.load_with::<B>(change, &device));
            let team = g.model.bind(&g.parameters);
            for sample in &g.samples {
                let (own, _) = team.roll_out_self(&TeamBatch::new(&[sample]));
                // The first agent with the prompt of the final one: the same slots behind the same prompt.
                let mut like = sample.clone();
                like.prompts[0] = sample.prompts.last().unwrap().clone();
                let like = team.roll_out_all(&TeamBatch::new(&[&like]));
                let first = |r: &ReceivedMessages<B>| r.messages[0].clone().into_tensors();
                for (a, b) in first(&own).iter().zip(first(&like)) {
                    assert_eq!(a.dims(), b.dims(), "{what}");
                    for (a, b) in values(a).iter().zip(values(&b)) {
                        close(*a, b, b.abs().max(1.0), 1e-5, &what);
                    }
                }
                let ids: Vec<u32> = own.segments().flat_map(|kv| kv.positions.ids.clone()).collect();
                assert!(ids.iter().all(|&id| id < own.start[0]), "{what}");
            }
            let (together, alone) = (
                losses(&team, &g.samples, 3, &Control::SelfRollout),
                losses(&team, &g.samples, 1, &Control::SelfRollout),
            );
            if is_exact::<B>(&device) {
                assert_eq!(together, alone, "{what}");
            } else if !serial {
                for (a, b) in together.iter().zip(alone) {
                    close(*a, b, b, 1e-5, &what);
                }
            }
        }
    }
}

#[test]
fn the_slots_of_each_sender_stand_behind_the_final_one_s_prompt() {
    on_backend(Slots);
}

struct Costs;

impl Job for Costs {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let setting = Setting::new(ChannelKind::TRACE, Topology::Sequential);
        let g = setting.load_with::<B>(|c| c.transmit = Transmit::Latent, &device);
        let team = g.model.bind(&g.parameters);
        let options = DecodeOptions { max_new_tokens: 2, ..DecodeOptions::default() };
        let checking = Checking { options, tokenizer: None };
        let cost = |control: &Control| {
            let scoring = Scoring { checking: Some(&checking), ..scoring(2, control, 1) };
            evaluate(&team, &g.samples, &scoring, |_| Ok(())).unwrap().cost.unwrap().forward_positions
        };
        let prompts =
            |sample: &diffmas::text::TokenizedSample| sample.prompts.iter().map(Vec::len).sum::<usize>();
        let (all, last) = g
            .samples
            .iter()
            .fold((0, 0), |(all, last), s| (all + prompts(s), last + s.prompts.last().unwrap().len()));
        // Three senders of two latent steps each, and an answer of two tokens.
        let want = |prompts: usize| prompts as f64 / 3.0 + 6.0 + 2.0;
        close(cost(&Control::Real), want(all), want(all), 1e-12, "real");
        close(cost(&Control::Shuffled), want(all), want(all), 1e-12, "shuffled");
        close(cost(&Control::SelfRollout), want(2 * last), want(2 * last), 1e-12, "self");
        // It does not fit where the messages would.
        let longest = g.samples.iter().map(|s| s.prompts.last().unwrap().len()).max().unwrap();
        let (fits, answer) = (2 * longest + 6 + 20, 20);
        let check = |room| Control::SelfRollout.check_context(&team.layout.config, &g.samples, answer, room);
        check(fits).unwrap();
        let error = check(fits - 1).unwrap_err().to_string();
        assert!(error.contains(&format!("{fits} positions")) && error.contains("`solver`"), "{error}");
    }
}

#[test]
fn what_it_computes_is_counted_and_must_fit() {
    on_backend(Costs);
}
