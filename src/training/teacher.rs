//! The teacher of a team: the frozen model itself on one context that holds the prompts of all agents.

use std::collections::BTreeMap;

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend, composed};

use super::Teach;
use crate::agents::{PaddedIds, TeamBatch, predict_target};
use crate::backbone::Backbone;
use crate::communication::Context;
use crate::error::Result;
use crate::inference::{DecodeOptions, Generation, RowOptions};
use crate::text::TokenizedSample;

named_enum! {
    /// The teacher whose distributions the final agent learns, beside the answers of the data or in their place.
    Teacher, "teacher" {
        /// None: the answers alone.
        #[default]
        None = "none",
        /// The frozen model on the prompts of all agents in one context.
        AllEvidence = "all_evidence",
    }
}

/// The frozen model without adapter, channel and anything else that learns.
#[derive(Clone, Debug)]
pub struct FrozenTeacher<B: ModelBackend> {
    backbone: Backbone<B>,
}

impl<B: ModelBackend> FrozenTeacher<B> {
    /// The teacher with the weights of `backbone`, which has no adapter.
    pub fn new(backbone: Backbone<B>) -> Self {
        Self { backbone }
    }

    /// `log p_t(y_i | y_<i, prompt)` over the whole vocabulary at each target token, rows one after another.
    ///
    /// # Shapes
    /// `[number of target tokens, V]`, in at least f32
    ///
    /// # Panics
    /// If the batch has no targets, or no prompts of a teacher.
    fn log_probs(&self, batch: &TeamBatch) -> Tensor<B, 2> {
        let prompt = batch.teacher.clone().expect("samples that a teacher is asked about hold its prompt");
        let target = batch.target.as_ref().expect("training samples have targets");
        let context = Context::empty(batch.rows());
        composed::log_softmax(predict_target(&self.backbone, &prompt.into(), target, &context).logits)
    }

    /// The greedy continuation of each of `prompts`, with the token that ends it where one does.
    ///
    /// # Errors
    /// If a score is not finite.
    fn answers(&self, prompts: &[&[u32]], options: &DecodeOptions) -> Result<Vec<Vec<u32>>> {
        let mut answers = vec![Vec::new(); prompts.len()];
        let mut generation = Generation::new(&self.backbone);
        let rows = prompts.iter().map(|_| RowOptions { options: options.clone(), sample_id: 0 });
        let context = Context::empty(prompts.len());
        generation.prefill(&PaddedIds::left(prompts).into(), &context, rows.collect());
        while !generation.is_empty() {
            for token in generation.step() {
                let token = token.map_err(|e| e.error)?;
                answers[token.row].push(token.id);
            }
        }
        Ok(answers)
    }
}

impl<B: ModelBackend> Teach<B> for FrozenTeacher<B> {
    fn log_probs(&self, batch: &TeamBatch) -> Tensor<B, 2> {
        self.log_probs(batch)
    }
}

/// On the inner backend: a teacher has no gradient.
impl<B: ModelBackend> Teach<Autodiff<B>> for FrozenTeacher<B> {
    fn log_probs(&self, batch: &TeamBatch) -> Tensor<Autodiff<B>, 2> {
        Tensor::from_inner(self.log_probs(batch))
    }
}

/// Targets for samples that have none: the teacher's greedy answers, each decoded once in a run.
#[derive(Debug)]
pub(super) struct TeacherAnswers<B: ModelBackend> {
    teacher: FrozenTeacher<B>,
    options: DecodeOptions,
    /// By the sample's place in the data.
    known: BTreeMap<usize, Vec<u32>>,
}

impl<B: ModelBackend> TeacherAnswers<B> {
    /// Answers of at most `max_new_tokens` tokens, the one that ends them included.
    pub fn new(teacher: FrozenTeacher<B>, max_new_tokens: usize) -> Self {
        let stop_tokens = teacher.backbone.config.eos_token_ids.clone();
        let options = DecodeOptions { max_new_tokens, stop_tokens, ..DecodeOptions::default() };
        Self { teacher, options, known: BTreeMap::new() }
    }

    /// The same with `stop_tokens` for ends of an answer.
    pub fn with_stop_tokens(mut self, stop_tokens: Vec<u32>) -> Self {
        self.options.stop_tokens = stop_tokens;
        self
    }

    /// The samples at `places` of `samples`, all of them with a target.
    ///
    /// # Errors
    /// If an answer cannot be decoded.
    pub fn complete(
        &mut self,
        samples: &[TokenizedSample],
        places: &[usize],
    ) -> Result<Vec<TokenizedSample>> {
        let open = |i: &usize| samples[*i].target.is_none();
        let mut new: Vec<usize> = places.iter().copied().filter(open).collect();
        new.retain(|i| !self.known.contains_key(i));
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            let prompt = |&i: &usize| samples[i].teacher.as_deref().expect("a prompt of the teacher");
            let answers = self.teacher.answers(&new.iter().map(prompt).collect::<Vec<_>>(), &self.options)?;
            self.known.extend(new.into_iter().zip(answers));
        }
        let complete = |&i: &usize| {
            let target = samples[i].target.as_ref().or_else(|| self.known.get(&i)).cloned();
            TokenizedSample { target, ..samples[i].clone() }
        };
        Ok(places.iter().map(complete).collect())
    }
}
