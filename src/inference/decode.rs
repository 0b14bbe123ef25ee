//! Whole answers of an agent, for a batch of rows.

use std::ops::ControlFlow;

use diffmas_backends::ModelBackend;

use super::{DecodeOptions, End, GeneratedToken, Generation, RowOptions};
use crate::agents::AgentInput;
use crate::backbone::Backbone;
use crate::communication::Context;
use crate::error::Result;

/// What the final agent wrote for one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its tokens, without the one that ended it.
    pub token_ids: Vec<u32>,
    /// Whether it ended by a stop token or by its reader rather than by `max_new_tokens`.
    pub stopped: bool,
}

/// Lets an agent answer on `context` with its backbone; `sample_ids` numbers the samples, `on_token(row, token)` sees tokens as they come and
/// ends the row's answer with `Break`.
///
/// A row's answer depends neither on the other rows nor on padding. It is a [`Generation`] whose rows all join at once.
///
/// # Errors
/// If a score is not finite, naming the position: no token could be chosen, only made up.
pub fn decode<B: ModelBackend>(
    backbone: &Backbone<B>,
    prompt: &AgentInput,
    context: &Context<B>,
    options: &DecodeOptions,
    sample_ids: &[u64],
    mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Answer>> {
    let mut answers = vec![Answer::default(); sample_ids.len()];
    let mut generation = Generation::new(backbone);
    let rows = sample_ids.iter().map(|&sample_id| RowOptions { options: options.clone(), sample_id });
    generation.prefill(prompt, context, rows.collect());
    while !generation.is_empty() {
        for token in generation.step() {
            let GeneratedToken { row, id, end, .. } = token.map_err(|e| e.error)?;
            let answer = &mut answers[row];
            if end == Some(End::Stop) {
                answer.stopped = true;
                continue;
            }
            answer.token_ids.push(id);
            if on_token(row, id).is_break() {
                answer.stopped = true;
                generation.remove(row);
            }
        }
    }
    Ok(answers)
}
