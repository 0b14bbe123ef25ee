//! A team with its parameters: prompts in, messages and scores out.

use std::sync::Arc;

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::{
    AgentInput, Embedded, FactorDraws, FeedModule, PaddedIds, Predictions, SlotPlacement, TeamBatch,
    TeamLayout, TeamPlan,
};
use crate::backbone::{Backbone, KeyValues, Parameters, Positions, ResidualHook, RowKeys, select_rows};
use crate::communication::{ChannelPair, Context, Message, ReceivedMessages, Rollout};
use crate::images::Encoders;

/// A team ready to run.
#[derive(Clone, Debug)]
pub struct Team<B: ModelBackend> {
    /// Who takes part and how.
    pub layout: Arc<TeamLayout>,
    /// The backbone of each role, with the adapter that is active in its passes; all share the frozen weights.
    pub roles: Vec<Backbone<B>>,
    /// From hidden state to next input.
    pub feed: FeedModule<B>,
    /// What agents pass to each other.
    pub channel: ChannelPair<B>,
    /// What makes features of the images that agents see.
    pub encoders: Encoders,
    /// Values of everything that learns.
    pub parameters: Parameters<B>,
}

impl<B: ModelBackend> Team<B> {
    /// The stages of `batch`, and the position ids of all segments.
    pub fn plan(&self, batch: &TeamBatch) -> TeamPlan {
        TeamPlan::new(&self.layout.config, batch, |rollout| self.channel.inner.layout(rollout))
    }

    /// The team in training: LoRA's factors read inputs with dropout, drawn by `draws`.
    pub(super) fn with_factor_draws(mut self, draws: &FactorDraws) -> Self {
        let last = self.roles.len() - 1;
        for (j, role) in self.roles.iter_mut().enumerate() {
            let rows = if j == last { &draws.questions } else { &draws.messages };
            role.row_keys = Some(RowKeys::new(draws.seed, j, rows));
        }
        self
    }

    /// What agent `j` finds of the messages `sent` by agent: segments stand where it reads them.
    ///
    /// # Panics
    /// If a message that it reads is missing.
    pub fn find(&self, j: usize, sent: &[Option<Message<B>>], plan: &TeamPlan) -> ReceivedMessages<B> {
        let rotary = &self.roles[j].rotary;
        let messages = plan.agents[j].reads.iter().map(|read| {
            let mut message = sent[read.agent].clone().expect("an agent runs after those it reads");
            if let Some(segment) = &mut message.segment {
                segment.kv = segment.kv.clone().shifted(&read.offsets, rotary);
            }
            message
        });
        ReceivedMessages { messages: messages.collect(), start: plan.agents[j].start.clone() }
    }

    /// What the passes of an agent that finds `received` run on.
    pub fn read(&self, received: &ReceivedMessages<B>) -> Context<B> {
        self.channel.inner.read(&self.parameters, received)
    }

    /// The message that the channel makes of the `rollout` of an agent that received `received`, as precise as the team says.
    pub fn send(&self, rollout: &Rollout<B>, received: &ReceivedMessages<B>) -> Message<B> {
        self.rounded(self.channel.inner.send(&self.parameters, rollout, received))
    }

    /// A message as it leaves its sender: as precise as the team says.
    pub(super) fn rounded(&self, message: Message<B>) -> Message<B> {
        message.rounded(self.layout.config.message_dtype, &self.answering().rotary)
    }

    /// `−log p(y_i | y_<i, prompt, received)` of every target token, rows one after another; see [`Team::predict_target`].
    ///
    /// # Shapes
    /// `[number of target tokens]`
    pub fn target_nll(&self, prompt: &AgentInput, target: &PaddedIds, context: &Context<B>) -> Tensor<B, 1> {
        self.predict_target(prompt, target, context).nll()
    }

    /// Stage II, teacher-forced: what is predicted of every target token after `prompt`, the trace and the target so far.
    pub fn predict_target(
        &self,
        prompt: &AgentInput,
        target: &PaddedIds,
        context: &Context<B>,
    ) -> Predictions<B> {
        predict_target(self.answering(), prompt, target, context)
    }

    /// What an upstream agent predicts of every token of its trajectory in a branch of its own, of which nothing is passed on. It follows the
    /// latent positions; where the agent has slots, the prompt's last position, and sees those slots that stand before that. `next` is the
    /// id of the branch's first position per row.
    pub fn predict_trajectory(
        &self,
        rollout: &Rollout<B>,
        trajectory: &PaddedIds,
        context: &Context<B>,
        next: &[u32],
    ) -> Predictions<B> {
        let backbone = &self.roles[rollout.sender];
        let config = &self.layout.config;
        let slots = config.slots(rollout.sender) > 0;
        let first = if slots { rollout.latents.first() } else { rollout.latents.last() };
        let first = first.expect("h_0 is always there").clone();
        let [batch, d] = first.dims();
        let mut states = first.unsqueeze_dim::<3>(1);
        if trajectory.len > 1 {
            let input = trajectory.truncated(trajectory.len - 1);
            let past: Vec<&KeyValues<B>> = context.kv.iter().chain([&rollout.prompt]).collect();
            let len = input.len;
            let input = AgentInput::from(input).embed(backbone);
            let behind = slots && config.slot_placement == SlotPlacement::End;
            let (tail, hook) = (rollout.latent.as_ref().filter(|_| !behind), context.hook());
            let (hidden, _) = read_on(backbone, input, &past, tail, hook, &mut next.to_vec());
            states = Tensor::cat(vec![states, hidden.reshape([batch, len, d])], 1);
        }
        predict(backbone, states.reshape([batch * trajectory.len, d]), trajectory.len, 0, trajectory)
    }

    /// The final agent's backbone.
    pub fn answering(&self) -> &Backbone<B> {
        self.roles.last().expect("a team has an agent")
    }
}

/// What `backbone` predicts of every token of `target` after `context`, `prompt` and the target so far.
pub(crate) fn predict_target<B: ModelBackend>(
    backbone: &Backbone<B>,
    prompt: &AgentInput,
    target: &PaddedIds,
    context: &Context<B>,
) -> Predictions<B> {
    // The last target token is predicted, never read.
    let answer = AgentInput::from(target.truncated(target.len - 1));
    let input = prompt.embed(backbone).beside(answer.embed(backbone));
    let len = input.len();
    let (hidden, _) = prefill(backbone, input, context, &mut context.start.clone());
    predict(backbone, hidden, len, prompt.len() - 1, target)
}

/// What is predicted of all valid ids of `text`, the first of which follows position `first` of each row's `len` hidden states.
pub(super) fn predict<B: ModelBackend>(
    backbone: &Backbone<B>,
    hidden: Tensor<B, 2>,
    len: usize,
    first: usize,
    text: &PaddedIds,
) -> Predictions<B> {
    let real = (0..text.ids.len()).filter(|&i| text.valid[i]);
    let (rows, tokens) = real.clone().map(|i| (i / text.len, text.ids[i])).unzip();
    let at: Vec<usize> = real.map(|i| i / text.len * len + first + i % text.len).collect();
    Predictions { logits: backbone.logits(select_rows(hidden, &at)), tokens, rows }
}

/// Runs `input` on top of `context`; returns the hidden states `[B·t, D]` and what was written.
pub(crate) fn prefill<B: ModelBackend>(
    backbone: &Backbone<B>,
    input: Embedded<B>,
    context: &Context<B>,
    next: &mut [u32],
) -> (Tensor<B, 2>, KeyValues<B>) {
    let past: Vec<&KeyValues<B>> = context.kv.iter().collect();
    read_on(backbone, input, &past, None, context.hook(), next)
}

/// Runs `input` at the positions from `next` on, on top of `past` and `tail`; see [`Backbone::forward`].
pub(super) fn read_on<B: ModelBackend>(
    backbone: &Backbone<B>,
    input: Embedded<B>,
    past: &[&KeyValues<B>],
    tail: Option<&KeyValues<B>>,
    hook: Option<&dyn ResidualHook<B>>,
    next: &mut [u32],
) -> (Tensor<B, 2>, KeyValues<B>) {
    let positions = Positions::issue(&input.valid, next);
    backbone.forward(input.x, &positions, past, tail, hook)
}

/// The last position of every row: `[B·t, D]` → `[B, D]`.
pub(crate) fn last_position<B: Backend>(hidden: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
    let [n, d] = hidden.dims();
    let t = n / batch;
    if batch == 1 {
        hidden.narrow(0, t - 1, 1)
    } else {
        hidden.reshape([batch, t, d]).narrow(1, t - 1, 1).reshape([batch, d])
    }
}
