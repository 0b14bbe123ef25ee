//! What happens inside a team on a few samples.

use diffmas_backends::ModelBackend;

use super::loaded::LoadedTeam;
use super::stream::Tell;
use super::worker::Request;
use crate::error::Result;
use crate::evaluation::{Inspection, inspect};
use crate::text::TokenizedSample;

/// Samples that are looked into.
const FEW: usize = 8;

/// Asks what happens inside a team.
pub(super) struct InspectRequest {
    samples: Vec<TokenizedSample>,
    max_new_tokens: usize,
}

impl InspectRequest {
    /// The first of `samples`, with an answer of at most `max_new_tokens`.
    pub fn new(samples: &[TokenizedSample], max_new_tokens: usize) -> Self {
        Self { samples: samples[..samples.len().min(FEW)].to_vec(), max_new_tokens }
    }
}

impl Request for InspectRequest {
    type Event = ();
    type Output = Option<Inspection>;

    fn serve<B: ModelBackend>(
        self,
        team: &mut LoadedTeam<B>,
        _tell: &Tell<(), Option<Inspection>>,
    ) -> Result<Option<Inspection>> {
        let session = team.session.clone();
        let Some(tokenizer) = session.model.tokenizer.as_ref().filter(|_| !self.samples.is_empty()) else {
            return Ok(None);
        };
        let (writing, checking) = (session.greedy_writing(), session.checking(self.max_new_tokens));
        inspect(team.team(), &self.samples, writing.as_ref(), &checking, tokenizer).map(Some)
    }
}
