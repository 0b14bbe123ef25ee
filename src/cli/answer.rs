//! A batch of questions from token ids to text: the upstream agents think or write, the final agent answers.

use std::ops::ControlFlow;

use diffmas::Result;
use diffmas::agents::{SenderAttention, Team, TeamBatch};
use diffmas::backends::ModelBackend;
use diffmas::communication::ReceivedMessages;
use diffmas::engine::Session;
use diffmas::evaluation::Control;
pub use diffmas::inference::Upstream as Left;
use diffmas::inference::{Answer, DecodeOptions, WrittenMessage, decode, roll_out_upstream};
use diffmas::text::{TextRows, TokenizedSample};

use super::interrupt;

/// How a team answers.
pub struct Answering<'a> {
    pub session: &'a Session,
    pub options: &'a DecodeOptions,
    pub stop: &'a [String],
    pub control: &'a Control,
}

impl Answering<'_> {
    /// Stage I on `samples`.
    ///
    /// # Errors
    /// If what an agent wrote cannot be read.
    pub fn roll_out<B: ModelBackend>(
        &self,
        team: &Team<B>,
        samples: &[TokenizedSample],
        sample_ids: &[u64],
    ) -> Result<Left<B>> {
        let writing = self.session.writing(self.options.clone()).filter(|_| *self.control != Control::None);
        roll_out_upstream(team, samples, writing.as_ref(), sample_ids, |_, _| ())
    }

    /// What upstream agents wrote for one sample: senders and texts, empty where the model has no tokenizer.
    ///
    /// # Errors
    /// If tokens are no text.
    pub fn texts(&self, written: &[WrittenMessage]) -> Result<Vec<(usize, String)>> {
        let tokenizer = self.session.model.tokenizer.as_deref();
        let one = |w: &WrittenMessage| {
            let text = tokenizer.map_or(Ok(String::new()), |t| t.decode(&w.token_ids))?;
            Ok((w.sender, text.trim().to_string()))
        };
        written.iter().map(one).collect()
    }

    /// What the final agent reads in place of `received`.
    pub fn controlled<B: ModelBackend>(
        &self,
        team: &Team<B>,
        received: ReceivedMessages<B>,
        sample_ids: &[u64],
    ) -> ReceivedMessages<B> {
        self.control.apply(received, &team.layout.config, self.options.seed, sample_ids)
    }

    /// Whom the final agent listens to, where messages have vectors.
    pub fn sender_attention<B: ModelBackend>(
        &self,
        team: &Team<B>,
        samples: &[TokenizedSample],
        received: &ReceivedMessages<B>,
    ) -> Option<SenderAttention> {
        team.sender_attention(&prompts(samples).prompts[team.layout.config.agents.len() - 1], received)
    }

    /// Stage II: the answers of all rows, each with its text where the model has a tokenizer. `show` sees text as it settles, of
    /// all rows mixed. Ctrl-C ends all answers.
    pub fn answer<B: ModelBackend>(
        &self,
        team: &Team<B>,
        samples: &[TokenizedSample],
        received: &ReceivedMessages<B>,
        sample_ids: &[u64],
        mut show: impl FnMut(&str),
    ) -> Result<Vec<(Answer, Option<String>)>> {
        let prompt = &prompts(samples).prompts[team.layout.config.agents.len() - 1];
        let tokenizer = self.session.model.tokenizer.as_deref();
        let mut texts = tokenizer.map(|t| TextRows::new(t, samples.len(), self.stop));
        let context = team.read(received);
        let answers =
            decode(
                team.answering(),
                prompt,
                &context,
                self.options,
                sample_ids,
                |row, token| match &mut texts {
                    _ if interrupt::requested() => ControlFlow::Break(()),
                    Some(texts) => texts.push(row, token, &mut show),
                    None => ControlFlow::Continue(()),
                },
            )
            .map_err(|e| e.of_agent(team.layout.config.final_name()))?;
        let texts = match texts {
            Some(texts) => texts.finish(show)?.into_iter().map(Some).collect(),
            None => vec![None; answers.len()],
        };
        Ok(answers.into_iter().zip(texts).collect())
    }
}

/// The prompts of `samples`, whose targets do not matter here.
fn prompts(samples: &[TokenizedSample]) -> TeamBatch {
    TeamBatch { target: None, ..TeamBatch::new(&samples.iter().collect::<Vec<_>>()) }
}
