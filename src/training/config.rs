//! Settings of a training run under Hugging Face's names and defaults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::phase_config::{PhaseConfig, PhasePreset, check_phases};
use super::{Curriculum, Decay, DecayType, LrSchedulerType, MemorySize, Recompute, Schedule, Teacher};
use crate::agents::TeamConfig;
use crate::error::{Error, Result};

/// How far back the gradient goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TraceGradient {
    /// Through all agents.
    #[default]
    Full,
    /// Through the final agent and the last `n` upstream agents; `detach` is `last:0`.
    Last(usize),
}

impl TraceGradient {
    /// Whether the gradient goes through upstream agent `j` of `upstream`.
    pub fn reaches(self, j: usize, upstream: usize) -> bool {
        match self {
            Self::Full => true,
            Self::Last(n) => upstream - j <= n,
        }
    }
}

impl FromStr for TraceGradient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "full" => Ok(Self::Full),
            "detach" => Ok(Self::Last(0)),
            _ => text.strip_prefix("last:").and_then(|n| n.parse().ok()).map(Self::Last).ok_or_else(|| {
                Error::invalid(format!("unknown trace_gradient `{text}`; it is `full`, `detach` or `last:N`"))
            }),
        }
    }
}

impl TryFrom<String> for TraceGradient {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for TraceGradient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Last(0) => f.write_str("detach"),
            Self::Last(n) => write!(f, "last:{n}"),
        }
    }
}

impl From<TraceGradient> for String {
    fn from(value: TraceGradient) -> Self {
        value.to_string()
    }
}

/// Settings of the loop; names and defaults are those of `transformers.TrainingArguments` where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Data lines per micro-batch, each with all its questions.
    pub batch_size: usize,
    /// Micro-batches per update.
    pub gradient_accumulation_steps: usize,
    /// Updates; where it is absent `num_train_epochs` decides.
    pub max_steps: Option<usize>,
    /// Passes over the data.
    pub num_train_epochs: f64,
    /// Updates over which the rate rises from 0.
    pub warmup_steps: usize,
    /// Shape of the schedule.
    pub lr_scheduler_type: LrSchedulerType,
    /// Updates over which the rate of `warmup_stable_decay` falls to 0; 60 % of each phase where absent.
    pub num_decay_steps: Option<usize>,
    /// How it falls; linearly where absent.
    pub decay_type: Option<DecayType>,
    /// Largest global gradient norm; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// How AdamW's mean of gradients decays.
    pub adam_beta1: f64,
    /// How AdamW's mean of squared gradients decays.
    pub adam_beta2: f64,
    /// What AdamW adds to the root of that.
    pub adam_epsilon: f64,
    /// What weight decay pulls on, and where to.
    pub decay: Decay,
    /// Seed of the order of samples and of fresh adapters.
    pub seed: u64,
    /// Updates between checkpoints.
    pub save_steps: usize,
    /// Checkpoints kept; the oldest go first. All where absent.
    pub save_total_limit: Option<usize>,
    /// Updates between scores of held-out data; where it is absent, it is scored before the first and after the last alone.
    pub eval_steps: Option<usize>,
    /// Whether right answers are counted on held-out data, too: greedy, with as many tokens as the longest answer that is expected.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub eval_accuracy: bool,
    /// How far back the gradient goes.
    pub trace_gradient: TraceGradient,
    /// Which forward passes are run again for their gradient.
    pub recompute: Recompute,
    /// Whether only what stands between two layers of a prompt is kept, and each layer is run again in its backward pass.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub activation_checkpointing: bool,
    /// Memory for what is kept until gradients, by which `recompute = "auto"` decides; without it, nothing is kept.
    pub memory_limit: Option<MemorySize>,
    /// Updates skipped in a row, for a loss or gradient that is not finite, after which training stops.
    pub max_skipped_updates: usize,
    /// The weight λ of upstream agents' trajectories: `loss = L_final + λ·mean_j L_j`.
    pub trajectory_weight: f64,
    /// Probability of hiding a sender's whole message from its readers.
    pub sender_dropout: f64,
    /// Probability of hiding a single latent position or vector.
    pub position_dropout: f64,
    /// What makes a sample difficult; easy ones come first.
    pub curriculum: Curriculum,
    /// Competence at the first update.
    pub initial_competence: f64,
    /// Updates until all samples are drawn; half of the run where absent.
    pub curriculum_steps: Option<usize>,
    /// The teacher of the final agent.
    pub teacher: Teacher,
    /// The weight `w` of the teacher where a sample has an answer: `loss = w·KL + (1 − w)·NLL`.
    pub distill_weight: f64,
    /// Most tokens of the teacher's answer, end of turn included, which stands in for one that a sample lacks.
    pub teacher_tokens: usize,
    /// A ready-made list of phases, where `phases` is empty.
    pub phase_preset: PhasePreset,
    /// What learns when.
    pub phases: Vec<PhaseConfig>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            learning_rate: 5e-5,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            max_steps: None,
            num_train_epochs: 3.0,
            warmup_steps: 0,
            lr_scheduler_type: LrSchedulerType::Linear,
            num_decay_steps: None,
            decay_type: None,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            decay: Decay::All,
            seed: 42,
            save_steps: 500,
            save_total_limit: None,
            eval_steps: None,
            eval_accuracy: false,
            trace_gradient: TraceGradient::Full,
            recompute: Recompute::Auto,
            activation_checkpointing: false,
            memory_limit: None,
            max_skipped_updates: 5,
            trajectory_weight: 0.0,
            sender_dropout: 0.0,
            position_dropout: 0.0,
            curriculum: Curriculum::None,
            initial_competence: 0.1,
            curriculum_steps: None,
            teacher: Teacher::None,
            distill_weight: 0.5,
            teacher_tokens: 128,
            phase_preset: PhasePreset::Joint,
            phases: Vec::new(),
        }
    }
}

impl TrainConfig {
    /// How the learning rate of each phase rises and falls.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            kind: self.lr_scheduler_type,
            warmup_steps: self.warmup_steps,
            num_decay_steps: self.num_decay_steps,
            decay_type: self.decay_type.unwrap_or_default(),
        }
    }

    /// Checks the settings before any device is touched.
    ///
    /// # Errors
    /// Naming the setting that makes no sense.
    pub fn validate(&self) -> Result<()> {
        let positive = |name: &str, value: usize| match value {
            0 => Err(Error::invalid(format!("{name} must be at least 1"))),
            _ => Ok(()),
        };
        positive("batch_size", self.batch_size)?;
        positive("gradient_accumulation_steps", self.gradient_accumulation_steps)?;
        positive("save_steps", self.save_steps)?;
        positive("max_skipped_updates", self.max_skipped_updates)?;
        positive("max_steps", self.max_steps.unwrap_or(1))?;
        positive("eval_steps", self.eval_steps.unwrap_or(1))?;
        positive("save_total_limit", self.save_total_limit.unwrap_or(1))?;
        if i64::try_from(self.seed).is_err() {
            return Err(Error::invalid(format!(
                "seed must be at most {}, the largest integer of a TOML file, not {}",
                i64::MAX,
                self.seed
            )));
        }
        for (name, value) in [
            ("learning_rate", self.learning_rate),
            ("max_grad_norm", self.max_grad_norm),
            ("weight_decay", self.weight_decay),
            ("trajectory_weight", self.trajectory_weight),
        ] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::invalid(format!("{name} must be a number of at least 0, not {value}")));
            }
        }
        for (name, value) in [
            ("sender_dropout", self.sender_dropout),
            ("position_dropout", self.position_dropout),
            ("initial_competence", self.initial_competence),
            ("distill_weight", self.distill_weight),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::invalid(format!("{name} must be a number from 0 to 1, not {value}")));
            }
        }
        for (name, beta) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::invalid(format!("{name} must be at least 0 and below 1, not {beta}")));
            }
        }
        if !(self.adam_epsilon > 0.0 && self.adam_epsilon.is_finite()) {
            return Err(Error::invalid(format!("adam_epsilon must be positive, not {}", self.adam_epsilon)));
        }
        positive("curriculum_steps", self.curriculum_steps.unwrap_or(1))?;
        positive("teacher_tokens", self.teacher_tokens)?;
        self.check_decay()?;
        if self.activation_checkpointing && self.recompute == Recompute::Never {
            return Err(Error::invalid(
                "activation_checkpointing runs the layers of prompts again, but recompute is never; set it to prompts, always or auto",
            ));
        }
        check_phases(&self.phases)?;
        if !self.num_train_epochs.is_finite() || self.num_train_epochs <= 0.0 {
            return Err(Error::invalid(format!(
                "num_train_epochs must be a positive number, not {}",
                self.num_train_epochs
            )));
        }
        Ok(())
    }

    /// Refuses settings of a decay that the schedule does not have.
    fn check_decay(&self) -> Result<()> {
        if self.lr_scheduler_type == LrSchedulerType::WarmupStableDecay {
            return Ok(());
        }
        let set =
            [("num_decay_steps", self.num_decay_steps.is_some()), ("decay_type", self.decay_type.is_some())];
        match set.iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => Err(Error::invalid(format!(
                "{name} is a setting of the schedule warmup_stable_decay, but lr_scheduler_type is {}",
                self.lr_scheduler_type
            ))),
            None => Ok(()),
        }
    }

    /// Checks the settings against the team.
    ///
    /// # Errors
    /// If a teacher is asked for whose team passes text.
    pub fn check_team(&self, team: &TeamConfig) -> Result<()> {
        if self.teacher == Teacher::None || !team.channel.kind.text {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "teacher = \"{}\" does not go with the channel `{}`, which no gradient crosses; set teacher to \"{}\", or choose another \
             channel",
            self.teacher,
            team.channel,
            Teacher::None
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_n_counts_upstream_agents_from_the_end() {
        let reach = |text: &str| -> Vec<bool> {
            let g: TraceGradient = text.parse().unwrap();
            (0..3).map(|j| g.reaches(j, 3)).collect()
        };
        assert_eq!(reach("full"), [true; 3]);
        assert_eq!(reach("last:1"), [false, false, true]);
        assert_eq!(reach("detach"), [false; 3]);
        assert!("last:".parse::<TraceGradient>().is_err());
    }
}
