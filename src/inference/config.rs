//! How an answer is written, under the names and in the meaning of Hugging Face's `generate`.

use serde::{Deserialize, Serialize};

use super::{DecodeOptions, Sampling};
use crate::error::{Error, Result};

/// How tokens are chosen, and where an answer ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Whether the best token is always taken; what follows up to `min_p` is then without effect.
    pub greedy: bool,
    /// Divides the scores before a draw; 0 takes the best token always.
    pub temperature: f64,
    /// Keeps the K best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest best tokens whose probabilities reach P; above 0, at most 1.
    pub top_p: f64,
    /// Keeps tokens that are at least P times as likely as the best one; 0 keeps all.
    pub min_p: f64,
    /// Makes tokens of the final agent's prompt and of its answer less likely (above 1) or more (below 1).
    pub repetition_penalty: f64,
    /// Texts and special tokens before which an answer ends.
    pub stop: Vec<String>,
    /// Seed of all draws.
    pub seed: u64,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
}

impl Default for GenerationConfig {
    /// Draws from the likeliest tokens, up to 256 of them.
    fn default() -> Self {
        Self {
            greedy: false,
            temperature: 0.6,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            seed: 42,
            max_new_tokens: 256,
        }
    }
}

impl GenerationConfig {
    /// Checks the settings before any device is touched.
    ///
    /// # Errors
    /// Naming the setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        if self.repetition_penalty <= 0.0 {
            return Err(Error::invalid("--repetition-penalty must be a positive number; 1 changes nothing"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::invalid("--stop must not be empty"));
        }
        self.sampling().map(drop)
    }

    /// How the next token is chosen.
    ///
    /// # Errors
    /// Naming the setting that is out of its range.
    pub fn sampling(&self) -> Result<Sampling> {
        if self.greedy || self.temperature == 0.0 {
            return Ok(Sampling::Greedy);
        }
        let wrong = |what: &str| Err(Error::invalid(what));
        if self.temperature < 0.0 {
            return wrong("--temperature must be a positive number, or 0, which takes the best token always");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("--top-p must be above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong("--min-p must be from 0 to 1");
        }
        let &Self { temperature, top_k, top_p, min_p, .. } = self;
        Ok(Sampling::Random { temperature, top_k, top_p, min_p })
    }

    /// The same for the decode loop, with the tokens that end an answer.
    ///
    /// # Errors
    /// As [`GenerationConfig::validate`].
    pub fn decode_options(&self, stop_tokens: Vec<u32>) -> Result<DecodeOptions> {
        self.validate()?;
        Ok(DecodeOptions {
            sampling: self.sampling()?,
            repetition_penalty: self.repetition_penalty,
            max_new_tokens: self.max_new_tokens,
            stop_tokens,
            seed: self.seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_options_of_the_decode_loop() {
        let options = GenerationConfig::default().decode_options(vec![7]).unwrap();
        let sampling = Sampling::Random { temperature: 0.6, top_k: 0, top_p: 0.95, min_p: 0.0 };
        assert_eq!((options.sampling, options.seed), (sampling, 42));
        assert_eq!((options.max_new_tokens, options.stop_tokens), (256, vec![7]));
        for (greedy, temperature) in [(true, -1.0), (false, 0.0)] {
            let greedy = GenerationConfig { greedy, temperature, ..GenerationConfig::default() };
            assert_eq!(greedy.sampling().unwrap(), Sampling::Greedy);
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let d = GenerationConfig::default;
        for (config, name) in [
            (GenerationConfig { temperature: -0.1, ..d() }, "--temperature"),
            (GenerationConfig { top_p: 0.0, ..d() }, "--top-p"),
            (GenerationConfig { top_p: f64::NAN, ..d() }, "--top-p"),
            (GenerationConfig { min_p: 1.5, ..d() }, "--min-p"),
            (GenerationConfig { repetition_penalty: 0.0, ..d() }, "--repetition-penalty"),
            (GenerationConfig { stop: vec![String::new()], ..d() }, "--stop"),
        ] {
            let error = config.decode_options(Vec::new()).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
