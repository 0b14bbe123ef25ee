//! Times the work that `torch_diffmas.py` of the PyTorch peer times, on the same token ids, and prints the same JSON; the works are those of
//! `diffmas bench`.
//!
//! ```text
//! cargo bench --bench smollm2 -- train MODEL --latent-steps 10 --batch 1 --runs 5
//! cargo bench --bench smollm2 -- infer MODEL --runs 5
//! cargo bench --bench smollm2 -- answer MODEL --channel text --message-tokens 128
//! ```
//! `benches/compare.py` sets `diffmas bench` beside the peer. This program has what that has not: `train` takes `--channel`,
//! `--topology`, `--recompute` and `--activation-checkpointing`, `answer` compares the channels `trace` and `text` on one question, and `infer` lets rows of a batch end early.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use diffmas::agents::{AdapterSet, ChannelKind, PromptBuilder, TeamConfig, TeamModel, Topology};
use diffmas::backbone::{Backbone, ModelFiles, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::bench::{
    Run, TrainingStep, Work, answering, decoding, latent_steps, median, prefill, sample, team, written,
};
use diffmas::inference::{DecodeOptions, Writing};
use diffmas::training::{GraphMemory, Recompute, peak_memory_bytes};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    #[arg(long, default_value = "always")]
    recompute: Recompute,
    #[arg(long)]
    activation_checkpointing: bool,
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
        if let Some(memory) = B::device_memory(&device) {
            out["device_gib"] = json!(gib(memory.reserved));
        }
        out
    }
}

fn peak_gib() -> Option<f64> {
    peak_memory_bytes().map(gib)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Runs `f` once to warm up and then `runs` times; the figure of the median.
fn timed(work: Work, runs: usize, mut f: impl FnMut() -> Run) -> f64 {
    let count = f().count;
    let seconds: Vec<f64> = (0..runs).map(|_| f().seconds).collect();
    work.figure(median(&seconds), count).0
}

fn config(args: &Args) -> TeamConfig {
    let &Args { latent_steps, channel, topology, message_tokens, .. } = args;
    TeamConfig { channel: channel.into(), topology, message_tokens, ..team(latent_steps) }
}

fn train<B: ModelBackend>(args: &Args, backbone: Backbone<B>) -> serde_json::Value {
    let training = TrainingStep::new(backbone, config(args), args.batch).unwrap();
    let mut training = training.with_recompute(args.recompute, args.activation_checkpointing);
    let mut loss = 0.0;
    let GraphMemory { never, prompts, always } = training.trainer().graph_memory(training.batch());
    let work = Work::Train { latent_steps: args.latent_steps, batch: args.batch };
    let step = timed(work, args.runs, || {
        let (run, gradient) = training.run();
        loss = gradient.loss;
        eprintln!("micro-batch {:.3} s", run.seconds); // what is left of a run that is cut short
        run
    });
    let updates: Vec<f64> = (0..args.updates).map(|_| training.update().unwrap().step_seconds).collect();
    json!({"bench": "train", "T": args.latent_steps, "batch": args.batch, "channel": args.channel.name(),
           "topology": args.topology.name(), "recompute": args.recompute.name(),
           "activation_checkpointing": args.activation_checkpointing,
           "estimated_gib": {"never": gib(never), "prompts": gib(prompts), "always": gib(always)}, "runs": args.runs, "step": step, "updates": updates, "loss": loss})
}

fn answer<B: ModelBackend>(args: &Args, backbone: Backbone<B>) -> serde_json::Value {
    let sample = sample(0, backbone.config.vocab_size);
    let config = config(args);
    let prompts = Arc::new(PromptBuilder::new(&config.agents, None).unwrap());
    let writing = Writing::new(&config, prompts, DecodeOptions::default());
    let model = TeamModel::new(config, AdapterSet::none(), backbone);
    let team = model.bind(&model.init(0));
    let (mut seconds, mut positions) = (Vec::new(), 0);
    for _ in 0..=args.runs {
        let run = answering(&team, &sample, writing.as_ref(), STEPS).unwrap().0;
        seconds.push(run.seconds);
        positions = run.count;
    }
    json!({"bench": "answer", "channel": args.channel.name(), "T": args.latent_steps, "message_tokens": args.message_tokens,
           "runs": args.runs, "seconds": median(&seconds[1..]), "forward_positions": positions})
}

fn infer<B: ModelBackend>(args: &Args, backbone: &Backbone<B>) -> serde_json::Value {
    let prefilled = timed(Work::Prefill, args.runs, || prefill(backbone, 512).unwrap().0);
    let model = TeamModel::new(team(STEPS), AdapterSet::none(), backbone.clone());
    let (unrolled, past) = (model.bind(&model.init(0)), written(backbone, 499, 1));
    let latent = timed(Work::LatentStep, args.runs, || latent_steps(&unrolled, &past).0);
    // Tokens a second of the `stay` first of `batch` rows at 500 positions.
    let decoded = |batch: usize, stay: usize| {
        let past = written(backbone, 499, batch);
        timed(Work::Decode { batch }, args.runs, || decoding(backbone, &past, STEPS, stay).unwrap().0)
    };
    json!({"bench": "infer", "runs": args.runs, "prefill512_tok_s": prefilled, "latent_step_ms": latent,
           "decode_b1_tok_s": decoded(1, 1), "decode_b8_tok_s": decoded(8, 8), "decode_b1_of_8_tok_s": decoded(8, 1)})
}
