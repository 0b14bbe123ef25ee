//! Stage I: the passes of upstream agents, prompts with their latent positions.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::model::{last_position, prefill};
use super::{AdapterScope, AgentPlan, Embedded, FeedKind, Team, TeamBatch, TeamLayout, TeamPlan};
use crate::backbone::{Backbone, GrowingKeyValues, KeyValues, Positions, RowKeys};
use crate::communication::{Context, Message, ReceivedMessages, Rollout};

impl<B: ModelBackend> Team<B> {
    /// Stage I for `agents`: those with slots run as one batch and one pass, the others as one batch, prefill and then latent steps. No
    /// token is sampled.
    ///
    /// # Panics
    /// If there is no agent, one of them is the final one, or readings and batch have other rows.
    pub fn roll_out(
        &self,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        contexts: &[Context<B>],
    ) -> Vec<Rollout<B>> {
        assert!(
            agents.iter().all(|&j| j + 1 < self.layout.config.agents.len()),
            "the final agent answers; it does not think"
        );
        let has_slots = |i: &usize| plan.agents[agents[*i]].slots.is_some();
        let (with_slots, serial): (Vec<usize>, Vec<usize>) = (0..agents.len()).partition(has_slots);
        let part = |places: &[usize]| -> (Vec<usize>, Vec<Context<B>>) {
            places.iter().map(|&i| (agents[i], contexts[i].clone())).unzip()
        };
        let mut rollouts = Vec::with_capacity(agents.len());
        for places in [with_slots, serial].iter().filter(|places| !places.is_empty()) {
            let (agents, contexts) = part(places);
            let prefilled = self.read_prompts(&agents, batch, plan, &contexts);
            rollouts.extend(self.roll_out_from(prefilled, &agents, batch, plan, &contexts));
        }
        rollouts.sort_by_key(|rollout| agents.iter().position(|&j| j == rollout.sender));
        rollouts
    }

    /// What agents run on as one batch, and its context.
    pub(super) fn as_one(&self, agents: &[usize], contexts: &[Context<B>]) -> (Backbone<B>, Context<B>) {
        match (agents, contexts) {
            ([j], [context]) => (self.roles[*j].clone(), context.clone()),
            _ => {
                let mut all = self.together(agents);
                let keys: Option<Vec<_>> = agents.iter().map(|&j| self.roles[j].row_keys.as_ref()).collect();
                all.row_keys = keys.map(|keys| RowKeys::joined(keys.into_iter()));
                (all, Context::stack(contexts))
            }
        }
    }

    /// The prompts of `agents` as one batch, with slots in their places: all of them have some, or none.
    fn read_prompts(
        &self,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        contexts: &[Context<B>],
    ) -> Prefilled<B> {
        let (backbone, context) = &self.as_one(agents, contexts);
        Prefilled::new(backbone, self.prompt_input(agents, batch, plan, backbone), context)
    }

    /// What `agents` read before anything else, as one batch.
    pub(super) fn prompt_input(
        &self,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        backbone: &Backbone<B>,
    ) -> Embedded<B> {
        let inputs = agents.iter().map(|&j| {
            let prompt = self.embed(&batch.prompts[j], backbone);
            match &plan.agents[j].slots {
                Some(places) => {
                    let name = &self.layout.config.agents[j].name;
                    places.insert(prompt, self.feed.slots(name, &self.parameters))
                }
                None => prompt,
            }
        });
        Embedded::stack(inputs.collect())
    }

    /// The rollouts of `agents`, who have read their prompts: with slots in them, or latent steps behind them.
    pub(super) fn roll_out_from(
        &self,
        prefilled: Prefilled<B>,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        contexts: &[Context<B>],
    ) -> Vec<Rollout<B>> {
        match plan.agents[agents[0]].slots {
            Some(_) => self.cut_slots(prefilled, agents, batch, plan),
            None => self.roll_out_steps(prefilled, agents, batch, plan, contexts),
        }
    }

    /// The rollouts of `agents`, whose prompts have slots in them.
    fn cut_slots(
        &self,
        prefilled: Prefilled<B>,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
    ) -> Vec<Rollout<B>> {
        let Prefilled { prompt: written, hidden, .. } = prefilled;
        let (all, len, d) = (written.positions.batch, written.len(), hidden.dims()[1]);
        let hidden = hidden.reshape([all, len, d]);
        let rows = batch.message_rows();
        let own = |(i, &j): (usize, &usize)| {
            let AgentPlan { slots, steps, dropped, .. } = &plan.agents[j];
            let places = slots.as_ref().expect("an agent with slots");
            let own = batch.prompts[j].len() + steps;
            let (from, skip) = (i * rows, len - own);
            let [prompt, latent] = places.split_kv(&written.rows(from, rows).slice(skip, len));
            let [hidden, thought] =
                places.split_hidden(&hidden.clone().narrow(0, from, rows).narrow(1, skip, own));
            Rollout {
                sender: j,
                transmit: self.layout.config.transmit(j),
                dropped: dropped.clone(),
                prompt,
                latents: latents(&hidden, Some(&thought)),
                latent: Some(latent),
                hidden,
            }
        };
        agents.iter().enumerate().map(own).collect()
    }

    /// The latent steps of `agents`, who have read their prompts.
    fn roll_out_steps(
        &self,
        prefilled: Prefilled<B>,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        contexts: &[Context<B>],
    ) -> Vec<Rollout<B>> {
        let rows = batch.message_rows();
        let (backbone, context) = &self.as_one(agents, contexts);
        let (all, len) = (prefilled.prompt.positions.batch, prefilled.prompt.len());
        let steps: Vec<usize> = agents.iter().map(|&j| plan.agents[j].steps).collect();
        // Agents that have finished stay in the batch, unseen, until all have.
        let seen = |t: usize| steps.iter().flat_map(|&n| vec![t < n; rows]).collect();
        let most = steps.iter().copied().max().unwrap_or(0);
        let Stepped { prompt: written, hidden, latent: tail, latents, .. } =
            self.run_steps(agents, backbone, prefilled, context, (0..most).map(seen).collect());
        let d = hidden.dims()[1];
        let hidden = hidden.reshape([all, len, d]);
        agents
            .iter()
            .enumerate()
            .map(|(i, &j)| {
                let (from, own, n) = (i * rows, batch.prompts[j].len(), steps[i]);
                let skip = len - own;
                Rollout {
                    sender: j,
                    transmit: self.layout.config.transmit(j),
                    dropped: plan.agents[j].dropped.clone(),
                    prompt: written.rows(from, rows).slice(skip, len),
                    latent: tail.as_ref().filter(|_| n > 0).map(|t| t.rows(from, rows).slice(0, n)),
                    hidden: if agents.len() == 1 {
                        hidden.clone()
                    } else {
                        hidden.clone().narrow(0, from, rows).narrow(1, skip, own)
                    },
                    latents: latents[..=n].iter().map(|h| own_rows(h, from, rows)).collect(),
                }
            })
            .collect()
    }

    /// A latent step after a prompt, `prefilled` on `backbone`, for each of `seen` (`[B]` each: rows that later positions see it in), by the feeds of
    /// `agents`, whose rows stand one under the other.
    pub(super) fn run_steps(
        &self,
        agents: &[usize],
        backbone: &Backbone<B>,
        prefilled: Prefilled<B>,
        context: &Context<B>,
        seen: Vec<Vec<bool>>,
    ) -> Stepped<B> {
        let Prefilled { prompt, hidden, mut next } = prefilled;
        let batch = prompt.positions.batch;
        let mut h = last_position(hidden.clone(), batch);
        let mut latents = vec![h.clone()];
        let past: Vec<&KeyValues<B>> = context.kv.iter().chain([&prompt]).collect();
        let mut latent = GrowingKeyValues::new(batch, seen.len());
        for valid in seen {
            let z = self.next_input(agents, h, backbone);
            let at = Positions::issue(&valid, &mut next);
            h = backbone.forward_growing(z, &at, &past, &mut latent, context.hook());
            latents.push(h.clone());
        }
        Stepped { prompt, hidden, latent: latent.into_key_values(), latents, next }
    }

    /// Stage I of all upstream agents that send something: what the final agent finds.
    pub fn roll_out_all(&self, batch: &TeamBatch) -> ReceivedMessages<B> {
        self.roll_out_watched(batch, |_, _| ())
    }

    /// [`Team::roll_out_all`]; `watch` sees each agent's rollout and what the agent had found.
    pub fn roll_out_watched(
        &self,
        batch: &TeamBatch,
        mut watch: impl FnMut(&Rollout<B>, &ReceivedMessages<B>),
    ) -> ReceivedMessages<B> {
        let batch = &batch.clone().without_trajectories();
        let plan = self.plan(batch);
        let mut sent: Vec<Option<Message<B>>> = vec![None; plan.agents.len()];
        let last = plan.agents.len() - 1;
        for stage in &plan.stages {
            let sends = |&j: &usize| !plan.agents[j].message.is_empty();
            let agents: Vec<usize> = stage.agents.iter().copied().filter(sends).collect();
            if agents.is_empty() {
                continue;
            }
            let received: Vec<_> = agents.iter().map(|&j| self.find(j, &sent, &plan)).collect();
            let contexts: Vec<_> = received.iter().map(|received| self.read(received)).collect();
            let rollouts = self.roll_out(&agents, batch, &plan, &contexts);
            for (rollout, received) in rollouts.iter().zip(&received) {
                watch(rollout, received);
                sent[rollout.sender] = Some(self.send(rollout, received));
            }
        }
        self.find(last, &sent, &plan)
    }

    /// One backbone for agents that run as one batch.
    fn together(&self, agents: &[usize]) -> Backbone<B> {
        match self.layout.adapters.scope {
            AdapterScope::PerRole => {
                let TeamLayout { config, adapters, .. } = &*self.layout;
                let bind = |name| adapters.bind(name, &self.parameters);
                let adapters: Vec<_> = agents.iter().map(|&j| adapters.of(config, j).map(bind)).collect();
                self.roles[agents[0]].with_adapters(&adapters.iter().map(Option::as_ref).collect::<Vec<_>>())
            }
            AdapterScope::Shared | AdapterScope::FinalOnly => self.roles[agents[0]].clone(),
        }
    }

    /// The next input embeddings of agents that run as one batch, each by its own feed.
    fn next_input(&self, agents: &[usize], h: Tensor<B, 2>, backbone: &Backbone<B>) -> Tensor<B, 2> {
        let kinds: Vec<FeedKind> = agents.iter().map(|&j| self.layout.config.feed(j)).collect();
        if kinds.windows(2).all(|pair| pair[0] == pair[1]) {
            return self.feed.forward(kinds[0], h, backbone, &self.parameters);
        }
        let rows = h.dims()[0] / agents.len();
        let each = kinds.iter().enumerate().map(|(i, &kind)| {
            self.feed.forward(kind, h.clone().narrow(0, i * rows, rows), backbone, &self.parameters)
        });
        Tensor::cat(each.collect(), 0)
    }
}

/// What a prefill leaves.
pub(super) struct Prefilled<B: Backend> {
    /// Keys and values of the prompt.
    pub prompt: KeyValues<B>,
    /// Hidden states of the prompt, `[B·n, D]`.
    pub hidden: Tensor<B, 2>,
    /// Per row, the id of the next position.
    pub next: Vec<u32>,
}

impl<B: ModelBackend> Prefilled<B> {
    /// Runs `prompt` on top of `context`.
    pub fn new(backbone: &Backbone<B>, prompt: Embedded<B>, context: &Context<B>) -> Self {
        let mut next = context.start.clone();
        let (hidden, prompt) = prefill(backbone, prompt, context, &mut next);
        Self { prompt, hidden, next }
    }
}

/// What a prefill and latent steps leave.
pub(super) struct Stepped<B: Backend> {
    /// Keys and values of the prompt.
    pub prompt: KeyValues<B>,
    /// Hidden states of the prompt, `[B·n, D]`.
    pub hidden: Tensor<B, 2>,
    /// Keys and values of the latent steps, if there were any.
    pub latent: Option<KeyValues<B>>,
    /// `h_0 … h_T`, `[B, D]` each.
    pub latents: Vec<Tensor<B, 2>>,
    /// Per row, the id of the next position.
    pub next: Vec<u32>,
}

/// `h_0`, the last of the hidden states `[B, p, D]` of a prompt, and those of its slots, `[B, T, D]`, if it has any.
pub(super) fn latents<B: Backend>(prompt: &Tensor<B, 3>, slots: Option<&Tensor<B, 3>>) -> Vec<Tensor<B, 2>> {
    let state = |x: &Tensor<B, 3>, at: usize| x.clone().narrow(1, at, 1).squeeze_dim(1);
    let first = state(prompt, prompt.dims()[1] - 1);
    let of_slots = slots.into_iter().flat_map(|x| (0..x.dims()[1]).map(move |t| state(x, t)));
    std::iter::once(first).chain(of_slots).collect()
}

/// The rows `from..from + count` of `h`.
fn own_rows<B: Backend>(h: &Tensor<B, 2>, from: usize, count: usize) -> Tensor<B, 2> {
    if count == h.dims()[0] { h.clone() } else { h.clone().narrow(0, from, count) }
}
