//! On the CPU backend nothing of a row depends on the rows beside it, on padding or on the number of threads: not in a single bit, whatever
//! its weights are stored as.

use crate::batches::{FEEDS, open_team};
use crate::channels::{MODEL, Setting};
use crate::common::*;
use burn::Tensor;
use diffmas::agents::{ChannelKind, FeedKind, LossWeights, Team, TeamBatch, TeamPlan, TeamStages, Topology};
use diffmas::backbone::{KeyValues, ModelFiles, Precision, WeightDtype};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::{Message, ReceivedMessages};
use diffmas::inference::{DecodeOptions, decode};
use diffmas::text::TokenizedSample;
use diffmas::training::{CrossEntropy, FlatGradient, FlatLayout, Recompute, recompute};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;
use std::sync::Arc;

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

/// A team whose base is stored as `dtype`.
fn stored_as<B: ModelBackend>(dtype: WeightDtype, channel: ChannelKind, device: &B::Device) -> Golden<B> {
    let mut g = Setting::new(channel, Topology::Sequential).load::<B>(device);
    let files = ModelFiles::open(&folder(MODEL).join("model")).unwrap();
    g.model.backbone = files.load(device, Precision::stored(dtype)).unwrap();
    g
}

/// Asserts that `f` makes of the samples of random batches, with random numbers of threads, what it makes of each sample alone.
fn alike<R: PartialEq + Send>(
    samples: &[TokenizedSample],
    seed: u64,
    what: &str,
    f: impl Fn(&[&TokenizedSample]) -> Vec<R> + Sync,
) {
    let alone: Vec<R> = samples.iter().flat_map(|s| f(&[s])).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for size in [2, 5, 7, 13, 20] {
        let chosen: Vec<usize> = (0..size).map(|_| rng.random_range(0..alone.len())).collect();
        let batch: Vec<_> = chosen.iter().map(|&i| &samples[i]).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(rng.random_range(1..6)).build().unwrap();
        let together = pool.install(|| f(&batch));
        for (at, i) in chosen.iter().enumerate() {
            assert!(together[at] == alone[*i], "{what}: row {at} of {size}");
        }
    }
}

const DTYPES: [WeightDtype; 5] =
    [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16, WeightDtype::Q8, WeightDtype::Q4];

struct AnyWeights;

impl Job for AnyWeights {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for dtype in DTYPES.into_iter().filter(|_| is_exact::<B>(&device)) {
            let g = stored_as::<B>(dtype, ChannelKind::HYBRID, &device);
            let team = g.model.bind(&g.parameters);
            alike(&g.samples, 1, &format!("{dtype}"), |samples| rows(&team, samples));
        }
    }
}

#[test]
fn a_row_is_the_same_to_the_bit_beside_any_rows_with_weights_of_any_type() {
    on_backend(AnyWeights);
}

/// By row, the gradient of the summed losses in the real positions of each message.
fn cotangents<B: ModelBackend>(g: &Golden<B>, samples: &[&TokenizedSample]) -> Vec<Vec<Vec<u32>>> {
    let (batch, through) = (TeamBatch::new(samples), &[true; 4]);
    let weights = &LossWeights { target: 1.0, trajectories: Vec::new() };
    let (model, p) = (&g.model, &g.parameters);
    let plan = TeamPlan::new(&model.layout.config, &batch, |rollout| model.channel.inner.layout(rollout));
    let (plan, keep) = &Recompute::Always.divide(plan, model.backbone.layers.len(), false);
    let (outer, batch) = (model.to_autodiff(), &batch);
    let inner = TeamStages { model, batch, plan, objective: None, weights, through };
    let outer = TeamStages { model: &outer, batch, plan, objective: Some(&CrossEntropy), weights, through };
    let layout = FlatLayout::new(p.iter().map(|(name, value)| (name.clone(), value.dims())));
    let mut gradient = FlatGradient::new(Arc::new(layout), &model.backbone.device());
    let leaves = p.leaves(|_| true);
    let all = recompute(&inner, &outer, p, &leaves, &inner.reached(), keep, &mut gradient).cotangents;
    let messages = g.model.bind(p).roll_out_all(batch).messages;
    let of = |row: usize| {
        let of_message = |(tensors, m): (&Option<Vec<Tensor<B, 4>>>, &Message<B>)| {
            let kv = m.segment.as_ref().unwrap().kv.rows(row, 1);
            let tensors = tensors.as_ref().unwrap().iter().map(|t| t.clone().narrow(0, row, 1));
            real(&KeyValues::from_tensors(tensors.collect(), kv.positions)).0
        };
        all.iter().zip(&messages).map(of_message).collect()
    };
    (0..samples.len()).map(of).collect()
}

struct Cotangents;

impl Job for Cotangents {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for dtype in DTYPES.into_iter().filter(|_| is_exact::<B>(&device)) {
            let g = stored_as::<B>(dtype, ChannelKind::TRACE, &device);
            alike(&g.samples, 2, &format!("{dtype}"), |samples| cotangents(&g, samples));
        }
    }
}

#[test]
fn the_gradient_of_a_message_is_the_same_to_the_bit_beside_any_rows() {
    on_backend(Cotangents);
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
