//! The rows of a batch as one generation: each ends, is told and leaves by itself.

use std::time::Instant;

use diffmas_backends::ModelBackend;

use super::super::Session;
use super::super::stream::Tell;
use super::event::{AnswerEvent, RowAnswer};
use super::request::AnswerRow;
use super::rollout::Group;
use crate::agents::Team;
use crate::error::{Error, Result};
use crate::inference::{End, GeneratedToken, Generation, RowOptions};
use crate::text::TextStream;

/// Lets the final agent answer the rows of `groups`, which are a batch.
///
/// # Errors
/// If a score is not finite or a token cannot be decoded; once the request is cancelled, after what there is of the answers was told.
pub(super) fn generate<B: ModelBackend>(
    session: &Session,
    team: &Team<B>,
    rows: &[AnswerRow],
    groups: Vec<Group<B>>,
    tell: &Tell<AnswerEvent, ()>,
) -> Result<()> {
    let clock = Instant::now();
    let batch_size = groups.iter().map(|group| group.rows.len()).sum();
    let mut generation = Generation::new(team.answering());
    // By their numbers in the generation, which count up from 0.
    let mut open: Vec<OpenRow<'_>> = Vec::with_capacity(batch_size);
    for group in groups {
        let options = group.rows.iter().map(|&row| RowOptions {
            options: session.with_stop_tokens(rows[row].options.decode.clone()),
            sample_id: rows[row].sample_id,
        });
        generation.prefill(&group.prompt, &group.context, options.collect());
        let mut attention = group.sender_attention.into_iter();
        for (row, received) in group.rows.into_iter().zip(group.received) {
            let stop = &rows[row].options.stop;
            let answer = RowAnswer {
                row,
                received,
                sender_attention: attention.next().unwrap_or_default(),
                batch_size,
                rollout_seconds: group.seconds,
                ..RowAnswer::default()
            };
            let text = session.model.tokenizer.as_deref().map(|tokenizer| tokenizer.stream(stop));
            let mut row = OpenRow { answer, text, clock, tell };
            if rows[row.answer.row].options.decode.max_new_tokens == 0 {
                row.finish(false)?;
            }
            open.push(row);
        }
    }
    while !generation.is_empty() {
        if tell.is_cancelled() {
            for row in generation.rows() {
                open[row].finish(true)?;
            }
            return Err(Error::Interrupted("cancelled".into()));
        }
        for token in generation.step() {
            let token = token.map_err(|e| e.error.of_agent(team.layout.config.final_name()))?;
            if open[token.row].push(token)? {
                generation.remove(token.row);
            }
        }
    }
    Ok(())
}

/// A row that is being answered.
struct OpenRow<'a> {
    answer: RowAnswer,
    /// None where the model has no tokenizer.
    text: Option<TextStream<'a>>,
    /// Since when.
    clock: Instant,
    tell: &'a Tell<AnswerEvent, ()>,
}

impl OpenRow<'_> {
    /// Takes the row's next token, and tells the text that it settles, or the answer; whether the row has ended.
    fn push(&mut self, token: GeneratedToken) -> Result<bool> {
        let mut stopped = token.end == Some(End::Stop);
        if !stopped {
            self.answer.token_ids.push(token.id);
            if let Some(text) = &mut self.text {
                told(self.tell, self.answer.row, text.push(token.id)?);
                stopped = text.stopped();
            }
        }
        let ended = stopped || token.end.is_some();
        if ended {
            self.finish(stopped)?;
        }
        Ok(ended)
    }

    /// Tells what is left of the text, and the answer.
    fn finish(&mut self, stopped: bool) -> Result<()> {
        let mut answer = std::mem::take(&mut self.answer);
        if let Some(text) = &mut self.text {
            told(self.tell, answer.row, text.finish()?);
            answer.text = Some(text.text().to_string());
        }
        let decode_seconds = self.clock.elapsed().as_secs_f64();
        self.tell.event(AnswerEvent::Finished(RowAnswer { stopped, decode_seconds, ..answer }));
        Ok(())
    }
}

/// Tells text of a row, if there is any.
fn told(tell: &Tell<AnswerEvent, ()>, row: usize, text: &str) {
    if !text.is_empty() {
        tell.event(AnswerEvent::Text { row, text: text.to_string() });
    }
}
