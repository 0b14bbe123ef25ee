//! Prompts read some layers at a time, so that only what stands between two pieces need be kept.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::input::marks;
use super::model::predict;
use super::rollout::Prefilled;
use super::{AgentInput, Embedded, Layers, Predictions, Team, TeamBatch, TeamPlan};
use crate::backbone::{Backbone, KeyValues, Positions};
use crate::communication::Context;
use crate::rectangle::Rectangle;

impl<B: ModelBackend> Team<B> {
    /// What `layers` make of the prompts of `agents`, of the final agent with the target: key and value of each layer, `[B, G, n, d]`, and what
    /// leaves the last of them, `[1, 1, B·n, D]`. The final agent's keys and values, which nobody reads, are left out. `before` is what left the
    /// layers before them, if there are any.
    ///
    /// # Panics
    /// If layers have some before them, and `before` is nothing.
    pub(super) fn read_layers(
        &self,
        layers: Layers,
        before: Option<Tensor<B, 4>>,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        contexts: &[Context<B>],
    ) -> Vec<Tensor<B, 4>> {
        let (backbone, context) = &self.reading(agents, batch, contexts);
        let positions = Positions::issue(&self.real(agents, batch, plan), &mut context.start.clone());
        let x = match layers.from {
            0 if self.answers(agents) => answer_input(agents[0], batch, backbone).x,
            0 => self.prompt_input(agents, batch, plan, backbone).x,
            _ => flat(before.expect("what left the layers before")),
        };
        let past: Vec<&KeyValues<B>> = context.kv.iter().collect();
        let (x, written) =
            backbone.forward_layers(layers.from..layers.to, x, &positions, &past, context.hook());
        let mut tensors = if self.answers(agents) { Vec::new() } else { written.into_tensors() };
        tensors.push(x.unsqueeze());
        tensors
    }

    /// The prompts of `agents` that all `pieces` of [`Team::read_layers`] make up.
    ///
    /// # Panics
    /// If there is no piece.
    pub(super) fn prefilled(
        &self,
        pieces: Vec<Vec<Tensor<B, 4>>>,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        contexts: &[Context<B>],
    ) -> Prefilled<B> {
        let mut next: Vec<u32> = contexts.iter().flat_map(|context| context.start.clone()).collect();
        let positions = Positions::issue(&self.real(agents, batch, plan), &mut next);
        let (mut tensors, mut hidden) = (Vec::new(), None);
        for mut piece in pieces {
            hidden = piece.pop();
            tensors.extend(piece);
        }
        let hidden = flat(hidden.expect("a piece ends with what leaves it"));
        Prefilled { prompt: KeyValues::from_tensors(tensors, positions), hidden, next }
    }

    /// What the final agent predicts of the target, where `hidden` left the last layers of [`Team::read_layers`].
    ///
    /// # Panics
    /// If the batch has no target.
    pub(super) fn predict_from(&self, hidden: Tensor<B, 4>, batch: &TeamBatch) -> Predictions<B> {
        let prompt = batch.prompts.last().expect("a team has an agent").len();
        let target = batch.target.as_ref().expect("training samples have targets");
        predict(self.answering(), flat(hidden), prompt + target.len - 1, prompt - 1, target)
    }

    fn answers(&self, agents: &[usize]) -> bool {
        agents.contains(&(self.layout.config.agents.len() - 1))
    }

    /// What `agents` run on as one batch, and its context: a row of the final agent is a question.
    fn reading(
        &self,
        agents: &[usize],
        batch: &TeamBatch,
        contexts: &[Context<B>],
    ) -> (Backbone<B>, Context<B>) {
        if self.answers(agents) {
            return (self.answering().clone(), contexts[0].select(&batch.messages));
        }
        self.as_one(agents, contexts)
    }

    /// Which positions of their input are real, `[B, n]` row-major. Padding stays in front, wherever slots stand.
    fn real(&self, agents: &[usize], batch: &TeamBatch, plan: &TeamPlan) -> Vec<bool> {
        let inputs = agents.iter().map(|&j| {
            let (valid, rows) = (batch.prompts[j].valid(), batch.prompts[j].batch());
            let slots = plan.agents[j].slots.as_ref().map_or(0, |_| plan.agents[j].steps);
            let behind = match &batch.target {
                Some(target) if self.answers(agents) => target.truncated(target.len - 1).valid,
                _ => vec![true; rows * slots],
            };
            (Rectangle::beside(&[marks(valid, rows), marks(&behind, rows)], rows), rows)
        });
        let inputs: Vec<(Vec<bool>, usize)> = inputs.collect();
        let inputs: Vec<_> = inputs.iter().map(|(valid, rows)| marks(valid, *rows)).collect();
        Rectangle::under(&inputs, false)
    }
}

/// The prompt of the final agent `j`, and all of the target but its last token.
fn answer_input<B: ModelBackend>(j: usize, batch: &TeamBatch, backbone: &Backbone<B>) -> Embedded<B> {
    let target = batch.target.as_ref().expect("training samples have targets");
    let answer = AgentInput::from(target.truncated(target.len - 1));
    batch.prompts[j].embed(backbone).beside(answer.embed(backbone))
}

/// `[1, 1, N, D]` → `[N, D]`
fn flat<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 2> {
    let [_, _, n, d] = x.dims();
    x.reshape([n, d])
}
