//! The works by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

named_enum! {
    /// A kind of work.
    WorkKind, "work" {
        /// Weights onto the device: of a model's files, or drawn.
        #[default]
        Load = "load",
        /// The first token after a prompt of 120: the very first call, kernels compiled in it, and the same call again.
        FirstToken = "first-token",
        /// A prompt of 512 tokens, up to the first token of the answer.
        Prefill = "prefill",
        /// Latent steps at 500 positions.
        LatentStep = "latent-step",
        /// An answer at 500 positions, by batch.
        Decode = "decode",
        /// Forward and backward of a micro-batch, by latent steps and batch: four agents, prompts of 120 tokens, targets of 64, LoRA of rank 8.
        Train = "train",
    }
}

/// Most rows and latent steps that a work may have.
pub(super) const MOST: usize = 4096;

/// One piece of work, whole: equal works are comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Work {
    /// A model's files onto the device.
    Load,
    /// Weights drawn and brought onto the device.
    LoadRandom,
    /// The first token of the first answer that the process gives.
    FirstTokenCold,
    /// The first token of the same answer later.
    FirstToken,
    /// 512 tokens and the first of an answer.
    Prefill,
    /// Latent steps at 500 positions.
    LatentStep,
    /// Tokens of `batch` answers at 500 positions.
    Decode {
        /// Rows.
        batch: usize,
    },
    /// The gradient of a micro-batch.
    Train {
        /// Of each upstream agent.
        latent_steps: usize,
        /// Rows.
        batch: usize,
    },
}

impl Work {
    /// What it is, for people.
    pub fn title(self) -> String {
        match self {
            Self::Load => "loading".into(),
            Self::LoadRandom => "drawing and loading random weights".into(),
            Self::FirstTokenCold => "first token of an answer, first call".into(),
            Self::FirstToken => "first token of an answer, warm".into(),
            Self::Prefill => "prefill of 512 tokens".into(),
            Self::LatentStep => "latent step at 500 positions".into(),
            Self::Decode { batch } => format!("decoding at 500 positions, batch {batch}"),
            Self::Train { latent_steps, batch } => {
                format!("training micro-step, T = {latent_steps}, batch {batch}")
            }
        }
    }

    /// What `count` in `seconds` comes to, and its unit.
    pub fn figure(self, seconds: f64, count: usize) -> (f64, &'static str) {
        match self {
            Self::Prefill | Self::Decode { .. } => (count as f64 / seconds, "tok/s"),
            Self::LatentStep => (1e3 * seconds / count as f64, "ms"),
            _ => (seconds / count as f64, "s"),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load => f.write_str("load"),
            Self::LoadRandom => f.write_str("load-random"),
            Self::FirstTokenCold => f.write_str("first-token-cold"),
            Self::FirstToken => f.write_str("first-token"),
            Self::Prefill => f.write_str("prefill"),
            Self::LatentStep => f.write_str("latent-step"),
            Self::Decode { batch } => write!(f, "decode-b{batch}"),
            Self::Train { latent_steps, batch } => write!(f, "train-t{latent_steps}-b{batch}"),
        }
    }
}

impl FromStr for Work {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|&n| n <= MOST);
        let decode = || Some(Self::Decode { batch: number(text.strip_prefix("decode-b")?)? });
        let train = || {
            let (latent_steps, batch) = text.strip_prefix("train-t")?.split_once("-b")?;
            Some(Self::Train { latent_steps: number(latent_steps)?, batch: number(batch)? })
        };
        let known = [
            Self::Load,
            Self::LoadRandom,
            Self::FirstTokenCold,
            Self::FirstToken,
            Self::Prefill,
            Self::LatentStep,
        ];
        let plain = known.into_iter().find(|work| work.to_string() == text);
        plain.or_else(decode).or_else(train).ok_or_else(|| Error::invalid(format!("unknown work `{text}`")))
    }
}

impl TryFrom<String> for Work {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Work> for String {
    fn from(work: Work) -> Self {
        work.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_refused() {
        for work in [
            Work::LoadRandom,
            Work::FirstTokenCold,
            Work::Decode { batch: 8 },
            Work::Train { latent_steps: 0, batch: 16 },
        ] {
            assert_eq!(work.to_string().parse::<Work>().unwrap(), work);
        }
        for wrong in ["decode", "decode-b", "decode-b5000", "train-t1", "train-t1-b-1", "loading", ""] {
            let error = wrong.parse::<Work>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn a_figure_is_a_rate_or_a_time() {
        assert_eq!(Work::Decode { batch: 8 }.figure(2.0, 256), (128.0, "tok/s"));
        assert_eq!(Work::LatentStep.figure(0.33, 33), (10.0, "ms"));
        assert_eq!(Work::Load.figure(0.5, 1), (0.5, "s"));
    }
}
