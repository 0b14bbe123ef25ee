//! One demo in its folder: data, two trainings, measurements, a page.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use diffmas::agents::TeamConfig;
use diffmas::benchmarks::synthetic::{Problem, Split};
use diffmas::benchmarks::{MethodConfig, TeamMethods, Training, message_positions, methods};
use diffmas::engine::{Engine, EngineConfig, EvaluateRequest, TeamChoice};
use diffmas::evaluation::{Comparison, Control, Method};
use diffmas::files::{write_json, write_jsonl};
use diffmas::report::{Report, Verdict};
use diffmas::text::{Answers, TokenizedSample};
use diffmas::training::{LoraConfig, TrainConfig};
use diffmas::{Error, Result};

use super::part::{BATCH, Demo};
use crate::cli::progress::Progress;
use crate::cli::train::{Ending, TrainCommand, TrainFiles, request, train};
use crate::cli::{eval, session, verbosity};

/// Most tokens of an answer.
const ANSWER_TOKENS: usize = 8;

/// A demo in its folder.
pub struct Folder<'a> {
    /// Where it leaves what it makes.
    pub dir: PathBuf,
    /// What all teams run on, as `--model` names it.
    pub model: String,
    pub demo: &'a Demo,
}

/// A team, and the ways in which it answers: their names, and what its solver reads.
struct Plan {
    engine: Engine,
    team: TeamConfig,
    samples: Vec<TokenizedSample>,
    methods: Vec<MethodConfig>,
}

impl Folder<'_> {
    /// The page about it.
    pub fn page(&self) -> PathBuf {
        self.dir.join("report.html")
    }

    /// Trains and measures, and writes the page; where all this is done, there is nothing left to do.
    pub fn run(&self) -> Result<(Comparison, Verdict)> {
        if !self.page().exists() {
            self.make()?;
        }
        let report = Report::read(&self.dir)?;
        let comparison = report.comparison().cloned();
        let comparison =
            comparison.ok_or_else(|| Error::file(&self.dir, "the folder has no comparison.json"))?;
        Ok((comparison, report.verdict()))
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::file(&self.dir, e))?;
        self.write_data()?;
        let demo = self.demo;
        // One model, loaded once, for all teams.
        let trained = Engine::start(session::open(self.engine(demo.team()))?)?;
        let text = other_team(&trained, demo.text_team())?;
        let what = format!("a team with latent messages, channel {}", demo.channel);
        self.learn(&trained, "trained", &what, demo.training())?;
        if demo.text_steps > 0 {
            self.learn(&text, "text", "the same team, writing text", demo.text_training())?;
        }
        let plans = self.plans(&trained, &text)?;
        let comparison = Comparison {
            title: format!("{}, {} questions", demo.title(), demo.questions),
            guessing: guessing(&plans[0].samples),
            rows: self.measure(&plans)?,
        };
        write_json(&self.dir.join("comparison.json"), &comparison)?;
        let Plan { engine, samples, .. } = plans.last().expect("the trained team is the last");
        if let Some(inspection) = engine.inspect(samples, ANSWER_TOKENS)? {
            write_json(&self.dir.join(eval::INSPECTION), &inspection)?;
        }
        Report::read(&self.dir)?.write(&self.page())
    }

    /// Writes the data: what is learned from, what the team is scored on while it learns, and what everything is measured on.
    fn write_data(&self) -> Result<()> {
        let (demo, task) = (self.demo, self.demo.task_config());
        // What a holder should write ends where a message does.
        let words = demo.text_team().message_tokens;
        let mut drawings = task.drawings(&self.dir, demo.seed)?;
        let learned = |problem: &Problem| match demo.answers {
            true => problem.fields_with_trajectories(words),
            false => problem.fields_without_answers(),
        };
        let asked = |problem: &Problem| problem.fields_with_reports(words);
        let train = task.lines(Split::Train, demo.seed, demo.lines(), &mut drawings, learned)?;
        write_jsonl(&self.dir.join("train.jsonl"), &train)?;
        let mut test = |name: &str, seed, count| {
            let lines = task.lines(Split::Test, seed, count, &mut drawings, asked)?;
            write_jsonl(&self.dir.join(name), &lines)
        };
        test("held_out.jsonl", demo.seed ^ (1 << 32), demo.held_out)?;
        test("test.jsonl", demo.seed, demo.questions)
    }

    /// Settings of every team: model, batches, device.
    fn engine(&self, team: TeamConfig) -> EngineConfig {
        EngineConfig {
            model: Some(self.model.clone()),
            team: Some(team),
            batch_size: Some(BATCH),
            backend: self.demo.backend.clone(),
            device: self.demo.device,
            seed: Some(self.demo.seed),
            ..EngineConfig::default()
        }
    }

    /// Trains the team of `engine` into the folder `name`, or goes on with it; where it is complete, there is nothing left to do.
    fn learn(&self, engine: &Engine, name: &str, what: &str, training: TrainConfig) -> Result<()> {
        let dir = self.dir.join(name);
        verbosity::note(format_args!("training {what}"));
        let session = engine.session();
        let files = TrainFiles {
            data: Some(self.dir.join("train.jsonl")),
            eval_data: training.eval_steps.map(|_| self.dir.join("held_out.jsonl")),
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
                Training::None => other_team(trained, TeamConfig::clone(&team))?,
                Training::Text => text.clone(),
                Training::Channel => trained.clone(),
            };
            let data = self.dir.join("test.jsonl");
            let samples = engine.session().data(&data, Answers::Required, ANSWER_TOKENS)?;
            Ok(Plan { engine, team, samples, methods })
        };
        let all = methods(&self.demo.task_config(), &self.demo.team());
        let shown = all.into_iter().filter(|m| m.training != Training::Text || self.demo.text_steps > 0);
        shown.map(plan).collect()
    }

    /// Measures all methods on their questions.
    fn measure(&self, plans: &[Plan]) -> Result<Vec<Method>> {
        let total = plans.iter().map(|plan| plan.samples.len() * plan.methods.len()).sum();
        let mut progress = Progress::new("answered", 0, total);
        let (mut done, mut rows) = (0, Vec::new());
        for Plan { engine, team, samples, methods } in plans {
            let request = EvaluateRequest {
                samples: samples.clone(),
                controls: methods.iter().map(|method| method.control.clone()).collect(),
                seed: self.demo.seed,
                checking: Some(engine.session().checking(ANSWER_TOKENS)),
                ..EvaluateRequest::default()
            };
            for (MethodConfig { name, part, control }, scored) in
                methods.iter().zip(engine.evaluate(request).finish()?)
            {
                let score = scored.evaluation;
                let accuracy = score.accuracy.expect("answers of the tasks are short");
                done += samples.len();
                progress.set(done, &format!("{name}: {:.1} %", 100.0 * accuracy.accuracy));
                let message_bytes = score.message_bytes as f64;
                let sends = team.agents.len() > 1 && *control != Control::None;
                rows.push(Method {
                    name: name.clone(),
                    part: *part,
                    channel: sends.then(|| team.channel.to_string()),
                    accuracy,
                    message_positions: sends.then(|| match team.channel.kind.text {
                        true => message_bytes / size_of::<u32>() as f64,
                        false => message_positions(team) as f64,
                    }),
                    message_bytes,
                    cost: score.cost.expect("answers were checked"),
                    against_real: score.against_real,
                });
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
