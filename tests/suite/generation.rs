//! Rows that join a generation later and leave it earlier, of every channel, against the same rows alone.

use crate::batches::open_team;
use crate::bits::is_exact;
use crate::channels::{LATENT, Setting};
use crate::common::*;
use std::collections::BTreeMap;
use std::sync::Arc;

use diffmas::agents::{AgentInput, ChannelKind, FeedKind, PromptBuilder, Team, TeamBatch, Topology};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::Context;
use diffmas::inference::{DecodeOptions, End, Generation, RowOptions, Sampling, Writing};
use diffmas::text::TokenizedSample;

/// Tokens of rows, by number, and their log-probabilities.
type Rows = BTreeMap<usize, Vec<(u32, f32)>>;

/// How three rows are continued, each in its own way.
fn options(row: usize) -> RowOptions {
    let random = |top_k, top_p| Sampling::Random { temperature: 0.9, top_k, top_p, min_p: 0.0 };
    let (sampling, repetition_penalty, max_new_tokens) = match row {
        0 => (Sampling::Greedy, 1.0, 9),
        1 => (random(5, 1.0), 1.3, 5),
        2 => (random(0, 0.9), 1.0, 7),
        _ => (Sampling::Greedy, 1.5, 8),
    };
    let options =
        DecodeOptions { sampling, repetition_penalty, max_new_tokens, seed: 3, ..DecodeOptions::default() };
    RowOptions { options, sample_id: row as u64 }
}

fn take<B: ModelBackend>(generation: &mut Generation<B>, rows: &mut Rows) {
    for token in generation.step() {
        let token = token.unwrap();
        rows.entry(token.row).or_default().push((token.id, token.log_prob));
    }
}

fn take_all<B: ModelBackend>(generation: &mut Generation<B>, rows: &mut Rows) {
    while !generation.is_empty() {
        take(generation, rows);
    }
}

/// Prompts of the final agent for some samples, and what it received.
struct Read<B: ModelBackend> {
    prompt: AgentInput,
    context: Context<B>,
}

impl<B: ModelBackend> Read<B> {
    fn new(team: &Team<B>, samples: &[&TokenizedSample]) -> Self {
        let batch = TeamBatch::new(samples);
        let context = team.read(&team.roll_out_all(&batch));
        Self { prompt: batch.prompts.last().unwrap().clone(), context }
    }

    fn join(&self, generation: &mut Generation<B>, rows: &[usize]) {
        generation.prefill(&self.prompt, &self.context, rows.iter().map(|&row| options(row)).collect());
    }

    /// What a single row writes by itself.
    fn alone(&self, team: &Team<B>, options: RowOptions) -> Vec<(u32, f32)> {
        let (mut generation, mut rows) = (Generation::new(team.answering()), Rows::new());
        generation.prefill(&self.prompt, &self.context, vec![options]);
        take_all(&mut generation, &mut rows);
        rows.remove(&0).unwrap()
    }
}

#[track_caller]
fn same<B: ModelBackend>(got: &[(u32, f32)], want: &[(u32, f32)], device: &B::Device, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.0, want.0, "{what}, token {i}");
        if is_exact::<B>(device) {
            assert_eq!(got.1.to_bits(), want.1.to_bits(), "{what}, token {i}");
        } else {
            close(f64::from(got.1), f64::from(want.1), 1.0, 1e-3, &format!("{what}, token {i}"));
        }
    }
}

/// A team of each channel, and its samples with what upstream agents wrote.
fn teams<B: ModelBackend>(device: &B::Device) -> Vec<(String, Team<B>, Vec<TokenizedSample>)> {
    let settings =
        LATENT.iter().chain([&ChannelKind::TEXT]).map(|&channel| Setting::new(channel, Topology::Sequential));
    settings
        .map(|setting| {
            let mut g = open_team::<B>(&setting, FeedKind::Identity, device);
            Arc::make_mut(&mut g.model.layout).config.message_tokens = 3;
            let team = g.model.bind(&g.parameters);
            let mut samples = g.samples;
            if setting.channel == ChannelKind::TEXT {
                let prompts = Arc::new(PromptBuilder::new(&team.layout.config.agents, None).unwrap());
                let writing = Writing::new(&team.layout.config, prompts, DecodeOptions::default()).unwrap();
                samples = writing.write(&team, &samples, &[0, 1, 2]).unwrap().0;
            }
            (setting.name(), team, samples)
        })
        .collect()
}

struct Joining;

impl Job for Joining {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for (name, team, samples) in teams::<B>(&device) {
            let each: Vec<Read<B>> = samples.iter().map(|sample| Read::new(&team, &[sample])).collect();
            let want: Vec<Vec<(u32, f32)>> =
                (0..4).map(|row| each[row % 3].alone(&team, options(row))).collect();
            // Rows 0 and 3 are of the same sample; row 1 leaves after three of its five tokens.
            let (mut generation, mut rows) = (Generation::new(team.answering()), Rows::new());
            each[0].join(&mut generation, &[0]);
            (0..2).for_each(|_| take(&mut generation, &mut rows));
            each[1].join(&mut generation, &[1]);
            take(&mut generation, &mut rows);
            assert_eq!((generation.rows(), generation.passes()), (vec![0, 1], 1), "{name}");
            Read::new(&team, &[&samples[2], &samples[0]]).join(&mut generation, &[2, 3]);
            (0..2).for_each(|_| take(&mut generation, &mut rows));
            generation.remove(1);
            take_all(&mut generation, &mut rows);
            for (row, want) in want.iter().enumerate() {
                let want = if row == 1 { &want[..3] } else { want };
                same::<B>(&rows[&row], want, &device, &format!("{name}, row {row}"));
            }
            // All from the beginning.
            let samples: Vec<_> = samples.iter().collect();
            let (mut generation, mut rows) = (Generation::new(team.answering()), Rows::new());
            Read::new(&team, &samples).join(&mut generation, &[0, 1, 2]);
            take_all(&mut generation, &mut rows);
            for row in 0..3 {
                same::<B>(&rows[&row], &want[row], &device, &format!("{name}, row {row} of a batch"));
            }
        }
    }
}

#[test]
fn rows_that_join_later_and_leave_earlier_write_what_they_write_alone() {
    on_backend(Joining);
}

struct Forks;

impl Job for Forks {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for (name, team, samples) in teams::<B>(&device) {
            let seeded = |seed: u64| {
                let mut row = options(2);
                row.options.seed = seed;
                row
            };
            let one = Read::new(&team, &[&samples[1]]);
            let want: Vec<_> = (0..4).map(|seed| one.alone(&team, seeded(seed))).collect();
            assert!(want.windows(2).any(|pair| pair[0] != pair[1]), "{name}: seeds differ");
            // Of a row by itself, whose keys and values they share, and of one among others.
            for (of, all) in [(0, vec![&samples[1]]), (1, samples.iter().collect())] {
                let (mut generation, mut rows) = (Generation::new(team.answering()), Rows::new());
                let first = Read::new(&team, &all);
                let n = all.len();
                generation.prefill(&first.prompt, &first.context, (0..n).map(|_| seeded(0)).collect());
                let forks = generation.fork(of, (1..4).map(seeded).collect());
                assert_eq!(forks, n..n + 3);
                take_all(&mut generation, &mut rows);
                for (want, row) in want.iter().zip([of].into_iter().chain(forks)) {
                    same::<B>(&rows[&row], want, &device, &format!("{name}, row {row} of {n} and 3"));
                }
            }
            // On the way: a fork goes on as its row would, and its tokens count.
            let greedy = RowOptions { sample_id: 9, ..options(0) };
            let want = one.alone(&team, greedy.clone());
            let (mut generation, mut rows) = (Generation::new(team.answering()), Rows::new());
            one.join(&mut generation, &[0]);
            (0..3).for_each(|_| take(&mut generation, &mut rows));
            generation.fork(0, vec![greedy.clone(); 2]);
            take(&mut generation, &mut rows);
            generation.remove(0);
            generation.fork(2, vec![greedy]);
            take_all(&mut generation, &mut rows);
            assert_eq!(rows[&0].len(), 4);
            for (row, from) in [(1, 3), (2, 3), (3, 4)] {
                same::<B>(&rows[&row], &want[from..], &device, &format!("{name}, fork {row}"));
            }
        }
    }
}

#[test]
fn forks_of_a_row_write_what_rows_with_their_seeds_write() {
    on_backend(Forks);
}

struct Ends;

impl Job for Ends {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let setting = Setting::new(ChannelKind::TRACE, Topology::Sequential);
        let g = open_team::<B>(&setting, FeedKind::Identity, &device);
        let team = g.model.bind(&g.parameters);
        let one = Read::new(&team, &[&g.samples[0]]);
        let tokens = one.alone(&team, options(0));
        let first = tokens.iter().position(|t| t.0 == tokens[2].0).unwrap();
        let mut stopped = options(0);
        stopped.options.stop_tokens = vec![tokens[2].0];
        let mut nothing = options(0);
        nothing.options.max_new_tokens = 0;
        let mut generation = Generation::new(team.answering());
        assert_eq!(generation.prefill(&one.prompt, &one.context, vec![nothing]), 0..1);
        assert!(generation.is_empty() && generation.step().is_empty());
        generation.prefill(&one.prompt, &one.context, vec![stopped]);
        generation.prefill(&one.prompt, &one.context, vec![options(0)]);
        let mut ends = BTreeMap::new();
        while !generation.is_empty() {
            for token in generation.step() {
                let token = token.unwrap();
                let (n, end) = ends.entry(token.row).or_insert((0, None));
                (*n, *end) = (*n + 1, token.end);
            }
        }
        let want = [(1, (first + 1, Some(End::Stop))), (2, (9, Some(End::Length)))];
        assert_eq!(ends, BTreeMap::from(want));
    }
}

#[test]
fn a_row_ends_with_a_stop_token_or_its_last() {
    on_backend(Ends);
}
