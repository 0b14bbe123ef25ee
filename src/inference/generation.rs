//! Generation as a state: rows that join, are continued a token a step, and leave.
//!
//! # What is batched with what
//!
//! Rows that are prefilled together are one batch: each step is one pass for all of them, and they attend to what they received where it lies.
//! Batches that were prefilled at different times become one before the next step, whatever their contexts are: keys and values are copied
//! into one block, padded on the left, and cross-agent attention goes on for each part by itself. They stay apart, stepped one after
//! another, where the padding would be more bytes to read than the model's matrices are, which is what a pass of its own costs.
//!
//! A row that leaves is taken out of its batch: the keys and values of the others are copied together, or read as they lie where the rows that
//! stay are neighbours. The rows that [`Generation::fork`] makes of the only row of a batch share its keys and values; those of
//! one among others copy them.
//!
//! A row's tokens depend neither on the rows beside it nor on when they came: on the CPU to the bit.

mod batch;

use std::collections::BTreeSet;
use std::ops::Range;

use diffmas_backends::ModelBackend;
use thiserror::Error as ThisError;

use self::batch::{Batch, Row};
use super::RowOptions;
use super::choice::Chosen;
use crate::agents::{AgentInput, last_position, prefill};
use crate::backbone::Backbone;
use crate::communication::Context;
use crate::error::Error;

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The token is one of its stop tokens, and not part of the answer.
    Stop,
    /// The token is the last of `max_new_tokens`.
    Length,
}

/// What a step gives of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeneratedToken {
    /// The row's number.
    pub row: usize,
    /// The token.
    pub id: u32,
    /// `log softmax(scores)[id]` of the scores as the model gives them: before penalty, temperature and what leaves tokens out.
    pub log_prob: f32,
    /// Set with the last token of the row, which has left with it.
    pub end: Option<End>,
}

/// A row that no token could be chosen for.
#[derive(Debug, ThisError)]
#[error("{error}")]
pub struct RowError {
    /// The row's number; it has left.
    pub row: usize,
    /// What is wrong, with the position.
    pub error: Error,
}

/// Rows of one agent that are continued together.
#[derive(Debug)]
pub struct Generation<B: ModelBackend> {
    backbone: Backbone<B>,
    /// Bytes that every pass reads.
    weight_bytes: usize,
    batches: Vec<Batch<B>>,
    /// The number of the row that joins next.
    next: usize,
}

impl<B: ModelBackend> Generation<B> {
    /// No rows yet, of an agent with this backbone.
    pub fn new(backbone: &Backbone<B>) -> Self {
        Self {
            backbone: backbone.clone(),
            weight_bytes: backbone.weight_bytes(),
            batches: Vec::new(),
            next: 0,
        }
    }

    /// Reads a batch of prompts on `context`; each row joins with options of its own. Returns the numbers of the rows, which count up from 0 and
    /// are never given twice. Rows that may not write anything do not join.
    ///
    /// # Panics
    /// If prompts, context and options have different numbers of rows, or there is none.
    pub fn prefill(
        &mut self,
        prompt: &AgentInput,
        context: &Context<B>,
        options: Vec<RowOptions>,
    ) -> Range<usize> {
        let n = options.len();
        assert_eq!(
            (prompt.batch(), context.batch()),
            (n, n),
            "prompts, context and options of the same rows"
        );
        let ids = self.numbers(n);
        let rows = ids.clone().zip(options).zip(distinct(prompt));
        let rows: Vec<Row> = rows.map(|((id, options), seen)| Row::new(id, options, seen)).collect();
        if rows.iter().all(|row| row.done) {
            return ids;
        }
        let mut context = context.clone();
        let mut next = context.start.clone();
        let (hidden, own) = prefill(&self.backbone, prompt.embed(&self.backbone), &context, &mut next);
        context.kv.push(own);
        context.start = next;
        self.batches.push(Batch::new(rows, context, last_position(hidden, n)));
        ids
    }

    /// One token for each row, in the order in which batches, and rows in them, came.
    ///
    /// # Errors
    /// For a row whose scores are not finite, naming the position: no token could be chosen, only made up. That row leaves.
    pub fn step(&mut self) -> Vec<Result<GeneratedToken, RowError>> {
        self.batches.retain(|batch| !batch.is_empty());
        for batch in &mut self.batches {
            batch.advance(&self.backbone);
        }
        self.join();
        let mut tokens = Vec::new();
        for batch in &mut self.batches {
            for (i, chosen) in batch.choose(&self.backbone).into_iter().enumerate() {
                let position = batch.position(i);
                tokens.push(taken(&mut batch.rows[i], chosen, position));
            }
        }
        tokens
    }

    /// Lets a row leave, if it has not left already.
    pub fn remove(&mut self, row: usize) {
        for row in self.batches.iter_mut().flat_map(|b| &mut b.rows).filter(|r| r.id == row) {
            row.done = true;
        }
    }

    /// Lets rows join that go on from where `row` is, as if each had read and written what it has; it stays. Returns their numbers.
    ///
    /// # Panics
    /// If `row` has left.
    pub fn fork(&mut self, row: usize, options: Vec<RowOptions>) -> Range<usize> {
        let ids = self.numbers(options.len());
        let stays = |r: &Row| r.id == row && !r.done;
        let batch = self.batches.iter_mut().find(|b| b.rows.iter().any(stays)).expect("the row has not left");
        batch.compact();
        let at = batch.rows.iter().position(stays).expect("it is in this batch");
        let forks =
            ids.clone().zip(options).map(|(id, options)| batch.rows[at].forked(id, options)).collect();
        batch.fork(at, forks);
        ids
    }

    /// The rows that have not left, in the order of their tokens.
    pub fn rows(&self) -> Vec<usize> {
        self.batches.iter().flat_map(|b| &b.rows).filter(|r| !r.done).map(|r| r.id).collect()
    }

    /// How many passes of the model the last step took.
    pub fn passes(&self) -> usize {
        self.batches.len()
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.batches.iter().all(Batch::is_empty)
    }

    fn numbers(&mut self, n: usize) -> Range<usize> {
        let ids = self.next..self.next + n;
        self.next = ids.end;
        ids
    }

    /// Makes one batch of those that cost less together than apart.
    fn join(&mut self) {
        let mut joined: Vec<Batch<B>> = Vec::with_capacity(self.batches.len());
        for batch in self.batches.drain(..) {
            let pays =
                |to: &&mut Batch<B>| to.cost_of_joining(&batch) * batch.position_bytes() <= self.weight_bytes;
            match joined.iter_mut().find(pays) {
                Some(to) => to.join(batch),
                None => joined.push(batch),
            }
        }
        self.batches = joined;
    }
}

/// What `row` gives with the token that was chosen from the scores after `position`.
fn taken(row: &mut Row, chosen: Option<Chosen>, position: u32) -> Result<GeneratedToken, RowError> {
    let Some(Chosen { token, log_prob }) = chosen else {
        row.done = true;
        let error = Error::invalid(format!(
            "the scores of the token after position {position} are not finite: a weight of the model or the adapter, or a message, is damaged \
             or too large"
        ));
        return Err(RowError { row: row.id, error });
    };
    let options = &row.options.options;
    let end = if options.stop_tokens.contains(&token) {
        Some(End::Stop)
    } else {
        (row.written + 1 >= options.max_new_tokens).then_some(End::Length)
    };
    row.write(token);
    row.done = end.is_some();
    Ok(GeneratedToken { row: row.id, id: token, log_prob, end })
}

/// The tokens that each row's prompt holds; embeddings are none.
fn distinct(prompt: &AgentInput) -> Vec<BTreeSet<u32>> {
    let Some(prompt) = prompt.ids() else { return vec![BTreeSet::new(); prompt.batch()] };
    let rows = prompt.ids.chunks_exact(prompt.len).zip(prompt.valid.chunks_exact(prompt.len));
    rows.map(|(ids, valid)| ids.iter().zip(valid).filter(|(_, v)| **v).map(|(&id, _)| id).collect()).collect()
}
