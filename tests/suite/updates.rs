//! An update is the same however its rows are cut into micro-batches or shared out to processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex};

use crate::batches::open_team;
use crate::channels::{LATENT, Setting};
use crate::common::*;
use burn::prelude::*;
use diffmas::agents::{ChannelKind, FeedKind, TeamBatch, Topology};
use diffmas::backends::{Job, ModelBackend};
use diffmas::text::TokenizedSample;
use diffmas::training::{Reduce, Sampler, StepMetrics, TrainConfig, Trainer};

/// `count` samples of different lengths.
fn many(samples: &[TokenizedSample], count: usize) -> Vec<TokenizedSample> {
    let changed = |i: usize| {
        let mut sample = samples[i % samples.len()].clone();
        sample.prompts.iter_mut().flatten().for_each(|id| *id = 8 + (*id * 7 + i as u32) % 500);
        sample
    };
    (0..count).map(changed).collect()
}

/// What readers do not see of each row, by its number: whole senders, and latent positions and vectors.
fn hidden<B: ModelBackend>(trainer: &Trainer<B>, batches: &[TeamBatch]) -> BTreeMap<u64, Vec<Vec<bool>>> {
    let mut all = BTreeMap::new();
    for batch in batches {
        let plan = trainer.plan(batch);
        for (row, &number) in batch.numbers.iter().enumerate() {
            let of = |agent: &diffmas::agents::AgentPlan| {
                let segment = agent.message.segment.iter().flat_map(|s| {
                    s.positions.valid[row * s.positions.len..][s.prompt_len..s.positions.len].iter().copied()
                });
                let vectors =
                    agent.message.vectors.iter().flat_map(|v| {
                        v.chunks_exact(v.len() / batch.rows()).nth(row).unwrap().iter().copied()
                    });
                std::iter::once(agent.dropped[row]).chain(segment).chain(vectors).collect()
            };
            all.insert(number, plan.agents.iter().map(of).collect());
        }
    }
    all
}

struct Cuts;

impl Job for Cuts {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for channel in LATENT {
            let g = open_team::<B>(&Setting::new(channel, Topology::Sequential), FeedKind::Identity, &device);
            let samples = many(&g.samples, 8);
            let config = TrainConfig { sender_dropout: 0.3, position_dropout: 0.3, ..TrainConfig::default() };
            let trainer = g.trainer(config);
            let cut = |size: usize| -> Vec<TeamBatch> {
                let drawn = Sampler::new(8, size, 8 / size, 5).update(0);
                let mut number = 0..;
                let batch = |rows: Vec<usize>| {
                    let own: Vec<_> = rows.iter().map(|&row| &samples[row]).collect();
                    TeamBatch::new(&own).numbered(number.by_ref().take(own.len()).collect())
                };
                drawn.into_iter().map(batch).collect()
            };
            let whole = cut(8);
            let (want, places) = (trainer.gradients(&whole), hidden(&trainer, &whole));
            assert!(want.dropped[0] > 0 && want.dropped[1] > 0, "{channel}: {:?}", want.dropped);
            for size in [4, 2, 1] {
                let mut batches = cut(size);
                for order in ["in order", "turned"] {
                    let what = format!("{channel}, {size} rows a micro-batch, {order}");
                    assert_eq!(hidden(&trainer, &batches), places, "{what}");
                    let got = trainer.gradients(&batches);
                    assert_eq!((got.dropped, got.positions), (want.dropped, want.positions), "{what}");
                    close(got.loss, want.loss, want.loss, 1e-5, &what);
                    same_gradients(&got.gradients, &want.gradients, 1e-3, &what);
                    same_gradients(&want.gradients, &got.gradients, 1e-3, &what);
                    batches.reverse();
                }
            }
        }
    }
}

#[test]
fn what_is_hidden_of_a_sample_does_not_depend_on_its_micro_batch() {
    on_backend(Cuts);
}

/// One of two threads that stand for processes.
struct Peer<B: Backend> {
    rank: usize,
    meeting: Arc<Meeting<B>>,
}

struct Meeting<B: Backend> {
    barrier: Barrier,
    numbers: [Mutex<Vec<f64>>; 2],
    tensors: [Mutex<Vec<Tensor<B, 1>>>; 2],
}

impl<B: Backend> Peer<B> {
    fn exchange<T: Clone>(&self, slots: &[Mutex<Vec<T>>; 2], own: Vec<T>) -> [Vec<T>; 2] {
        *slots[self.rank].lock().unwrap() = own;
        self.meeting.barrier.wait();
        let both = slots.each_ref().map(|slot| slot.lock().unwrap().clone());
        self.meeting.barrier.wait();
        assert_eq!(both[0].len(), both[1].len(), "peers talk of different things");
        both
    }
}

impl<B: ModelBackend> Reduce<B> for Peer<B> {
    fn numbers(&self, own: &mut [f64]) -> diffmas::Result<()> {
        let [a, b] = self.exchange(&self.meeting.numbers, own.to_vec());
        own.iter_mut().zip(a.iter().zip(b)).for_each(|(own, (a, b))| *own = a + b);
        Ok(())
    }

    fn tensor(&self, own: Tensor<B, 1>) -> diffmas::Result<Tensor<B, 1>> {
        let [a, b] = self.exchange(&self.meeting.tensors, vec![own]);
        Ok(a[0].clone() + b[0].clone())
    }
}

struct Processes;

impl Job for Processes {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut setting = Setting::new(ChannelKind::HYBRID, Topology::Sequential);
        setting.trajectories = true;
        let g = open_team::<B>(&setting, FeedKind::Identity, &device);
        let config = TrainConfig {
            trajectory_weight: 0.5,
            sender_dropout: 0.3,
            position_dropout: 0.3,
            ..TrainConfig::default()
        };
        // The third agent has text in the first row only.
        let row = |i: usize| TeamBatch::new(&[&g.samples[i]]).numbered(vec![i as u64]);
        let shares = [vec![row(0)], vec![row(1), row(2)]];
        let steps = |mut trainer: Trainer<B>, batches: &[TeamBatch]| {
            let metrics: Vec<StepMetrics> = (0..3).map(|_| trainer.update(batches, 1e-3).unwrap()).collect();
            let bits: Vec<(String, Vec<u64>)> = trainer
                .parameters()
                .iter()
                .map(|(name, t)| (name.clone(), values(t).iter().map(|x| x.to_bits()).collect()))
                .collect();
            (metrics, bits)
        };
        let meeting = Arc::new(Meeting {
            barrier: Barrier::new(2),
            numbers: Default::default(),
            tensors: Default::default(),
        });
        let peers = std::thread::scope(|s| {
            let peers = [0, 1].map(|rank| {
                let peer = Peer { rank, meeting: meeting.clone() };
                let trainer = g.trainer(config.clone()).with_reduce(peer);
                let (steps, share) = (&steps, &shares[rank]);
                s.spawn(move || steps(trainer, share))
            });
            peers.map(|peer| peer.join().unwrap())
        });
        let [(first, bits), (second, other)] = peers;
        assert_eq!(bits, other, "two processes have the same parameters");
        let (want, _) = steps(g.trainer(config), &shares.concat());
        for ((a, b), want) in first.iter().zip(&second).zip(&want) {
            let told = |m: &StepMetrics| {
                let norms: Vec<f64> = m.trace_grad_norm.values().copied().collect();
                let dropped = (m.dropped_senders, m.dropped_positions);
                (m.loss, m.trajectory_loss, m.grad_norm, m.clip_factor, dropped, norms)
            };
            assert_eq!(told(a), told(b), "two processes tell the same");
            let what = format!("update {}", want.step);
            let pairs = [
                (a.loss, want.loss),
                (a.trajectory_loss, want.trajectory_loss),
                (a.grad_norm, want.grad_norm),
            ];
            for (got, want) in pairs.map(|(got, want)| (got.unwrap(), want.unwrap())) {
                close(got, want, want, 1e-4, &what);
            }
            assert_eq!(told(a).4, told(want).4, "{what}");
            for (got, want) in told(a).5.iter().zip(told(want).5) {
                close(*got, want, want, 1e-3, &format!("{what}, gradient of a message"));
            }
        }
    }
}

#[test]
fn two_processes_that_share_an_update_take_the_step_of_one() {
    on_backend(Processes);
}
