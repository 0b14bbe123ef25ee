//! An update is the same however its rows are cut into micro-batches or shared out to processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex};

use crate::batches::open_team;
use crate::channels::{LATENT, Setting};
use crate::common::*;
use diffmas::agents::{ChannelKind, FeedKind, TeamBatch, Topology};
use diffmas::backends::{Job, ModelBackend};
use diffmas::processes::Processes;
use diffmas::text::TokenizedSample;
use diffmas::training::{Sampler, StepMetrics, TrainConfig, Trainer};

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

/// One of several threads that stand for processes.
struct Peer {
    rank: usize,
    meeting: Arc<Meeting>,
}

struct Meeting {
    barrier: Barrier,
    gathered: Vec<Mutex<Vec<u8>>>,
    dealt: Vec<Mutex<Vec<Vec<f32>>>>,
}

impl Peer {
    /// All of `slots` once each peer has filled its own.
    fn exchange<T: Clone>(&self, slots: &[Mutex<T>], own: T) -> Vec<T> {
        *slots[self.rank].lock().unwrap() = own;
        self.meeting.barrier.wait();
        let all = slots.iter().map(|slot| slot.lock().unwrap().clone()).collect();
        self.meeting.barrier.wait();
        all
    }
}

impl Processes for Peer {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.meeting.gathered.len()
    }

    fn on_machine(&self) -> (usize, usize) {
        (self.rank, self.count())
    }

    fn deal(&self, parts: Vec<Vec<f32>>) -> diffmas::Result<Vec<Vec<f32>>> {
        assert_eq!(parts.len(), self.count());
        let all = self.exchange(&self.meeting.dealt, parts);
        Ok(all.into_iter().map(|mut parts| parts.swap_remove(self.rank)).collect())
    }

    fn gather(&self, own: &[u8]) -> diffmas::Result<Vec<Vec<u8>>> {
        Ok(self.exchange(&self.meeting.gathered, own.to_vec()))
    }
}

struct Shared;

impl Job for Shared {
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
        let rows = [row(0), row(1), row(2)];
        let steps = |mut trainer: Trainer<B>, batches: &[TeamBatch]| {
            let told = |m: StepMetrics| {
                let dropped = (m.dropped_senders, m.dropped_positions);
                (m.loss, m.trajectory_loss, m.grad_norm, m.clip_factor, dropped, m.trace_grad_norm)
            };
            let metrics: Vec<_> = (0..3).map(|_| told(trainer.update(batches, 1e-3).unwrap())).collect();
            let bits: Vec<(String, Vec<u64>)> = trainer
                .parameters()
                .iter()
                .map(|(name, t)| (name.clone(), values(t).iter().map(|x| x.to_bits()).collect()))
                .collect();
            (metrics, bits)
        };
        let want = steps(g.trainer(config.clone()), &rows);
        // Of four, one has nothing to do.
        for count in [2, 3, 4] {
            let meeting = Arc::new(Meeting {
                barrier: Barrier::new(count),
                gathered: (0..count).map(|_| Mutex::default()).collect(),
                dealt: (0..count).map(|_| Mutex::default()).collect(),
            });
            std::thread::scope(|s| {
                let peers: Vec<_> = (0..count)
                    .map(|rank| {
                        let peer: Arc<dyn Processes> = Arc::new(Peer { rank, meeting: meeting.clone() });
                        let share: Vec<TeamBatch> = peer.own(rows.clone()).collect();
                        let (trainer, steps) = (g.trainer(config.clone()).among(peer), &steps);
                        s.spawn(move || steps(trainer, &share))
                    })
                    .collect();
                for (rank, peer) in peers.into_iter().enumerate() {
                    assert!(peer.join().unwrap() == want, "process {rank} of {count}");
                }
            });
        }
    }
}

#[test]
fn several_processes_that_share_an_update_take_the_step_of_one() {
    on_backend(Shared);
}
