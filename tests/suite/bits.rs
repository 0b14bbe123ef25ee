//! On the CPU backend nothing of a row depends on the rows beside it, on padding or on the number of threads: not in a single bit.

use crate::batches::{FEEDS, open_team};
use crate::channels::{MODEL, Setting};
use crate::common::*;
use diffmas::agents::{ChannelKind, FeedKind, Team, TeamBatch, Topology};
use diffmas::backbone::{KeyValues, ModelFiles, Precision, WeightDtype};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::{Message, ReceivedMessages};
use diffmas::inference::{DecodeOptions, decode};
use diffmas::text::TokenizedSample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;

/// What a team makes of one row.
#[derive(Debug, PartialEq)]
struct Row {
    /// Bits of the real positions of each message, and of its vectors.
    messages: Vec<Vec<u32>>,
    /// Ids of those positions.
    ids: Vec<Vec<u32>>,
    /// Id of the final agent's first position.
    start: u32,
    /// Bits of the loss of each token of the target.
    nll: Vec<u32>,
    /// Best tokens, one after another.
    answer: Vec<u32>,
}

fn bits(values: impl IntoIterator<Item = f64>) -> Vec<u32> {
    values.into_iter().map(|x| (x as f32).to_bits()).collect()
}

/// Keys and values of the real positions of the only row of `kv`, and the ids of those.
fn real<B: ModelBackend>(kv: &KeyValues<B>) -> (Vec<u32>, Vec<u32>) {
    let at: Vec<usize> = (0..kv.len()).filter(|&i| kv.positions.valid[i]).collect();
    let mut all = Vec::new();
    for t in kv.clone().into_tensors() {
        let [_, heads, n, d] = t.dims();
        let x = values(&t);
        for (head, i) in (0..heads).flat_map(|h| at.iter().map(move |i| (h, i))) {
            all.extend(bits(x[(head * n + i) * d..][..d].iter().copied()));
        }
    }
    (all, at.iter().map(|&i| kv.positions.ids[i]).collect())
}

fn message<B: ModelBackend>(m: &Message<B>, row: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut all, ids) = m.segment.as_ref().map(|s| real(&s.kv.rows(row, 1))).unwrap_or_default();
    if let Some(v) = &m.vectors {
        all.extend(bits(values(&v.values.clone().narrow(0, row, 1))));
    }
    (all, ids)
}

/// What `team` makes of `samples` as one batch.
fn rows<B: ModelBackend>(team: &Team<B>, samples: &[&TokenizedSample]) -> Vec<Row> {
    let batch = TeamBatch::new(samples);
    rows_of(team, &batch, &team.roll_out_all(&batch), samples)
}

/// What `team` makes of `samples` as one batch where the final agent finds its own rollout.
fn self_rows<B: ModelBackend>(team: &Team<B>, samples: &[&TokenizedSample]) -> Vec<Row> {
    let batch = TeamBatch::new(samples);
    rows_of(team, &batch, &team.roll_out_self(&batch).0, samples)
}

/// What `team` makes of `samples` where the final agent finds `received`.
fn rows_of<B: ModelBackend>(
    team: &Team<B>,
    batch: &TeamBatch,
    received: &ReceivedMessages<B>,
    samples: &[&TokenizedSample],
) -> Vec<Row> {
    let context = team.read(received);
    let (prompt, target) = (batch.prompts.last().unwrap(), batch.target.as_ref().unwrap());
    let nll = bits(values(&team.target_nll(prompt, target, &context)));
    let options = DecodeOptions { max_new_tokens: 6, ..DecodeOptions::default() };
    let sample_ids: Vec<u64> = (0..samples.len() as u64).collect();
    let more = |_, _| ControlFlow::Continue(());
    let answers = decode(team.answering(), prompt, &context, &options, &sample_ids, more).unwrap();
    let mut nll = nll.into_iter();
    let row = |(row, sample): (usize, &&TokenizedSample)| {
        let (messages, ids) = received.messages.iter().map(|m| message(m, row)).unzip();
        let tokens = sample.target.as_ref().map_or(0, Vec::len);
        let nll = nll.by_ref().take(tokens).collect();
        Row { messages, ids, start: received.start[row], nll, answer: answers[row].token_ids.clone() }
    };
    samples.iter().enumerate().map(row).collect()
}

/// Other backends choose kernels by size: their rows agree to rounding, as tests of channels and gradients assert.
pub fn is_exact<B: ModelBackend>(device: &B::Device) -> bool {
    B::name(device) == "flex"
}

struct Neighbours;

impl Job for Neighbours {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        if !is_exact::<B>(&device) {
            return;
        }
        for setting in Setting::all() {
            let feeds = if setting.channel == ChannelKind::TEXT { &FEEDS[..1] } else { &FEEDS };
            for &feed in feeds {
                let mut setting = setting.clone();
                setting.steps = [1, 20, 3];
                let what = format!("{} {feed}", setting.name());
                let g = open_team::<B>(&setting, feed, &device);
                let team = g.model.bind(&g.parameters);
                let alone: Vec<Row> = g.samples.iter().flat_map(|s| rows(&team, &[s])).collect();
                let self_alone: Vec<Row> = g.samples.iter().flat_map(|s| self_rows(&team, &[s])).collect();
                // Few rows of a matrix, and many.
                for size in [3, 12] {
                    let samples: Vec<_> = g.samples.iter().cycle().take(size).collect();
                    let together = rows(&team, &samples);
                    for (i, row) in together.iter().enumerate() {
                        assert!(*row == alone[i % 3], "{what}: row {i} of {size}");
                    }
                    for (i, row) in self_rows(&team, &samples).iter().enumerate() {
                        assert!(*row == self_alone[i % 3], "{what}: row {i} of {size}, its own rollout");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_to_the_bit_whatever_stands_beside_it() {
    on_backend(Neighbours);
}

struct NarrowWeights;

impl Job for NarrowWeights {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        if !is_exact::<B>(&device) {
            return;
        }
        let model = folder(MODEL).join("model");
        for dtype in [WeightDtype::Bf16, WeightDtype::F16, WeightDtype::Q8, WeightDtype::Q4] {
            let mut g = Setting::new(ChannelKind::HYBRID, Topology::Sequential).load::<B>(&device);
            g.model.backbone =
                ModelFiles::open(&model).unwrap().load(&device, Precision::stored(dtype)).unwrap();
            let team = g.model.bind(&g.parameters);
            let alone: Vec<Row> = g.samples.iter().flat_map(|s| rows(&team, &[s])).collect();
            let mut rng = ChaCha8Rng::seed_from_u64(dtype as u64);
            for size in [2, 5, 7, 13, 20] {
                let chosen: Vec<usize> = (0..size).map(|_| rng.random_range(0..alone.len())).collect();
                let samples: Vec<_> = chosen.iter().map(|&i| &g.samples[i]).collect();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(rng.random_range(1..6));
                let together = pool.build().unwrap().install(|| rows(&team, &samples));
                for (row, i) in together.iter().zip(&chosen) {
                    assert!(*row == alone[*i], "{dtype}: row {i} of {size}");
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_to_the_bit_beside_any_rows_with_weights_of_any_type() {
    on_backend(NarrowWeights);
}

struct Threads;

impl Job for Threads {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        if !is_exact::<B>(&device) {
            return;
        }
        for channel in [ChannelKind::HYBRID, ChannelKind::OVERWRITE] {
            let setting = Setting::new(channel, Topology::Sequential);
            let g = open_team::<B>(&setting, FeedKind::Soft, &device);
            let team = g.model.bind(&g.parameters);
            let samples: Vec<_> = g.samples.iter().cycle().take(12).collect();
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| rows(&team, &samples))
            };
            let one = with(1);
            for threads in [2, 5] {
                assert!(with(threads) == one, "{channel}: {threads} threads");
            }
        }
    }
}

#[test]
fn no_bit_depends_on_the_number_of_threads() {
    on_backend(Threads);
}
