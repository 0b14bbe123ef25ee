//! A batch of questions from token ids to text: the upstream agents think, the final agent answers.

use std::ops::ControlFlow;

use diffmas::Result;
use diffmas::agents::{Team, TeamBatch, TeamPlan};
use diffmas::backends::ModelBackend;
use diffmas::communication::StoredTrace;
use diffmas::evaluation::Control;
use diffmas::inference::{Answer, DecodeOptions, decode};
use diffmas::text::{TextRows, TokenizedSample};

use super::interrupt;
use super::session::Session;

/// How a team answers.
pub struct Answering<'a> {
    pub session: &'a Session,
    pub options: &'a DecodeOptions,
    pub stop: &'a [String],
    pub control: &'a Control,
}

impl Answering<'_> {
    /// Stage I on `samples`: what the upstream agents leave for the final one.
    pub fn think<B: ModelBackend>(&self, team: &Team<B>, samples: &[TokenizedSample]) -> StoredTrace<B> {
        let batch = prompts(samples);
        let plan = TeamPlan::new(&team.config, &batch);
        let trace = team.think_all(&batch, &plan);
        StoredTrace { trace, start: plan.stages[team.config.agents.len() - 1].start.clone() }
    }

    /// What the final agent reads in place of `stored`.
    pub fn controlled<B: ModelBackend>(
        &self,
        team: &Team<B>,
        stored: StoredTrace<B>,
        streams: &[u64],
    ) -> StoredTrace<B> {
        let StoredTrace { trace, start } = stored;
        let (trace, start) = self.control.apply(trace, &start, &team.config, self.options.seed, streams);
        StoredTrace { trace, start }
    }

    /// Stage II: the answers of all rows, each with its text where the model has a tokenizer. `show` sees text as it settles, of
    /// all rows mixed. Ctrl-C ends all answers.
    pub fn answer<B: ModelBackend>(
        &self,
        team: &Team<B>,
        samples: &[TokenizedSample],
        read: &StoredTrace<B>,
        streams: &[u64],
        mut show: impl FnMut(&str),
    ) -> Result<Vec<(Answer, Option<String>)>> {
        let prompt = &prompts(samples).prompts[team.config.agents.len() - 1];
        let tokenizer = self.session.model.tokenizer.as_deref();
        let mut texts = tokenizer.map(|t| TextRows::new(t, samples.len(), self.stop));
        let answers = decode(team, prompt, &read.trace, &read.start, self.options, streams, |row, token| {
            match &mut texts {
                _ if interrupt::requested() => ControlFlow::Break(()),
                Some(texts) => texts.push(row, token, &mut show),
                None => ControlFlow::Continue(()),
            }
        });
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
