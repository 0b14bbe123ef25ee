//! Flags for how an answer is written, under the names of Hugging Face's `generate`.

use clap::Args;
use diffmas::engine::Session;
use diffmas::inference::{DecodeOptions, Sampling};
use diffmas::{Error, Result};

use super::options::number;

/// How tokens are chosen, and where an answer ends.
#[derive(Debug, Args)]
pub struct GenerationArgs {
    /// Take the best token always
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    greedy: bool,
    /// Divides the scores before a draw
    #[arg(long, default_value_t = 0.6, value_parser = number, allow_negative_numbers = true)]
    temperature: f64,
    /// Keep the K best tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Keep the fewest best tokens whose probabilities reach P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number, allow_negative_numbers = true)]
    top_p: f64,
    /// Keep tokens at least P times as likely as the best one; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = number, allow_negative_numbers = true)]
    min_p: f64,
    /// Make tokens of the final agent's prompt and of its answer less likely (above 1) or more (below 1)
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = number, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// End the answer before this text or special token; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Seed of all draws
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
}

impl GenerationArgs {
    /// The settings for decoding with the model of `session`.
    ///
    /// # Errors
    /// If a number is out of its range, or a stop text cannot be looked for.
    pub fn options(&self, session: &Session) -> Result<DecodeOptions> {
        if self.repetition_penalty <= 0.0 {
            return Err(Error::invalid("--repetition-penalty must be a positive number; 1 changes nothing"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::invalid("--stop must not be empty"));
        }
        if !self.stop.is_empty() && session.model.tokenizer.is_none() {
            return Err(Error::invalid(
                "--stop needs text, but the model has no tokenizer (no tokenizer.json)",
            ));
        }
        Ok(DecodeOptions {
            sampling: self.sampling()?,
            repetition_penalty: self.repetition_penalty,
            max_new_tokens: self.max_new_tokens,
            stop_tokens: session.stop_tokens(),
            seed: self.seed,
        })
    }

    fn sampling(&self) -> Result<Sampling> {
        if self.greedy {
            return Ok(Sampling::Greedy);
        }
        let wrong = |what: &str| Err(Error::invalid(what));
        if self.temperature <= 0.0 {
            return wrong("--temperature must be a positive number; --greedy takes the best token always");
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
}
