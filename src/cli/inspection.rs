//! `inspection.json`: what happened inside a team on the first few samples.

use std::path::Path;

use diffmas::Result;
use diffmas::agents::Team;
use diffmas::backends::ModelBackend;
use diffmas::engine::Session;
use diffmas::evaluation::{Inspection, inspect};
use diffmas::text::TokenizedSample;

use super::output;

/// Samples that are looked into.
const FEW: usize = 8;

/// Looks into `team` on the first of `samples`, with answers of at most `max_new_tokens`; `None` where the model has no tokenizer.
pub fn of<B: ModelBackend>(
    session: &Session,
    team: &Team<B>,
    samples: &[TokenizedSample],
    max_new_tokens: usize,
) -> Result<Option<Inspection>> {
    let Some(tokenizer) = &session.model.tokenizer else { return Ok(None) };
    let few = &samples[..samples.len().min(FEW)];
    let (writing, checking) = (session.greedy_writing(), session.checking(max_new_tokens));
    inspect(team, few, writing.as_ref(), &checking, tokenizer).map(Some)
}

/// Writes what was seen to the output folder `dir`.
pub fn write(dir: &Path, inspection: &Inspection) -> Result<()> {
    output::write_json(&dir.join("inspection.json"), inspection)
}
