//! `diffmas demo`: a team learns to communicate, and is measured beside other methods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use diffmas::agents::{ChannelKind, TeamConfig};
use diffmas::benchmarks::synthetic::{Facts, Family, Split, TaskConfig, write_tiny_model};
use diffmas::benchmarks::{MethodConfig, TeamMethods, Training, methods, text_team};
use diffmas::engine::{Engine, EngineConfig, EvaluateRequest, OutputLock, TeamChoice};
use diffmas::evaluation::{Comparison, Method};
use diffmas::files::{read_toml, write_atomic, write_json, write_jsonl};
use diffmas::report::Report;
use diffmas::text::{Answers, TokenizedSample};
use diffmas::training::{Curriculum, LoraConfig, LrSchedulerType, TrainConfig};
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::train::{Ending, TrainCommand, TrainFiles, request, train};
use super::{eval, interrupt, one_line, output, session, verbosity};

/// Agents that hold evidence.
const HOLDERS: usize = 2;
/// Samples of an update, and of a batch of questions.
const BATCH: usize = 32;
/// Most tokens of an answer.
const ANSWER_TOKENS: usize = 8;

/// Flags of `demo`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct DemoCommand {
    /// What makes a question need a message [relay, two-hop, distractor]
    #[arg(long, default_value_t)]
    task: Family,
    /// What agents pass on [trace, vectors, hybrid]
    #[arg(long, default_value_t)]
    channel: ChannelKind,
    /// Twice the facts
    #[arg(long)]
    hard: bool,
    /// Latent steps of each holder, and most tokens of a message where holders write text
    #[arg(long, value_name = "T", default_value_t = 8)]
    latent_steps: usize,
    /// Vectors that a holder sends (vectors, hybrid)
    #[arg(long, value_name = "M", default_value_t = 8)]
    num_vectors: usize,
    /// Updates of the team, and as many of the team that writes text
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_steps: usize,
    /// Questions that everything is measured on; their facts are in no line of the training data
    #[arg(long, value_name = "N", default_value_t = 640)]
    questions: usize,
    /// Seed of data and training
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Backend; `diffmas devices` lists those in this binary
    #[arg(long)]
    backend: Option<String>,
    /// Folder for the report and all that it rests on
    #[arg(long, value_name = "DIR", default_value = "demo-report")]
    output: PathBuf,
    /// Go on with an interrupted demo in --output, with its settings
    #[arg(long)]
    resume: bool,
    /// Replace the demo in --output
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
}

impl DemoCommand {
    /// Trains, measures, prints the table and writes the report.
    pub fn execute(self) -> Result<()> {
        let settings = self.output.join("demo.toml");
        let (lock, demo) = if self.resume {
            if !settings.exists() {
                let why = "there is no demo to go on with: the folder has no demo.toml";
                return Err(Error::file(&self.output, why));
            }
            (OutputLock::resumed(&self.output)?, read_toml(&settings)?)
        } else {
            let demo = self.demo();
            demo.validate()?;
            let hint = "go on with --resume, or give --overwrite or another --output";
            let lock = OutputLock::new_run(&self.output, self.overwrite, hint)?;
            lock.clear()?;
            write_atomic(&settings, toml::to_string(&demo)?.as_bytes())?;
            (lock, demo)
        };
        demo.validate().map_err(|e| Error::file(&settings, e))?;
        let stopped = format!(
            "stopped; what was trained is kept. Go on with: diffmas demo --resume --output {}",
            self.output.display()
        );
        interrupt::set_words(&stopped);
        let folder = Folder { dir: &self.output, demo };
        let done = folder.run();
        drop(lock);
        done.map_err(|e| match e {
            Error::Interrupted(_) => Error::Interrupted(stopped),
            e => e,
        })
    }

    fn demo(&self) -> Demo {
        Demo {
            task: self.task,
            channel: self.channel,
            facts: if self.hard { 8 } else { 4 } * if self.task == Family::Distractor { 2 } else { 1 },
            latent_steps: self.latent_steps,
            num_vectors: self.num_vectors,
            max_steps: self.max_steps,
            questions: self.questions,
            seed: self.seed,
            backend: self.backend.clone(),
        }
    }
}

/// What is shown; `demo.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Demo {
    task: Family,
    channel: ChannelKind,
    /// Facts of each holder.
    facts: usize,
    latent_steps: usize,
    num_vectors: usize,
    max_steps: usize,
    questions: usize,
    seed: u64,
    backend: Option<String>,
}

impl Demo {
    fn validate(&self) -> Result<()> {
        if ![ChannelKind::TRACE, ChannelKind::VECTORS, ChannelKind::HYBRID].contains(&self.channel) {
            return Err(Error::invalid(format!(
                "demo shows the channels trace, vectors and hybrid, not {}; it measures text beside each of them",
                self.channel
            )));
        }
        if self.max_steps == 0 {
            return Err(Error::invalid("max_steps must be at least 1"));
        }
        if self.questions < 2 {
            return Err(Error::invalid("questions must be at least 2, so that messages can be shuffled"));
        }
        TaskConfig::check_count("questions", self.questions)?;
        self.task_config().validate()?;
        self.team().validate()
    }

    fn task_config(&self) -> TaskConfig {
        TaskConfig {
            family: self.task,
            holders: HOLDERS,
            facts: Facts::exactly(self.facts),
            ..TaskConfig::default()
        }
    }

    /// The team that learns.
    fn team(&self) -> TeamConfig {
        TeamConfig {
            channel: self.channel.into(),
            latent_steps: self.latent_steps,
            num_vectors: self.num_vectors,
            vector_dim: 128,
            cross_attention_layers: Some(vec![1, 2, 3]),
            ..self.task_config().team()
        }
    }

    /// Vectors and their readers begin with next to nothing. A team that passes on its keys and values begins with most of what it needs,
    /// and forgets it again in larger steps than these.
    fn learning_rate(&self) -> f64 {
        if self.channel == ChannelKind::VECTORS { 2e-3 } else { 3e-4 }
    }

    /// The same team with messages of text.
    fn text_team(&self) -> TeamConfig {
        text_team(&self.task_config(), &self.team())
    }
}

/// A team, and the ways in which it answers: their names, and what its solver reads.
struct Plan {
    engine: Engine,
    samples: Vec<TokenizedSample>,
    methods: Vec<MethodConfig>,
}

/// A demo in its folder.
struct Folder<'a> {
    dir: &'a Path,
    demo: Demo,
}

impl Folder<'_> {
    fn run(&self) -> Result<()> {
        let demo = &self.demo;
        let task = demo.task_config();
        if !self.dir.join("model").exists() {
            write_tiny_model(&self.dir.join("model"))?;
        }
        // What a holder should write ends where a message does. Few facts come first, since a team that has begun to talk goes on to more; as
        // many problems are as large as those that are asked.
        let words = demo.text_team().message_tokens;
        let easier = TaskConfig { facts: Facts { min: 1, max: demo.facts }, ..task };
        let drawn = demo.max_steps * BATCH;
        let problems = easier.problems(Split::Train, demo.seed, drawn);
        let problems = problems.chain(task.problems(Split::Train, demo.seed.wrapping_add(1), drawn));
        let lines: Vec<_> = problems.map(|p| p.fields_with_trajectories(words)).collect();
        write_jsonl(&self.dir.join("train.jsonl"), &lines)?;
        let lines: Vec<_> =
            task.problems(Split::Test, demo.seed, demo.questions).map(|p| p.fields()).collect();
        write_jsonl(&self.dir.join("test.jsonl"), &lines)?;
        // One model, loaded once, for all teams.
        let trained = Engine::start(session::open(self.engine(demo.team()))?)?;
        let text = other_team(&trained, demo.text_team())?;
        self.learn(&trained, "trained", &format!("a team with latent messages, channel {}", demo.channel))?;
        self.learn(&text, "text", "the same team, writing text")?;
        let plans = self.plans(&trained, &text)?;
        let comparison = Comparison {
            title: format!(
                "{}, {HOLDERS} holders with {} facts each, {} questions",
                demo.task, demo.facts, demo.questions
            ),
            guessing: guessing(&plans[0].samples),
            rows: self.measure(&plans)?,
        };
        write_json(&self.dir.join("comparison.json"), &comparison)?;
        let Plan { engine, samples, .. } = plans.last().expect("the trained team is the last");
        if let Some(inspection) = engine.inspect(samples, ANSWER_TOKENS)? {
            write_json(&self.dir.join(eval::INSPECTION), &inspection)?;
        }
        let report = Report::read(self.dir)?;
        let page = self.dir.join("report.html");
        report.write(&page)?;
        output::print(&format!(
            "{}\n\n{}\n\nreport in {}",
            table(&comparison),
            one_line(&report.verdict().sentence),
            page.display()
        ))
    }

    /// Settings of every team: the tiny model, batches, device.
    fn engine(&self, team: TeamConfig) -> EngineConfig {
        EngineConfig {
            model: Some(self.dir.join("model").display().to_string()),
            team: Some(team),
            batch_size: Some(BATCH),
            backend: self.demo.backend.clone(),
            seed: Some(self.demo.seed),
            ..EngineConfig::default()
        }
    }

    /// Trains the team of `engine` into the folder `name`, or goes on with it; where it is complete, there is nothing left to do.
    fn learn(&self, engine: &Engine, name: &str, what: &str) -> Result<()> {
        let dir = self.dir.join(name);
        verbosity::note(format_args!("training {what}"));
        let session = engine.session();
        let training = TrainConfig {
            batch_size: BATCH,
            max_steps: Some(self.demo.max_steps),
            learning_rate: self.demo.learning_rate(),
            warmup_steps: 30,
            lr_scheduler_type: LrSchedulerType::Linear,
            curriculum: Curriculum::Field("difficulty".into()),
            initial_competence: 0.25,
            trajectory_weight: if session.team.channel.kind.text { 1.0 } else { 0.0 },
            save_total_limit: Some(1),
            seed: self.demo.seed,
            ..TrainConfig::default()
        };
        let files = TrainFiles {
            data: Some(self.dir.join("train.jsonl")),
            resume: dir.join("config.toml").exists(),
            output: Some(dir),
            tensorboard: false,
            ..TrainFiles::default()
        };
        let lora = LoraConfig { lora_r: 16, lora_alpha: 16.0, ..LoraConfig::default() };
        let command = TrainCommand { engine: session.config.clone(), training, lora, files };
        train(engine, request(session, &command)?, &command.files, Ending::Silent)
    }

    /// All methods of answering, in the order of the table; the last is the `trained` team.
    fn plans(&self, trained: &Engine, text: &Engine) -> Result<Vec<Plan>> {
        let plan = |TeamMethods { team, training, methods }| -> Result<Plan> {
            let engine = match training {
                Training::None => other_team(trained, team)?,
                Training::Text => text.clone(),
                Training::Channel => trained.clone(),
            };
            let data = self.dir.join("test.jsonl");
            let samples = engine.session().data(&data, Answers::Required, ANSWER_TOKENS)?;
            Ok(Plan { engine, samples, methods })
        };
        methods(&self.demo.task_config(), &self.demo.team()).into_iter().map(plan).collect()
    }

    /// Measures all methods on their questions.
    fn measure(&self, plans: &[Plan]) -> Result<Vec<Method>> {
        let total = plans.iter().map(|plan| plan.samples.len() * plan.methods.len()).sum();
        let mut progress = Progress::new("answered", 0, total);
        let (mut done, mut rows) = (0, Vec::new());
        for Plan { engine, samples, methods } in plans {
            let request = EvaluateRequest {
                samples: samples.clone(),
                controls: methods.iter().map(|method| method.control.clone()).collect(),
                seed: self.demo.seed,
                checking: Some(engine.session().checking(ANSWER_TOKENS)),
                ..EvaluateRequest::default()
            };
            for (MethodConfig { name, part, .. }, scored) in
                methods.iter().zip(engine.evaluate(request).finish()?)
            {
                let score = scored.evaluation;
                let accuracy = score.accuracy.expect("answers of the tasks are short");
                let cost = score.cost.expect("answers were checked");
                done += samples.len();
                progress.set(done, &format!("{name}: {:.1} %", 100.0 * accuracy.accuracy));
                let (name, message_bytes) = (name.clone(), score.message_bytes as f64);
                let against_real = score.against_real;
                rows.push(Method { name, part: *part, accuracy, message_bytes, cost, against_real });
            }
        }
        progress.finish();
        Ok(rows)
    }
}

/// Another, untrained team on the same weights.
fn other_team(engine: &Engine, team: TeamConfig) -> Result<Engine> {
    engine.with_team(TeamChoice { team: Some(team), ..TeamChoice::default() })
}

/// Accuracy of the best constant answer.
fn guessing(samples: &[TokenizedSample]) -> f64 {
    let mut counts = BTreeMap::new();
    for sample in samples {
        *counts.entry(&sample.target).or_insert(0usize) += 1;
    }
    counts.into_values().max().unwrap_or(0) as f64 / samples.len() as f64
}

/// The comparison for a terminal.
fn table(comparison: &Comparison) -> String {
    let mut lines = vec![
        comparison.title.clone(),
        String::new(),
        format!(
            "{:<28} {:>24} {:>14} {:>10} {:>19}",
            "method", "correct answers % [95 %]", "bytes/message", "s/question", "positions/question"
        ),
    ];
    for method in &comparison.rows {
        lines.push(format!(
            "{:<28} {:>24} {:>14.0} {:>10.4} {:>19.0}",
            method.name,
            method.accuracy.in_percent(1, ""),
            method.message_bytes,
            method.cost.seconds,
            method.cost.forward_positions
        ));
    }
    lines.push(format!("the best constant answer: {:.1} %", 100.0 * comparison.guessing));
    lines.join("\n")
}
