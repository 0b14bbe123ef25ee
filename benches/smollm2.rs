//! Times the work that `torch_diffmas.py` of the PyTorch peer times, on the same token ids, and prints the same JSON.
//!
//! ```text
//! cargo bench --bench smollm2 -- train MODEL --latent-steps 10 --batch 1 --runs 5
//! cargo bench --bench smollm2 -- infer MODEL --runs 5
//! cargo bench --bench smollm2 -- answer MODEL --channel text --message-tokens 128
//! ```
//! `benches/compare.py` runs both in turn and prints ratios. `train` takes `--channel` and `--topology`, too, and `answer` compares the
//! channels `trace` and `text` on one question.

#[path = "../tests/shared/filler.rs"]
mod filler;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::prelude::*;
use clap::{Parser, ValueEnum};
use diffmas::agents::{
    AdapterScope, AdapterSet, AgentConfig, ChannelKind, PaddedIds, PromptBuilder, Team, TeamBatch,
    TeamConfig, TeamModel, Topology,
};
use diffmas::backbone::{Backbone, KeyValues, ModelFiles, Positions, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::checkpoint::{AdapterConfig, TargetModules};
use diffmas::communication::Context;
use diffmas::inference::{DecodeOptions, Writing, decode, roll_out_upstream};
use diffmas::text::TokenizedSample;
use diffmas::training::{TrainConfig, Trainer, peak_memory_bytes};
use filler::{det_fill, det_uniform};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEED: u64 = 20_260_421;
const STEPS: usize = 32;

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Forward and backward of one micro-batch: 4 agents, prompts of 120 tokens, 64 targets, LoRA r 8 on seven projections.
    Train,
    /// Prefill of 512 tokens; a latent step and a decoded token at 500 positions.
    Infer,
    /// One question to 4 agents with prompts of 120 tokens and an answer of 32, on `--channel`; on `text`, each upstream agent writes
    /// `--message-tokens`.
    Answer,
}

#[derive(Parser)]
struct Args {
    what: What,
    model: PathBuf,
    #[arg(long, default_value_t = 10)]
    latent_steps: usize,
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Whole updates that `train` times after its micro-batches.
    #[arg(long, default_value_t = 2)]
    updates: usize,
    #[arg(long, default_value = "trace")]
    channel: ChannelKind,
    #[arg(long, default_value = "sequential")]
    topology: Topology,
    #[arg(long, default_value_t = 128)]
    message_tokens: usize,
    #[arg(long)]
    backend: Option<BackendKind>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let kind = args.backend.unwrap_or_else(|| BackendKind::default_kind().unwrap());
    println!("{}", kind.run(None, args).unwrap());
}

impl Job for Args {
    type Output = serde_json::Value;

    fn run<B: ModelBackend>(self, device: B::Device) -> serde_json::Value {
        let backbone =
            ModelFiles::open(&self.model).unwrap().load::<B>(&device, Precision::default()).unwrap();
        let load_gib = peak_gib();
        let mut out = match self.what {
            What::Train => train(&self, backbone),
            What::Infer => infer(&self, &backbone),
            What::Answer => answer(&self, backbone),
        };
        out["load_gib"] = json!(load_gib);
        out["peak_gib"] = json!(peak_gib());
        out
    }
}

fn peak_gib() -> Option<f64> {
    peak_memory_bytes().map(|b| b as f64 / f64::from(1 << 30))
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Runs `f` once to warm up and then `runs` times; the median of what it returns.
fn timed(runs: usize, mut f: impl FnMut() -> f64) -> f64 {
    f();
    median((0..runs).map(|_| f()).collect())
}

fn ids(tag: &str, n: usize, vocab: usize) -> Vec<u32> {
    det_uniform(&format!("{SEED}/{tag}"), n)
        .map(|u| (8.0 + (u * (vocab - 8) as f64).floor()) as u32)
        .collect()
}

fn train<B: ModelBackend>(args: &Args, backbone: Backbone<B>) -> serde_json::Value {
    let vocab = backbone.config.vocab_size;
    let samples: Vec<_> = (0..args.batch)
        .map(|b| TokenizedSample {
            line: b + 1,
            prompts: (0..4).map(|j| ids(&format!("bt/{j}/{b}"), 120, vocab)).collect(),
            target: Some(ids(&format!("bt/t/{b}"), 64, vocab)),
            ..TokenizedSample::default()
        })
        .collect();
    let batch = [TeamBatch::new(&samples.iter().collect::<Vec<_>>())];
    let config = team(args);
    let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let lora = AdapterConfig::new(8, 16.0, TargetModules::List(all.map(String::from).to_vec()));
    let adapters = AdapterSet::new(AdapterScope::Shared, &lora, &config, &backbone.config).unwrap();
    let model = TeamModel::new(config, adapters, backbone);
    let mut parameters = model.init(SEED);
    let fill = |(name, value): (&String, &Tensor<B, 2>)| {
        let shape = value.dims();
        let bound = if name.ends_with("lora_A") { (1.0 / shape[1] as f64).sqrt() } else { 0.02 };
        let data = det_fill(&format!("{SEED}/base_model.model.{name}.weight"), shape[0] * shape[1], bound);
        let filled = Tensor::from_data(TensorData::new(data, shape), &value.device());
        (format!("adapter.default.{name}"), filled)
    };
    parameters.extend(parameters.within("adapter.default.").iter().map(fill).collect());
    let mut trainer = Trainer::new(TrainConfig::default(), model, parameters).unwrap();
    let mut loss = 0.0;
    let step = timed(args.runs, || {
        let clock = Instant::now();
        loss = trainer.gradients(&batch).loss;
        let seconds = clock.elapsed().as_secs_f64();
        eprintln!("micro-batch {seconds:.3} s"); // what is left of a run that is cut short
        seconds
    });
    let updates: Vec<f64> =
        (0..args.updates).map(|_| trainer.update(&batch, 5e-5).unwrap().step_seconds).collect();
    json!({"bench": "train", "T": args.latent_steps, "batch": args.batch, "channel": args.channel.name(),
           "topology": args.topology.name(), "runs": args.runs, "step": step, "updates": updates, "loss": loss})
}

fn team(args: &Args) -> TeamConfig {
    let agents = ["planner", "critic", "refiner", "solver"].map(AgentConfig::named).to_vec();
    let &Args { latent_steps, channel, topology, message_tokens, .. } = args;
    TeamConfig {
        latent_steps,
        channel: channel.into(),
        topology,
        message_tokens,
        agents,
        ..TeamConfig::default()
    }
}

fn answer<B: ModelBackend>(args: &Args, backbone: Backbone<B>) -> serde_json::Value {
    let vocab = backbone.config.vocab_size;
    let sample = TokenizedSample {
        prompts: (0..4).map(|j| ids(&format!("bt/{j}/0"), 120, vocab)).collect(),
        ..TokenizedSample::default()
    };
    let config = team(args);
    let prompts = Arc::new(PromptBuilder::new(&config.agents, None).unwrap());
    let writing = Writing::new(&config, prompts, DecodeOptions::default());
    let model = TeamModel::new(config, AdapterSet::none(), backbone);
    let team = model.bind(&model.init(SEED));
    let options = DecodeOptions { max_new_tokens: 32, ..DecodeOptions::default() };
    let mut positions = 0;
    let seconds = timed(args.runs, || {
        let clock = Instant::now();
        let samples = std::slice::from_ref(&sample);
        let upstream = roll_out_upstream(&team, samples, writing.as_ref(), &[0], |_, _| ()).unwrap();
        let (batch, context) = (upstream.batch(), team.read(&upstream.received));
        let more = |_, _| ControlFlow::Continue(());
        let answers = decode(team.answering(), &batch.prompts[3], &context, &options, &[0], more).unwrap();
        positions = upstream.positions + batch.prompts[3].count() + answers[0].token_ids.len();
        clock.elapsed().as_secs_f64()
    });
    json!({"bench": "answer", "channel": args.channel.name(), "T": args.latent_steps, "message_tokens": args.message_tokens,
           "runs": args.runs, "seconds": seconds, "forward_positions": positions})
}

/// What was written before the timed part: blocks that do not grow, the last hidden state, the next position ids.
struct Filled<B: ModelBackend> {
    kv: KeyValues<B>,
    hidden: Tensor<B, 2>,
    next: Vec<u32>,
}

fn fill<B: ModelBackend>(backbone: &Backbone<B>, tag: &str, n: usize, batch: usize) -> Filled<B> {
    let rows: Vec<_> =
        (0..batch).map(|b| ids(&format!("{tag}/{b}"), n, backbone.config.vocab_size)).collect();
    let ids = PaddedIds::left(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut next = vec![0; batch];
    let at = Positions::issue(&ids.valid, &mut next);
    let (hidden, kv) = backbone.forward(backbone.embed(&ids.ids), &at, &[], None, None);
    let d = backbone.config.hidden_size;
    let hidden = hidden.reshape([batch, n, d]).narrow(1, n - 1, 1).reshape([batch, d]);
    Filled { kv, hidden, next }
}

fn infer<B: ModelBackend>(args: &Args, backbone: &Backbone<B>) -> serde_json::Value {
    let device = backbone.device();
    let sync = || B::sync(&device).unwrap();
    let prefill = timed(args.runs, || {
        let clock = Instant::now();
        let filled = fill(backbone, "p", 512, 1);
        backbone.logits(filled.hidden).into_data();
        clock.elapsed().as_secs_f64()
    });
    let model = TeamModel::new(team(args), AdapterSet::none(), backbone.clone());
    let thinking: Team<B> = model.bind(&model.init(SEED));
    let latent = timed(args.runs, || {
        let Filled { kv, mut hidden, mut next } = fill(backbone, "c", 500, 1);
        let mut tail = None;
        sync();
        let clock = Instant::now();
        for _ in 0..STEPS {
            let z =
                thinking.feed.forward(thinking.layout.config.feed(0), hidden, backbone, &thinking.parameters);
            let at = Positions::issue(&[true], &mut next);
            let (h, grown) = backbone.forward(z, &at, &[&kv], tail.as_ref(), None);
            hidden = h;
            tail = Some(grown);
        }
        sync();
        clock.elapsed().as_secs_f64() / STEPS as f64
    });
    // Tokens a second of the `stay` first of `batch` rows at 500 positions, from the first token on, with which the others leave.
    let decoded = |batch: usize, stay: usize| {
        timed(args.runs, || {
            let Filled { kv, next, .. } = fill(backbone, "c", 499, batch);
            let context = Context { kv: vec![kv], hook: None, start: next };
            let last = ids("d", 1, backbone.config.vocab_size);
            let prompt = PaddedIds::left(&vec![last.as_slice(); batch]).into();
            let options = DecodeOptions { max_new_tokens: STEPS + 1, ..DecodeOptions::default() };
            let rows: Vec<u64> = (0..batch as u64).collect();
            let mut clock = None;
            decode(backbone, &prompt, &context, &options, &rows, |row, _| {
                clock.get_or_insert_with(Instant::now);
                if row < stay { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
            (stay * STEPS) as f64 / clock.expect("a token came").elapsed().as_secs_f64()
        })
    };
    json!({"bench": "infer", "runs": args.runs, "prefill512_tok_s": 512.0 / prefill, "latent_step_ms": 1e3 * latent,
           "decode_b1_tok_s": decoded(1, 1), "decode_b8_tok_s": decoded(8, 8), "decode_b1_of_8_tok_s": decoded(8, 1)})
}
