//! Answers: a request of rows that each have their own options, and what is told of them as they come.
//!
//! The rows of a batch are one generation. What the final agent receives is computed before, for groups of rows that have it computed
//! alike.

mod event;
mod generate;
mod received;
mod request;
mod rollout;

use diffmas_backends::ModelBackend;

use self::generate::generate;
use self::rollout::{groups, roll_out};
use super::loaded::LoadedTeam;
use super::request::Request;
use super::stream::Tell;
use crate::error::Result;
use crate::text::{TokenizedSample, lines};

pub use event::{AnswerEvent, AnswerStream, RolledOut, RowAnswer};
pub use received::{MessageSize, Received, Written};
pub use request::{AnswerOptions, AnswerRequest, AnswerRow};

impl Request for AnswerRequest {
    type Event = AnswerEvent;
    type Output = ();

    fn serve<B: ModelBackend>(self, team: &mut LoadedTeam<B>, tell: &Tell<AnswerEvent, ()>) -> Result<()> {
        let session = team.session.clone();
        let size = self.batch_size.unwrap_or(session.config.batch_size()).max(1);
        let samples: Vec<&TokenizedSample> = self.rows.iter().map(|row| &row.sample).collect();
        let lines = lines(&samples);
        let size = if self.trace.is_some() { lines.len() } else { size };
        for batch in lines.chunks(size) {
            let batch: Vec<usize> = batch.iter().cloned().flatten().collect();
            let mut rolled_out = Vec::new();
            for group in groups(&session, &self.rows, &batch) {
                tell.check()?;
                rolled_out.push(roll_out(&session, team.team(), &self, group, tell)?);
            }
            generate(&session, team.team(), &self.rows, rolled_out, tell)?;
        }
        Ok(())
    }
}
