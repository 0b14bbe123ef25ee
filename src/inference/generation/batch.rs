//! Rows that are stepped together.

use std::collections::BTreeSet;

use burn::prelude::*;
use diffmas_backends::{ModelBackend, Penalty};
use rand_chacha::ChaCha8Rng;

use super::super::RowOptions;
use super::super::choice::{Choice, Chosen, choose, picked};
use crate::backbone::{Backbone, DecodeCache, KeyValues, Positions};
use crate::communication::Context;

/// Generated positions for which there is room at first, where that many may come.
const ROOM: usize = 256;

/// One row's state beside its keys and values.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub id: usize,
    pub options: RowOptions,
    rng: ChaCha8Rng,
    /// The different tokens of its prompt and of what it has written: a penalty is on these.
    seen: BTreeSet<u32>,
    /// Tokens so far.
    pub written: usize,
    /// The last of them, which is read next.
    last: u32,
    /// Whether it has left and is to be taken out of the batch.
    pub done: bool,
}

impl Row {
    /// A row whose prompt holds the tokens `seen`.
    pub fn new(id: usize, options: RowOptions, seen: BTreeSet<u32>) -> Self {
        let (rng, done) = (options.rng(), options.options.max_new_tokens == 0);
        Self { id, options, rng, seen, written: 0, last: 0, done }
    }

    /// A row that continues what this one has, under options of its own.
    pub fn forked(&self, id: usize, options: RowOptions) -> Self {
        Self { id, rng: options.rng(), options, ..self.clone() }
    }

    /// Takes in the token that was chosen.
    pub fn write(&mut self, token: u32) {
        self.written += 1;
        self.last = token;
        self.seen.insert(token);
    }

    fn choice(&mut self) -> Choice<'_> {
        let factor = self.options.options.repetition_penalty;
        let penalty = (factor != 1.0)
            .then(|| Penalty { ids: self.seen.iter().copied().collect(), factor: factor as f32 });
        Choice { sampling: self.options.options.sampling, penalty, rng: &mut self.rng }
    }
}

/// Rows whose next tokens one pass computes.
#[derive(Debug)]
pub(super) struct Batch<B: ModelBackend> {
    pub rows: Vec<Row>,
    /// Blocks of one row that all rows read first.
    shared: Vec<KeyValues<B>>,
    /// What each row reads of its own, prompt included; where its next position stands.
    context: Context<B>,
    /// The generated positions after that; none yet where there is none.
    cache: Option<DecodeCache<B>>,
    /// The last hidden state of each row, `[R, D]`; none where their last tokens are still to be read.
    hidden: Option<Tensor<B, 2>>,
}

impl<B: ModelBackend> Batch<B> {
    /// Rows that were read: their last hidden states `[R, D]`, and what they go on from.
    pub fn new(rows: Vec<Row>, context: Context<B>, hidden: Tensor<B, 2>) -> Self {
        Self { rows, shared: Vec::new(), context, cache: None, hidden: Some(hidden) }
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(|row| row.done)
    }

    /// Positions that each row reads, padding included.
    fn len(&self) -> usize {
        let kv = self.shared.iter().chain(&self.context.kv).map(KeyValues::len).sum::<usize>();
        kv + self.cache.as_ref().map_or(0, |cache| cache.positions().len)
    }

    /// Reads the last tokens of the rows that are left, if they are still to be read.
    pub fn advance(&mut self, backbone: &Backbone<B>) {
        self.compact();
        if self.hidden.is_some() {
            return;
        }
        let rows = self.rows.len();
        let left = self.rows.iter().map(|row| row.options.options.max_new_tokens - row.written).max();
        let left = left.expect("a batch has rows");
        let cache = self.cache.get_or_insert_with(|| DecodeCache::new(rows, left.min(ROOM)));
        cache.reserve(1, left);
        let tokens: Vec<u32> = self.rows.iter().map(|row| row.last).collect();
        let positions = Positions::issue(&vec![true; rows], &mut self.context.start);
        let past: Vec<&KeyValues<B>> = self.shared.iter().chain(&self.context.kv).collect();
        let (x, hook) = (backbone.embed(&tokens), self.context.hook());
        self.hidden = Some(backbone.forward_in_place(x, &positions, &past, cache, hook));
    }

    /// The next token of each row, which has advanced; none where its scores are not finite. A row reads its token when it advances again.
    pub fn choose(&mut self, backbone: &Backbone<B>) -> Vec<Option<Chosen>> {
        let hidden = self.hidden.take().expect("the batch has advanced");
        choose(backbone.logits(hidden), self.rows.iter_mut().map(Row::choice).collect())
    }

    /// The id of the position of row `row` whose scores were asked for last.
    pub fn position(&self, row: usize) -> u32 {
        self.context.start[row] - 1
    }

    /// Takes the rows out that have left.
    pub fn compact(&mut self) {
        let keep: Vec<usize> = (0..self.rows.len()).filter(|&i| !self.rows[i].done).collect();
        if keep.len() < self.rows.len() {
            self.select(&keep);
            self.rows.retain(|row| !row.done);
        }
    }

    /// Tensors of the rows with these indices in place of all.
    fn select(&mut self, rows: &[usize]) {
        self.context = self.context.select(rows);
        self.cache = self.cache.as_ref().map(|cache| cache.select(rows));
        self.hidden = self.hidden.take().map(|hidden| picked(hidden, rows));
    }

    /// Adds rows that continue the row with index `of`; none has left. A batch of one row becomes one whose rows share what that has read; in others it is copied.
    pub fn fork(&mut self, of: usize, forks: Vec<Row>) {
        if self.rows.len() == 1 {
            self.shared.append(&mut self.context.kv);
            self.shared.extend(self.cache.take().and_then(|cache| cache.written()));
        }
        let rows: Vec<usize> = (0..self.rows.len()).chain(vec![of; forks.len()]).collect();
        self.select(&rows);
        self.rows.extend(forks);
    }

    /// What it costs to run `self` and `other`, which have advanced, as one batch: positions that are read in vain or copied once more.
    pub fn cost_of_joining(&self, other: &Self) -> usize {
        let len = self.len().max(other.len());
        let of = |batch: &Self| {
            let shared: usize = batch.shared.iter().map(KeyValues::len).sum();
            let rows = batch.rows.len();
            rows * (len - batch.len()) + shared * (rows - 1)
        };
        of(self) + of(other)
    }

    /// Bytes of a position of one row.
    pub fn position_bytes(&self) -> usize {
        self.shared.iter().chain(&self.context.kv).map(KeyValues::position_bytes).next().unwrap_or(0)
    }

    /// Takes in the rows of `other`; both have advanced. What all read is copied into one block, padded on the left.
    pub fn join(&mut self, other: Self) {
        let parts = [self.whole(), other.whole()];
        self.context = Context::stack(&parts);
        (self.shared, self.cache) = (Vec::new(), None);
        let hidden = [self.hidden.take(), other.hidden].map(|hidden| hidden.expect("both have advanced"));
        self.hidden = Some(Tensor::cat(hidden.into(), 0));
        self.rows.extend(other.rows);
    }

    /// All that the rows go on from, as a context.
    fn whole(&self) -> Context<B> {
        let rows = self.rows.len();
        let shared = self.shared.iter().map(|kv| kv.repeated(rows));
        let written = self.cache.as_ref().and_then(DecodeCache::written);
        let kv = shared.chain(self.context.kv.iter().cloned()).chain(written).collect();
        Context { kv, hook: self.context.hook.clone(), start: self.context.start.clone() }
    }
}
