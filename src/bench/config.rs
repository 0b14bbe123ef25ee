//! Which works are done, and how often.

use serde::{Deserialize, Serialize};

use super::work::{MOST, Work, WorkKind};
use crate::error::{Error, Result};
use crate::files::NamedEnum;

/// Most runs of a work.
const MOST_RUNS: usize = 1000;

/// Which works are done, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchConfig {
    /// What is timed.
    pub works: Vec<WorkKind>,
    /// Latent steps of each upstream agent in a training step.
    pub latent_steps: Vec<usize>,
    /// Rows of a training step.
    pub train_batch: Vec<usize>,
    /// Rows that are decoded together.
    pub decode_batch: Vec<usize>,
    /// Runs of each work that count.
    pub runs: usize,
    /// Runs before these that do not.
    pub warmup: usize,
    /// Seed of random weights.
    pub seed: u64,
}

impl Default for BenchConfig {
    /// Minutes on two CPU cores with a model of 135M parameters: every kind of work, training steps of 0 and 10 latent steps and one row.
    fn default() -> Self {
        Self {
            works: WorkKind::choices().into_iter().filter_map(|(name, _)| name.parse().ok()).collect(),
            latent_steps: vec![0, 10],
            train_batch: vec![1],
            decode_batch: vec![1, 8],
            runs: 3,
            warmup: 1,
            seed: 42,
        }
    }
}

impl BenchConfig {
    /// Refuses settings with which there is nothing to do, or that no device could do.
    ///
    /// # Errors
    /// Naming the setting.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, least: usize, most: usize, values: &[usize]| match values
            .iter()
            .find(|n| !(least..=most).contains(*n))
        {
            Some(n) => Err(Error::invalid(format!("{name} is {n}, but must be from {least} to {most}"))),
            None if values.is_empty() => Err(Error::invalid(format!("{name} names nothing"))),
            None => Ok(()),
        };
        if self.works.is_empty() {
            return Err(Error::invalid("works names nothing"));
        }
        within("latent_steps", 0, MOST, &self.latent_steps)?;
        within("train_batch", 1, MOST, &self.train_batch)?;
        within("decode_batch", 1, MOST, &self.decode_batch)?;
        within("runs", 1, MOST_RUNS, &[self.runs])?;
        within("warmup", 0, MOST_RUNS, &[self.warmup])
    }

    /// The works in the order in which they are done, each once: loading always, since nothing goes without; the first token before all
    /// that warms the device up.
    pub fn list(&self, random: bool) -> Vec<Work> {
        let mut all = vec![if random { Work::LoadRandom } else { Work::Load }];
        let has = |kind| self.works.contains(&kind);
        if has(WorkKind::FirstToken) {
            all.extend([Work::FirstTokenCold, Work::FirstToken]);
        }
        all.extend(has(WorkKind::Prefill).then_some(Work::Prefill));
        all.extend(has(WorkKind::LatentStep).then_some(Work::LatentStep));
        if has(WorkKind::Decode) {
            all.extend(self.decode_batch.iter().map(|&batch| Work::Decode { batch }));
        }
        if has(WorkKind::Train) {
            for &latent_steps in &self.latent_steps {
                all.extend(self.train_batch.iter().map(|&batch| Work::Train { latent_steps, batch }));
            }
        }
        let mut once = Vec::new();
        all.into_iter().for_each(|work| {
            if !once.contains(&work) {
                once.push(work);
            }
        });
        once
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_are_listed_once_and_the_first_token_before_all_others() {
        let config = BenchConfig { decode_batch: vec![1, 8, 1], ..BenchConfig::default() };
        let names: Vec<String> = config.list(true).iter().map(Work::to_string).collect();
        let expected = "load-random first-token-cold first-token prefill latent-step decode-b1 decode-b8 train-t0-b1 train-t10-b1";
        assert_eq!(names.join(" "), expected);
        let config = BenchConfig { works: vec![WorkKind::Prefill], ..BenchConfig::default() };
        assert_eq!(config.list(false), [Work::Load, Work::Prefill]);
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let says = |config: BenchConfig, part: &str| {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let config = BenchConfig::default();
        assert!(config.validate().is_ok());
        says(BenchConfig { train_batch: vec![1, 0], ..config.clone() }, "train_batch is 0");
        says(BenchConfig { decode_batch: vec![1 << 40], ..config.clone() }, "decode_batch is 1099511627776");
        says(BenchConfig { latent_steps: Vec::new(), ..config.clone() }, "latent_steps names nothing");
        says(BenchConfig { runs: 0, ..config.clone() }, "runs is 0, but must be from 1 to 1000");
        says(BenchConfig { works: Vec::new(), ..config }, "works names nothing");
    }
}
