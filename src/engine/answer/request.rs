//! What is asked: rows that each have their own options.

use super::super::trace::TraceFile;
use super::super::{Cancel, Session};
use crate::agents::check_context;
use crate::error::{Error, Result};
use crate::evaluation::Control;
use crate::inference::DecodeOptions;
use crate::text::{TokenizedSample, lines};

/// How one row is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerOptions {
    /// How tokens are chosen. The model's own stop tokens end an answer beside those that stand here.
    pub decode: DecodeOptions,
    /// Texts and special tokens that an answer ends before.
    pub stop: Vec<String>,
    /// What the final agent reads.
    pub control: Control,
}

impl AnswerOptions {
    /// Refuses stop texts that no answer of the model can end before.
    ///
    /// # Errors
    /// If one is empty, or the model has no tokenizer.
    pub fn validate(&self, session: &Session) -> Result<()> {
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::invalid("a stop text is empty"));
        }
        if !self.stop.is_empty() && session.model.tokenizer.is_none() {
            return Err(Error::invalid(
                "`stop` needs text, but the model has no tokenizer (no tokenizer.json)",
            ));
        }
        Ok(())
    }
}

/// One question.
#[derive(Clone, Debug)]
pub struct AnswerRow {
    /// The prompts.
    pub sample: TokenizedSample,
    /// The sample whose upstream prompts run in place of its own, for controls that give a row another one's messages; the same for all
    /// questions of a line.
    pub upstream: Option<TokenizedSample>,
    /// Keys the row's draws, with the seed: a row with the same id and seed is answered alike in any request.
    pub sample_id: u64,
    /// How it is answered.
    pub options: AnswerOptions,
}

/// Rows to be answered.
#[derive(Clone, Debug, Default)]
pub struct AnswerRequest {
    /// The questions, each with options of its own.
    pub rows: Vec<AnswerRow>,
    /// Lines that run together, each with all its questions; the engine's own number where it is absent.
    pub batch_size: Option<usize>,
    /// Whether the answers say how much the final agent attended to each sender.
    pub sender_attention: bool,
    /// Messages out of a file or into one; all rows are then one batch, and have equal options.
    pub trace: Option<TraceFile>,
    /// Ends the answers where they are; the request then fails as interrupted.
    pub cancel: Cancel,
}

impl AnswerRequest {
    /// All `samples` with the same options; draws are keyed by their place in the list.
    pub fn new(samples: Vec<TokenizedSample>, options: AnswerOptions) -> Self {
        let lines = lines(&samples);
        let others = options.control.senders(lines.len(), options.decode.seed);
        let first = |line: usize| &samples[lines[line].start];
        let upstream =
            |i: usize| others.as_ref().map(|others| options.control.input(first(i), first(others[i])));
        let upstream: Vec<_> = (0..lines.len()).flat_map(|i| vec![upstream(i); lines[i].len()]).collect();
        let row = |((sample, upstream), sample_id)| AnswerRow {
            sample,
            upstream,
            sample_id,
            options: options.clone(),
        };
        Self { rows: samples.into_iter().zip(upstream).zip(0..).map(row).collect(), ..Self::default() }
    }

    /// Refuses rows that cannot be answered.
    pub(crate) fn check(&self, session: &Session) -> Result<()> {
        let room = session.model.config.max_position_embeddings;
        let rows = self.rows.len();
        for AnswerRow { sample, upstream, options, .. } in &self.rows {
            options.control.validate(&session.team, if upstream.is_some() { 2 } else { rows })?;
            check_context(&session.team, sample, options.decode.max_new_tokens, room)?;
            let own = std::slice::from_ref(sample);
            options.control.check_context(&session.team, own, options.decode.max_new_tokens, room)?;
            options.validate(session)?;
            if self.trace.is_some() && options.control == Control::SelfRollout {
                return Err(Error::invalid(
                    "the control `self` reads no message of another agent; it cannot be combined with a trace file",
                ));
            }
        }
        let together = self.rows.windows(2).all(|pair| pair[0].options == pair[1].options);
        if self.trace.is_some() && (rows == 0 || !together || session.team.channel.kind.text) {
            return Err(Error::invalid(
                "a trace file holds the internal state of one batch of rows with equal options",
            ));
        }
        Ok(())
    }
}
