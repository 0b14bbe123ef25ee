//! `diffmas demo`: a team learns to communicate, and is measured beside other methods.

mod folder;
mod part;
mod table;

use std::path::{Path, PathBuf};

use clap::Args;
use diffmas::agents::{ChannelKind, SlotPlacement};
use diffmas::backends::BackendKind;
use diffmas::benchmarks::synthetic::{Evidence, Family, HeldOut, vectors_of, write_tiny_model};
use diffmas::engine::OutputLock;
use diffmas::files::{from_root, read_toml, write_atomic, write_json};
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};

use self::folder::Folder;
use self::part::{Demo, Parts};
use self::table::Measured;
use super::flags::{offered, offering};
use super::{interrupt, one_line, output};

/// Most trainings of a part.
const MAX_SEEDS: u64 = 1000;

/// Flags of `demo`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct DemoCommand {
    /// Hugging Face folder, .gguf file, ORG/NAME on the Hugging Face hub, or a known name, in place of the tiny model; what the demo counts as words
    /// are then tokens of that model [the tiny model]
    #[arg(long, help_heading = "Team")]
    model: Option<String>,
    /// What is shown: eight facts a holder in eight positions (A) or in four (B), sixteen in eight (C), eight of which two matter (D), as
    /// A without answers to learn from (E)
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        hide_possible_values = true,
        value_name = "A|B|C|D|E|all",
        default_value = "A",
        help_heading = "Task"
    )]
    part: Parts,
    /// Trainings of each part, with as many seeds from --seed on
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Task")]
    seeds: u64,
    /// What makes a question need a message, in place of the part's own [relay, two-hop, distractor]
    #[arg(long, value_parser = offered::<Family>(), hide_possible_values = true, help_heading = "Task")]
    task: Option<Family>,
    /// In which form holders get their facts: words, or an image of one [text, image]
    #[arg(long, default_value_t, value_parser = offered::<Evidence>(), hide_possible_values = true, help_heading = "Task")]
    evidence: Evidence,
    /// Facts of each holder, in place of the part's own
    #[arg(long, value_name = "N", help_heading = "Task")]
    facts: Option<usize>,
    /// What training data never pairs, and every question is about: an eighth of all pairs of a subject and an object, or half of
    /// them, of which the questions' facts consist [eighth, half]
    #[arg(long, default_value = "eighth", value_parser = offered::<HeldOut>(), hide_possible_values = true, help_heading = "Task")]
    split: HeldOut,
    /// What agents pass on [trace, vectors, hybrid]
    #[arg(long, default_value_t, value_parser = offering::<ChannelKind>(["trace", "vectors", "hybrid"]), hide_possible_values = true, help_heading = "Team")]
    channel: ChannelKind,
    /// Latent positions of each holder, and most tokens of a message where holders write text, in place of the part's own
    #[arg(long, value_name = "T", help_heading = "Team")]
    latent_steps: Option<usize>,
    /// Where the slots of a holder stand, in place of the part's own [end, spread]
    #[arg(long, value_parser = offered::<SlotPlacement>(), hide_possible_values = true, help_heading = "Team")]
    slot_placement: Option<SlotPlacement>,
    /// Vectors that a holder sends [vectors: as many bytes as its latent positions; hybrid: 8]
    #[arg(long, value_name = "M", help_heading = "Team")]
    num_vectors: Option<usize>,
    /// Updates of the team, in place of the part's own; the team that writes text has no more
    #[arg(long, value_name = "N", help_heading = "Team")]
    max_steps: Option<usize>,
    /// Questions that everything is measured on; what they ask about is in no line of the training data
    #[arg(long, value_name = "N", default_value_t = 640, help_heading = "Task")]
    questions: usize,
    /// Seed of data and training
    #[arg(long, default_value_t = 42, help_heading = "Task")]
    seed: u64,
    /// Backend; `diffmas devices` lists those in this binary
    #[arg(long, value_parser = offering::<String>(BackendKind::ALL.iter().map(|kind| kind.name())), hide_possible_values = true, help_heading = "Device")]
    backend: Option<String>,
    /// Which of the backend's devices, by its number in `diffmas devices` [0]
    #[arg(long, value_name = "N", alias = "device-index", help_heading = "Device")]
    device: Option<usize>,
    /// Folder for the report and all that it rests on
    #[arg(long, value_name = "DIR", default_value = "demo-report", help_heading = "Output")]
    output: PathBuf,
    /// Go on with an interrupted demo in --output, with its settings
    #[arg(long, help_heading = "Output")]
    resume: bool,
    /// Replace the demo in --output
    #[arg(long, conflicts_with = "resume", help_heading = "Output")]
    overwrite: bool,
}

/// `demo.toml`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// The model, where it is not the tiny one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    demos: Vec<Demo>,
}

impl Plan {
    fn validate(&self) -> Result<()> {
        if self.demos.is_empty() {
            return Err(Error::invalid("there is no demo"));
        }
        self.demos.iter().try_for_each(Demo::validate)
    }
}

impl DemoCommand {
    /// Trains, measures, prints tables and writes reports.
    pub fn execute(self) -> Result<()> {
        let settings = self.output.join("demo.toml");
        let (lock, plan): (_, Plan) = if self.resume {
            if !settings.exists() {
                let why = "there is no demo to go on with: the folder has no demo.toml";
                return Err(Error::file(&self.output, why));
            }
            (OutputLock::resumed(&self.output)?, read_toml(&settings)?)
        } else {
            let model = self.model.as_deref().map(|name| from_root(Path::new(name)).display().to_string());
            let plan = Plan { model, demos: self.demos()? };
            plan.validate()?;
            let hint = "go on with --resume, or give --overwrite or another --output";
            let lock = OutputLock::new_run(&self.output, self.overwrite, hint)?;
            lock.clear()?;
            write_atomic(&settings, toml::to_string(&plan)?.as_bytes())?;
            (lock, plan)
        };
        plan.validate().map_err(|e| Error::file(&settings, e))?;
        let stopped = format!(
            "stopped; what was trained is kept. Go on with: diffmas demo --resume --output {}",
            self.output.display()
        );
        interrupt::set_words(&stopped);
        let done = self.run(plan);
        drop(lock);
        done.map_err(|e| match e {
            Error::Interrupted(_) => Error::Interrupted(stopped),
            e => e,
        })
    }

    /// What is asked for, one after another.
    fn demos(&self) -> Result<Vec<Demo>> {
        if !(1..=MAX_SEEDS).contains(&self.seeds) {
            return Err(Error::invalid(format!("seeds must be from 1 to {MAX_SEEDS}, not {}", self.seeds)));
        }
        // The largest integer of a TOML file.
        let last = self.seed.checked_add(self.seeds - 1).filter(|&last| i64::try_from(last).is_ok());
        let last = last.ok_or_else(|| {
            Error::invalid(format!(
                "seed must be at most {}, not {}",
                i64::MAX as u64 - (self.seeds - 1),
                self.seed
            ))
        })?;
        let all =
            self.part.list().into_iter().flat_map(|part| (self.seed..=last).map(move |seed| (part, seed)));
        Ok(all.map(|(part, seed)| self.demo(Demo::of(part, seed))).collect())
    }

    /// A part's demo with what the flags say.
    fn demo(&self, own: Demo) -> Demo {
        let own = match self.task {
            Some(task) => own.on(task),
            None => own,
        };
        let own = match self.evidence {
            Evidence::Text => own,
            Evidence::Image => own.seen(),
        };
        let max_steps = self.max_steps.unwrap_or(own.max_steps);
        let latent_steps = self.latent_steps.unwrap_or(own.latent_steps);
        let num_vectors = match self.channel == ChannelKind::VECTORS {
            true => vectors_of(latent_steps),
            false => own.num_vectors,
        };
        Demo {
            facts: self.facts.unwrap_or(own.facts),
            split: self.split,
            channel: self.channel,
            latent_steps,
            slot_placement: self.slot_placement.unwrap_or(own.slot_placement),
            num_vectors: self.num_vectors.unwrap_or(num_vectors),
            max_steps,
            text_steps: own.text_steps.min(max_steps),
            questions: self.questions,
            held_out: own.held_out.min(self.questions),
            backend: self.backend.clone(),
            device: self.device,
            ..own
        }
    }

    /// Runs every demo that is not complete, and prints what all of them say.
    fn run(&self, plan: Plan) -> Result<()> {
        let model = match plan.model {
            Some(model) => model,
            None => {
                let tiny = self.output.join("model");
                if !tiny.exists() {
                    write_tiny_model(&tiny)?;
                }
                tiny.display().to_string()
            }
        };
        let one = plan.demos.len() == 1;
        let mut all: Vec<Measured> = Vec::new();
        for demo in plan.demos {
            // One alone has the folder for itself.
            let dir = match one {
                true => self.output.clone(),
                false => self.output.join(format!("{}-{}", demo.part, demo.seed)),
            };
            let folder = Folder { dir, model: model.clone(), demo: &demo };
            let (comparison, verdict) = folder.run()?;
            output::print(&format!(
                "{}\n\n{}\n\nreport in {}",
                table::text(&comparison),
                one_line(&verdict.sentence),
                folder.page().display()
            ))?;
            all.push(Measured { part: demo.part, seed: demo.seed, comparison });
        }
        write_json(&self.output.join("demo.json"), &all)?;
        let markdown = table::markdown(&all);
        write_atomic(&self.output.join("demo.md"), markdown.as_bytes())?;
        if one { Ok(()) } else { output::print(&format!("\n{markdown}")) }
    }
}
