//! Trains the small Qwen3 that `diffmas demo` runs on, on a synthetic language, and writes it as a Hugging Face folder with a model card:
//! `cargo run --release --example pretrain_tiny -- OUTPUT_FOLDER`
//!
//! Afterwards the library reads the folder like any other model, and lets it answer questions on facts that no document held, with all
//! evidence in its context.

mod documents;
mod model;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::{TensorData, activation};
use diffmas::agents::{AdapterSet, PromptBuilder, TeamModel};
use diffmas::backbone::{ModelFiles, ParameterSpecs, Parameters, Precision};
use diffmas::backends::{Autodiff, BackendKind, Job, ModelBackend};
use diffmas::benchmarks::synthetic::{Facts, Family, ITEMS, NAMES, PLACES, Split, TaskConfig, WORDS};
use diffmas::checkpoint::{StoredType, write_tensors};
use diffmas::evaluation::{Accuracy, Checking, Control, Scoring, evaluate};
use diffmas::files::write_atomic;
use diffmas::inference::DecodeOptions;
use diffmas::processes::OneProcess;
use diffmas::training::{FlatGradient, Optimizer, TrainConfig, clip_factor};
use diffmas::{Error, Result};
use documents::{Document, Documents};
use model::Sizes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// Tokens that are no words.
const SPECIAL: [&str; 3] = ["<unk>", "<user>", "<end>"];
/// A user's turn, then the model's, without a mark between them: an answer follows right on the last word of the question.
const TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'assistant' %}{{ message.content }} <end> \
                        {% else %}<user> {{ message.content }} {% endif %}{% endfor %}";

const STEPS: usize = 1200;
const BATCH: usize = 48;
const PEAK: f64 = 3e-3;
const SEED: u64 = 1;
const QUESTIONS: usize = 2000;

/// Stages: the share of all updates after which the next begins, the longest documents, the share that only repeat words.
const STAGES: [(f64, usize, f64); 4] = [(0.15, 1, 1.0), (0.3, 2, 0.1), (0.5, 4, 0.1), (1.0, 8, 0.1)];

/// The training.
pub struct Pretrain {
    pub output: PathBuf,
    pub steps: usize,
    /// Questions of each family that the model is measured on.
    pub questions: usize,
}

impl Job for Pretrain {
    type Output = Result<()>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Result<()> {
        let words: Vec<&str> = [&SPECIAL[..], &WORDS, &NAMES, &PLACES, &ITEMS].concat();
        let id: HashMap<&str, i64> = words.iter().enumerate().map(|(i, &word)| (word, i as i64)).collect();
        let sizes = Sizes::tiny(words.len());
        B::seed(&device, SEED);
        let mut weights: Parameters<B> = sizes.fresh(&device);
        eprintln!("{} parameters", weights.num_elements());
        let config = TrainConfig { weight_decay: 0.05, ..TrainConfig::default() };
        let mut optimizer = Optimizer::new(&config, &ParameterSpecs::default(), &weights)?;
        let mut documents: Option<(usize, Documents)> = None;
        let clock = Instant::now();
        let mut read = 0;
        for step in 0..self.steps {
            let done = step as f64 / self.steps as f64;
            let stage = STAGES.iter().position(|(end, ..)| done < *end).expect("the last stage has no end");
            if documents.as_ref().is_none_or(|(s, _)| *s != stage) {
                let rng = documents
                    .map_or_else(|| ChaCha8Rng::seed_from_u64(SEED), |(_, documents)| documents.into_rng());
                let (_, longest, repetitions) = STAGES[stage];
                documents = Some((stage, Documents::new(rng, SEED + stage as u64, longest, repetitions)));
            }
            let (_, source) = documents.as_mut().expect("a stage has begun");
            let batch: Vec<Document> = source.take(BATCH).collect();
            read += batch.iter().map(|d| d.words.len()).sum::<usize>();
            let leaves = weights.leaves(|_| true);
            let loss = loss::<B>(&sizes, &leaves, &batch, &id);
            let value = loss.to_data().iter::<f64>().next().expect("a loss is one number");
            let mut grads = loss.backward();
            let gradients: Parameters<B> = leaves
                .iter()
                .filter_map(|(name, leaf)| Some((name.clone(), leaf.grad_remove(&mut grads)?)))
                .collect();
            let mut gradient = FlatGradient::new(optimizer.layout().clone(), &device);
            gradient.add(&gradients);
            optimizer.step(rate(step, self.steps), &gradient, clip_factor(gradient.norm(), 1.0));
            weights = optimizer.parameters();
            if (step + 1) % 50 == 0 {
                let (step, seconds) = (step + 1, clock.elapsed().as_secs_f64());
                eprintln!("update {step}/{}: loss {value:.4}, {seconds:.0} s", self.steps);
            }
        }
        let seconds = clock.elapsed().as_secs_f64();
        write(&self.output, &sizes, &words, &weights)?;
        let scores = scores::<B>(&self.output, &device, self.questions)?;
        for (config, accuracy) in &scores {
            eprintln!(
                "{} with {} facts each: {:.2} %",
                config.family,
                config.facts,
                100.0 * accuracy.accuracy
            );
        }
        let card = card(&sizes, weights.num_elements(), self.steps, read, seconds, &scores);
        write_atomic(&self.output.join("README.md"), card.as_bytes())
    }
}

/// The learning rate: a warm-up, a plateau, a fall to nearly nothing.
fn rate(step: usize, steps: usize) -> f64 {
    let done = step as f64 / steps as f64;
    PEAK * ((step + 1) as f64 / 100.0).min(1.0) * ((1.0 - done) / 0.4).clamp(0.02, 1.0)
}

/// The weighted mean NLL of the words of `batch`.
fn loss<B: ModelBackend>(
    sizes: &Sizes,
    weights: &Parameters<Autodiff<B>>,
    batch: &[Document],
    id: &HashMap<&str, i64>,
) -> Tensor<Autodiff<B>, 1> {
    let len = batch.iter().map(|d| d.words.len()).max().unwrap_or(1) - 1;
    let (mut ids, mut at, mut next, mut counts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for document in batch {
        let own: Vec<i64> = document.words.iter().map(|word| id[word.as_str()]).collect();
        for (i, &weight) in document.weights.iter().enumerate().skip(1).filter(|(_, w)| **w > 0.0) {
            at.push((ids.len() + i - 1) as i64);
            next.push(own[i]);
            counts.push(weight);
        }
        // What fills up a row comes after all that counts, and is not seen from there.
        ids.extend(own.iter().copied().chain(std::iter::repeat(0)).take(len));
    }
    let logits = sizes.logits(weights, &ids, batch.len(), &at);
    let (n, total) = (at.len(), counts.iter().sum::<f32>());
    let device = logits.device();
    let next = Tensor::<_, 2, Int>::from_data(TensorData::new(next, [n, 1]), &device);
    let counts = Tensor::<_, 2>::from_data(TensorData::new(counts, [n, 1]), &device);
    (activation::log_softmax(logits, 1).gather(1, next) * counts).sum().mul_scalar(-1.0 / f64::from(total))
}

/// Writes the Hugging Face folder.
fn write<B: ModelBackend>(dir: &Path, sizes: &Sizes, words: &[&str], weights: &Parameters<B>) -> Result<()> {
    let json = |name: &str, value: Value| write_atomic(&dir.join(name), format!("{value:#}\n").as_bytes());
    let end = words.iter().position(|w| *w == "<end>").expect("turns end");
    json("config.json", sizes.config(end))?;
    let vocab: Map<String, Value> =
        words.iter().enumerate().map(|(i, word)| (word.to_string(), json!(i))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                   "special": true})
        })
        .collect();
    json(
        "tokenizer.json",
        json!({
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": SPECIAL[0]},
        }),
    )?;
    json(
        "tokenizer_config.json",
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": SPECIAL[0],
            "eos_token": "<end>",
            "chat_template": TEMPLATE,
        }),
    )?;
    let shapes: Vec<(&str, Vec<usize>)> = weights
        .iter()
        .map(|(name, w)| {
            let [rows, cols] = w.dims();
            (name.as_str(), if name.ends_with("norm.weight") { vec![cols] } else { vec![rows, cols] })
        })
        .collect();
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    write_tensors(
        &dir.join("model.safetensors"),
        StoredType::Float32,
        &shapes,
        Some(metadata),
        |name, _, write| write(&weights.get(name).to_data().iter::<f32>().collect::<Vec<_>>()),
    )
}

/// Accuracy of the model in `dir` on unseen facts, all evidence in its context.
fn scores<B: ModelBackend>(
    dir: &Path,
    device: &B::Device,
    questions: usize,
) -> Result<Vec<(TaskConfig, Accuracy)>> {
    let files = ModelFiles::open(dir)?;
    let backbone = files.load::<B>(device, Precision::default())?;
    let stop_tokens = files.config.eos_token_ids.clone();
    let options = DecodeOptions { max_new_tokens: 8, stop_tokens, ..DecodeOptions::default() };
    let checking = Checking { options, tokenizer: files.tokenizer.clone() };
    let families = [(Family::Relay, 4), (Family::Relay, 8), (Family::TwoHop, 4), (Family::Distractor, 8)];
    let scoring = Scoring {
        batch_size: 64,
        control: &Control::Real,
        seed: 0,
        writing: None,
        checking: Some(&checking),
        processes: &OneProcess,
    };
    families
        .map(|(family, facts)| {
            let config = TaskConfig { family, facts: Facts::exactly(facts), ..TaskConfig::default() };
            let team = config.all_evidence();
            let prompts = PromptBuilder::new(&team.agents, files.tokenizer.clone())?;
            let samples: Vec<_> = config
                .problems(Split::Test, SEED, questions)
                .enumerate()
                .map(|(i, problem)| prompts.build(dir, &problem.sample(i + 1), files.config.vocab_size))
                .collect::<Result<_>>()?;
            let model = TeamModel::new(team, AdapterSet::none(), backbone.clone());
            let team = model.bind(&model.init(0));
            let score = evaluate(&team, &samples, &scoring, |_| Ok(()))?;
            Ok((config, score.accuracy.expect("answers are short")))
        })
        .into_iter()
        .collect()
}

/// The model card.
fn card(
    sizes: &Sizes,
    parameters: usize,
    steps: usize,
    read: usize,
    seconds: f64,
    scores: &[(TaskConfig, Accuracy)],
) -> String {
    let row = |(config, a): &(TaskConfig, Accuracy)| {
        let accuracy = a.in_percent(2, " %");
        format!(
            "| {}, {} holders with {} facts each | {accuracy} |\n",
            config.family, config.holders, config.facts
        )
    };
    format!(
        "# tiny facts\n\n\
         A Qwen3 of {parameters} parameters ({} layers of width {}, {} words) that reads facts in its context and answers questions on \
         them. `diffmas demo` runs on it. It knows nothing else.\n\n\
         - **Made by** `cargo run --release --example pretrain_tiny -- FOLDER`, seed {SEED}.\n\
         - **Data**: the language of `src/tasks/language.rs`, made up as it is read: facts (`has ana lamp .`, `in ana rome .`), questions \
         (`what has ana`, `what near ana`), answers (`lamp`, `rome lamp`), reports (`ana lamp`), and words that are said again. Half \
         of all pairs of subject and object are held out: no document holds them.\n\
         - **Training**: {steps} updates of {BATCH} documents, {read} words in all, AdamW with peak learning rate {PEAK}, {:.0} s on {} \
         CPU cores.\n\n\
         Questions on held-out facts answered rightly, all evidence in the context ({} each, greedy, 95 % intervals):\n\n\
         | task | accuracy |\n|---|---|\n{}\n\
         Licensed like the project that made it: MIT or Apache-2.0.\n",
        sizes.layers,
        sizes.hidden,
        sizes.vocab,
        seconds,
        std::thread::available_parallelism().map_or(1, usize::from),
        scores.first().map_or(0, |(_, a)| a.checked),
        scores.iter().map(row).collect::<String>()
    )
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let (output, steps) = match &args[1..] {
        [output] => (output, STEPS),
        [output, steps] => (output, steps.parse()?),
        _ => return Err("usage: pretrain_tiny OUTPUT_FOLDER [UPDATES]".into()),
    };
    std::fs::create_dir_all(output)?;
    let job = Pretrain { output: output.into(), steps, questions: QUESTIONS };
    BackendKind::default_kind().and_then(|kind| kind.run(None, job)).map_err(Error::invalid)??;
    Ok(())
}
