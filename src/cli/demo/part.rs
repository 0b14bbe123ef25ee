//! The parts of the demo, and what each of them shows.

use std::fmt;

use clap::ValueEnum;
use diffmas::agents::{ChannelKind, SlotPlacement, TeamConfig};
use diffmas::benchmarks::synthetic::{Evidence, Facts, Family, HeldOut, TaskConfig};
use diffmas::benchmarks::text_team;
use diffmas::training::{LrSchedulerType, Teacher, TrainConfig};
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};

/// Agents that hold evidence.
pub const HOLDERS: usize = 2;
/// Lines of an update, and of a batch of questions.
pub const BATCH: usize = 32;
/// Questions of a line of training data.
const QUESTIONS_PER_LINE: usize = 4;
/// Most lines of training data; longer trainings read them again.
const MOST_LINES: usize = 1 << 16;
/// The same where each line has images, which take the encoder a fiftieth of a second each.
const MOST_SEEN: usize = 1024;
/// Scores of the team between its first and its last update.
const SCORES: usize = 10;

/// What is asked for on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Parts {
    #[value(name = "A", help = "Eight facts a holder in eight positions")]
    A,
    #[value(name = "B", help = "Eight facts in four positions")]
    B,
    #[value(name = "C", help = "Sixteen facts in eight positions")]
    C,
    #[value(name = "D", help = "Eight facts, of which two matter")]
    D,
    #[value(name = "E", help = "As A, learned without answers")]
    E,
    #[value(name = "all", help = "One after another")]
    All,
}

impl Parts {
    /// The parts, in order.
    pub fn list(self) -> Vec<Part> {
        match self {
            Self::A => vec![Part::A],
            Self::B => vec![Part::B],
            Self::C => vec![Part::C],
            Self::D => vec![Part::D],
            Self::E => vec![Part::E],
            Self::All => vec![Part::A, Part::B, Part::C, Part::D, Part::E],
        }
    }
}

/// A part of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// Eight facts a holder in eight positions: twice as many words as positions.
    A,
    /// Eight facts in four positions.
    B,
    /// Sixteen facts in eight positions.
    C,
    /// Eight facts, two of which matter, and holders are never told which.
    D,
    /// As A, but the training data has no answers: the frozen model, with all evidence in its context, is the teacher.
    E,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One team that learns, on one seed, and what it is compared with: an entry of `demo.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demo {
    pub part: Part,
    pub seed: u64,
    pub task: Family,
    /// Facts of each holder.
    pub facts: usize,
    /// Which pairs of words the training data never has.
    pub split: HeldOut,
    pub channel: ChannelKind,
    pub latent_steps: usize,
    pub slot_placement: SlotPlacement,
    pub num_vectors: usize,
    /// In which form holders get their facts.
    #[serde(default)]
    pub evidence: Evidence,
    /// Whether training data has answers.
    pub answers: bool,
    /// Updates of the team.
    pub max_steps: usize,
    /// Updates of the team that writes text; none where there are no answers.
    pub text_steps: usize,
    /// Questions that everything is measured on.
    pub questions: usize,
    /// Questions that the team is scored on while it learns.
    pub held_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<usize>,
}

impl Demo {
    /// A part as it is without further settings.
    pub fn of(part: Part, seed: u64) -> Self {
        let a = Self {
            part,
            seed,
            task: Family::Relay,
            facts: 8,
            split: HeldOut::Eighth,
            channel: ChannelKind::TRACE,
            latent_steps: 8,
            slot_placement: SlotPlacement::End,
            num_vectors: 8,
            evidence: Evidence::Text,
            answers: true,
            max_steps: 400,
            text_steps: 200,
            questions: 640,
            held_out: 128,
            backend: None,
            device: None,
        };
        let spread = SlotPlacement::Spread;
        match part {
            Part::A => a,
            Part::B => Self { latent_steps: 4, slot_placement: spread, max_steps: 600, ..a },
            Part::C => Self { facts: 16, slot_placement: spread, max_steps: 600, ..a },
            Part::D => Self { task: Family::Distractor, ..a },
            Part::E => Self { answers: false, max_steps: 800, text_steps: 0, ..a },
        }
    }

    /// The same with problems of another kind. Facts of two hops take twice the updates.
    pub fn on(self, task: Family) -> Self {
        let times = if task == Family::TwoHop { 2 } else { 1 };
        Self { task, max_steps: times * self.max_steps, ..self }
    }

    /// The same with facts in images, one in each, and a team that reads them as text beside it.
    pub fn seen(self) -> Self {
        Self { evidence: Evidence::Image, facts: 1, text_steps: self.max_steps, ..self }
    }

    /// Refuses what cannot be shown.
    pub fn validate(&self) -> Result<()> {
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

    /// The problems: in training, half of them as large as those that are asked, the others of any size up to that.
    pub fn task_config(&self) -> TaskConfig {
        TaskConfig {
            family: self.task,
            holders: HOLDERS,
            facts: Facts { min: 1, max: self.facts },
            full_size: true,
            held_out: self.split,
            evidence: self.evidence,
            questions: QUESTIONS_PER_LINE,
        }
    }

    /// The team that learns.
    pub fn team(&self) -> TeamConfig {
        TeamConfig {
            latent_steps: self.latent_steps,
            slot_placement: self.slot_placement,
            num_vectors: self.num_vectors,
            ..self.task_config().team_on(self.channel)
        }
    }

    /// The team that it is compared with: of text, as [`text_team`] says.
    pub fn text_team(&self) -> TeamConfig {
        text_team(&self.task_config(), &self.team())
    }

    /// How the team learns.
    pub fn training(&self) -> TrainConfig {
        TrainConfig {
            batch_size: BATCH,
            max_steps: Some(self.max_steps),
            learning_rate: 2e-3,
            warmup_steps: 30,
            lr_scheduler_type: LrSchedulerType::WarmupStableDecay,
            teacher: if self.answers { Teacher::None } else { Teacher::AllEvidence },
            eval_steps: Some(self.max_steps.div_ceil(SCORES)),
            eval_accuracy: true,
            save_total_limit: Some(1),
            seed: self.seed,
            ..TrainConfig::default()
        }
    }

    /// How the team of text learns: where it writes, from the true words of as many tokens, and from answers; where it reads, as the other.
    pub fn text_training(&self) -> TrainConfig {
        if self.evidence == Evidence::Image {
            let (eval_steps, max_steps) = (None, Some(self.text_steps));
            return TrainConfig { max_steps, eval_steps, eval_accuracy: false, ..self.training() };
        }
        TrainConfig {
            max_steps: Some(self.text_steps),
            trajectory_weight: 1.0,
            learning_rate: 3e-4,
            teacher: Teacher::None,
            eval_steps: None,
            eval_accuracy: false,
            ..self.training()
        }
    }

    /// Lines of training data: each is read once, where there are not too many.
    pub fn lines(&self) -> usize {
        let most = if self.evidence == Evidence::Image { MOST_SEEN } else { MOST_LINES };
        self.max_steps.max(self.text_steps).saturating_mul(BATCH).min(most)
    }

    /// What it is, in a few words.
    pub fn title(&self) -> String {
        let facts = match self.task {
            Family::Distractor => format!("{} facts each, of which a quarter matters", self.facts),
            _ => format!("{} facts each", self.facts),
        };
        let facts = if self.evidence == Evidence::Image { "an image of a fact each".into() } else { facts };
        let labels = if self.answers { "" } else { ", learned without answers" };
        format!(
            "{}: {}, {HOLDERS} holders with {facts}, messages of {} {}{labels}",
            self.part,
            self.task,
            diffmas::benchmarks::message_positions(&self.team()),
            if self.channel == ChannelKind::VECTORS { "vectors" } else { "positions" },
        )
    }
}
