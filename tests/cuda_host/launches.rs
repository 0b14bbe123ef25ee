//! Kernels that each stage launches, what the host spends on one, and what comes back to the host: counted on a driver that does nothing.
//!
//! What a stage costs a layer is the difference between a model of three layers and the same with one; what a latent step costs is that between
//! eight of them and four.

use std::sync::Arc;
use std::time::Instant;

use diffmas::agents::{AdapterScope, AdapterSet, AgentConfig, PaddedIds, TeamBatch, TeamConfig, TeamModel};
use diffmas::backbone::{Backbone, ModelFiles, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend, settle};
use diffmas::checkpoint::{AdapterConfig, TargetModules};
use diffmas::communication::Context;
use diffmas::inference::{DecodeOptions, Generation, RowOptions};
use diffmas::text::TokenizedSample;
use diffmas::training::{FlatGradient, Recompute, TrainConfig, Trainer};

use super::shared::golden;
use super::stub::{Counts, Stub};

/// Latent steps of one agent, few and more.
const LATENT_STEPS: [usize; 2] = [4, 8];
/// Layers of the model, few and all.
const LAYERS: [usize; 2] = [1, 3];
/// Rows of a batch.
const ROWS: usize = 2;
const STAGES: [&str; 6] = [
    "prefill",
    "a decoded token",
    "a latent step",
    "a trained latent step",
    "a gradient added to a sum",
    "an update beside its gradient",
];
/// Sums of squares that the norm of a gradient comes to the host in.
const SHARES: u64 = 256;

/// The most kernels of each stage, of which none is run twice for its gradient: for each layer, and beside the layers (embedding, feed, head, choice of a token).
const BOUNDS: [(&str, [[u64; 2]; 6]); 2] = [
    ("tiny-llama", [[9, 3], [13, 9], [14, 9], [39, 26], [2, 2], [1, 8]]),
    ("tiny-qwen3", [[11, 3], [15, 9], [16, 9], [43, 26], [2, 2], [1, 8]]),
];

/// What was asked of the driver, and how many bytes each copy to the host had.
#[derive(Clone, Debug, Default)]
struct Cost {
    counts: Counts,
    reads: Vec<u64>,
    /// The whole pass of which this is a part: kernels and seconds.
    launched: u64,
    whole: f64,
}

/// Runs `work` after everything else, and to its end.
fn cost<B: ModelBackend, T>(stub: &Stub, device: &B::Device, work: impl FnOnce() -> T) -> (T, Cost) {
    settle::<B>(device);
    let (before, clock) = (stub.counts(), Instant::now());
    let done = work();
    settle::<B>(device);
    let (after, whole) = (stub.counts(), clock.elapsed().as_secs_f64());
    let counts = Counts {
        launches: after.launches - before.launches,
        writes: after.writes - before.writes,
        reads: after.reads - before.reads,
    };
    (done, Cost { counts, reads: stub.reads_since(before.reads), launched: counts.launches, whole })
}

/// A model of which only the first layers are left.
fn with_layers<B: ModelBackend>(backbone: &Backbone<B>, layers: usize) -> Backbone<B> {
    let mut backbone = backbone.clone();
    backbone.layers.truncate(layers);
    let mut config = (*backbone.config).clone();
    config.num_hidden_layers = layers;
    backbone.config = Arc::new(config);
    backbone
}

/// A sender with `latent_steps` and a final agent, LoRA on all seven projections.
fn team<B: ModelBackend>(backbone: Backbone<B>, latent_steps: usize) -> TeamModel<B> {
    let agents = ["sender", "solver"].map(AgentConfig::named).to_vec();
    let config = TeamConfig { latent_steps, agents, ..TeamConfig::default() };
    let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let lora = AdapterConfig::new(8, 16.0, TargetModules::List(all.map(String::from).to_vec()));
    let adapters = AdapterSet::new(AdapterScope::Shared, &lora, &config, &backbone.config).unwrap();
    TeamModel::new(config, adapters, backbone)
}

fn batch() -> TeamBatch {
    let samples: Vec<_> = (1..=ROWS)
        .map(|line| TokenizedSample {
            line,
            prompts: vec![vec![5, 6, 7, 8, 9, 10]; 2],
            target: Some(vec![11, 12, 13]),
            ..TokenizedSample::default()
        })
        .collect();
    TeamBatch::new(&samples.iter().collect::<Vec<_>>())
}

/// What a model says of itself with some number of layers.
struct Measured {
    stages: [Cost; 6],
    /// A whole update of a batch with the fewer latent steps.
    update: Cost,
}

fn measure<B: ModelBackend>(stub: &Stub, backbone: &Backbone<B>) -> Measured {
    let device = backbone.device();
    let prompt = PaddedIds::left(&[&[5, 6, 7, 8, 9, 10, 11, 12][..]; ROWS]).into();
    let options = DecodeOptions { max_new_tokens: 32, ..DecodeOptions::default() };
    let options = vec![RowOptions { options, sample_id: 0 }; ROWS];
    let decode = || {
        let mut generation = Generation::new(backbone);
        let read = || generation.prefill(&prompt, &Context::empty(ROWS), options.clone());
        let (_, prefill) = cost::<B, _>(stub, &device, read);
        let mut step =
            || cost::<B, _>(stub, &device, || assert!(generation.step().iter().all(Result::is_ok))).1;
        // The first token is chosen by what the prefill left; the second makes room for those that come.
        (0..2).for_each(|_| drop(step()));
        (prefill, step())
    };
    let rolled_out = |steps: usize| {
        let model = team(backbone.clone(), steps);
        let team = model.bind(&model.init(1));
        let batch = batch();
        let pass = || cost::<B, _>(stub, &device, || team.roll_out_all(&batch)).1;
        pass();
        pass()
    };
    let trainer = |steps: usize| {
        let model = team(backbone.clone(), steps);
        let parameters = model.init(1);
        let config = TrainConfig { recompute: Recompute::Never, ..TrainConfig::default() };
        Trainer::new(config, model, parameters).unwrap()
    };
    let batch = [batch()];
    let differentiated = |steps: usize| {
        let trainer = trainer(steps);
        fastest(|| cost::<B, _>(stub, &device, || trainer.gradients(&batch)).1)
    };
    let updated = || {
        let mut trainer = trainer(LATENT_STEPS[0]);
        fastest(|| cost::<B, _>(stub, &device, || trainer.update(&batch, 1e-3).unwrap()).1)
    };
    let added = || {
        let gradient = trainer(LATENT_STEPS[0]).gradients(&batch);
        let layout = Arc::new(gradient.flat.layout().clone());
        fastest(|| {
            let mut sum = FlatGradient::new(layout.clone(), &device);
            cost::<B, _>(stub, &device, || sum.add(&gradient.gradients)).1
        })
    };
    decode(); // compiles
    let (prefill, token) = decode();
    let [few, more] = LATENT_STEPS;
    let latent = per_step(rolled_out(few), rolled_out(more));
    let gradient = differentiated(few);
    let trained = per_step(gradient.clone(), differentiated(more));
    let update = updated();
    let own = minus(&update, &gradient, 1);
    let own = Cost { launched: own.counts.launches, whole: update.whole - gradient.whole, ..own };
    Measured { stages: [prefill, token, latent, trained, added(), own], update }
}

/// The fastest of several passes, of which the first makes room.
fn fastest(mut pass: impl FnMut() -> Cost) -> Cost {
    pass();
    let passes = (0..5).map(|_| pass());
    passes.min_by(|a, b| a.whole.total_cmp(&b.whole)).expect("five passes")
}

fn per_step(few: Cost, more: Cost) -> Cost {
    minus(&more, &few, (LATENT_STEPS[1] - LATENT_STEPS[0]) as u64)
}

/// A part of what `more` costs beyond `less`.
fn minus(more: &Cost, less: &Cost, parts: u64) -> Cost {
    let (a, b) = (more.counts, less.counts);
    let counts = Counts {
        launches: (a.launches - b.launches) / parts,
        writes: (a.writes - b.writes) / parts,
        reads: (a.reads - b.reads) / parts,
    };
    Cost { counts, reads: Vec::new(), ..more.clone() }
}

/// Measures both depths of a model.
struct Depths<'a> {
    stub: &'a Stub,
    model: &'a str,
}

impl Job for Depths<'_> {
    type Output = [Measured; 2];

    fn run<B: ModelBackend>(self, device: B::Device) -> [Measured; 2] {
        let files = ModelFiles::open(&golden(self.model).join("model")).unwrap();
        let backbone = files.load::<B>(&device, Precision::default()).unwrap();
        LAYERS.map(|layers| measure(self.stub, &with_layers(&backbone, layers)))
    }
}

// SAFETY: the stub's counters are atomic.
unsafe impl Sync for Stub {}

#[test]
fn each_stage_launches_no_more_kernels_than_it_did_and_reads_nothing_but_tokens_and_logged_numbers() {
    let Some(stub) = Stub::load() else { return };
    let mut too_many = Vec::new();
    println!("| model | stage | launches a layer | beside the layers | copies to the device | µs a launch |");
    println!("|---|---|---|---|---|---|");
    for (model, bounds) in BOUNDS {
        let [one, all] = BackendKind::Cuda.run(None, Depths { stub: &stub, model }).unwrap();
        for (i, (stage, bound)) in STAGES.iter().zip(bounds).enumerate() {
            let [few, most] = [&one, &all].map(|measured| &measured.stages[i]);
            let micros = 1e6 * most.whole / most.launched as f64;
            let layer = (most.counts.launches - few.counts.launches) / (LAYERS[1] - LAYERS[0]) as u64;
            let launches = [layer, few.counts.launches.saturating_sub(layer * LAYERS[0] as u64)];
            let writes = most.counts.writes;
            println!("| {model} | {stage} | {} | {} | {writes} | {micros:.1} |", launches[0], launches[1]);
            if launches[0] > bound[0] || launches[1] > bound[1] {
                too_many.push(format!("{model}, {stage}: {launches:?}, bound {bound:?}"));
            }
        }

        // Of each row its token, the best and the least score, which tell whether all are finite, and the sum that its probability takes.
        let numbers = 4 * 4 * ROWS as u64;
        assert_eq!(all.stages[1].reads, [numbers], "{model}: what a decoded token brings to the host");
        assert_eq!(all.stages[2].counts.reads, 0, "{model}: a latent step brings nothing to the host");
        assert_eq!(all.stages[3].counts.reads, 0, "{model}: nor does a trained one");
        // The loss of the final agent; the norm of what reaches the sender, from the squares of keys and values by layer; that of the gradient.
        let layers = LAYERS[1] as u64;
        let logged = [4, 4 * 2 * layers, 4 * SHARES];
        assert_eq!(all.update.reads, logged, "{model}: what an update brings to the host");
    }
    assert!(too_many.is_empty(), "more launches than before:\n{}", too_many.join("\n"));
}
