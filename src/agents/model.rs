//! A team that thinks: prompts in, messages and scores out.

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{Autodiff, ModelBackend};

use super::{
    AdapterScope, AdapterSet, FeedKind, FeedModule, PaddedIds, Predictions, TeamBatch, TeamConfig, TeamPlan,
};
use crate::backbone::{Adapter, Backbone, KeyValues, Parameters, Positions};
use crate::communication::{
    ChannelKind, ChannelPair, Message, NoChannel, OverwriteChannel, Reading, Thought, Trace, TraceChannel,
    VectorsChannel,
};

/// Name of the learned feed among the parameters.
const FEED: &str = "feed.learned";

/// A team without values for what it learns: frozen backbone, adapters' shapes, roles.
#[derive(Clone, Debug)]
pub struct TeamModel<B: ModelBackend> {
    /// Roles, latent steps, what is transmitted.
    pub config: TeamConfig,
    /// The frozen model that all roles share, without LoRA.
    pub backbone: Backbone<B>,
    /// From hidden state to next input.
    pub feed: FeedModule<B>,
    /// What agents pass to each other.
    pub channel: ChannelPair<B>,
    /// What the channel learns, as it was made or read.
    pub communication: Parameters<B>,
}

/// A team ready to run.
#[derive(Clone, Debug)]
pub struct Team<B: ModelBackend> {
    /// Roles, latent steps, what is transmitted.
    pub config: TeamConfig,
    /// The backbone of each role, with the adapter that is active in its passes; all share the frozen weights.
    pub roles: Vec<Backbone<B>>,
    /// The adapters, for roles that run as one batch.
    pub(super) adapters: AdapterSet<B>,
    /// From hidden state to next input.
    pub feed: FeedModule<B>,
    /// What agents pass to each other.
    pub channel: ChannelPair<B>,
    /// Values of everything that learns.
    pub parameters: Parameters<B>,
}

impl<B: ModelBackend> TeamModel<B> {
    /// A team on `backbone` with the channel that its configuration names; what the channel learns is drawn from `seed`.
    ///
    /// # Panics
    /// If the configuration is not valid for the backbone.
    pub fn new(config: TeamConfig, backbone: Backbone<B>, seed: u64) -> Self {
        let vectors = || config.vectors(backbone.layers.len()).expect("a channel with vectors has sizes");
        let channel = match config.channel {
            ChannelKind::Trace => ChannelPair::new(TraceChannel),
            ChannelKind::Text => ChannelPair::new(NoChannel),
            ChannelKind::Vectors => ChannelPair::new(VectorsChannel { config: vectors(), with_trace: false }),
            ChannelKind::Hybrid => ChannelPair::new(VectorsChannel { config: vectors(), with_trace: true }),
            ChannelKind::Overwrite => {
                ChannelPair::new(OverwriteChannel { config: vectors(), update: config.overwrite_update })
            }
        };
        Self::with_channel(config, backbone, channel, seed)
    }

    /// A team whose agents talk over `channel`, whatever channel its configuration names.
    pub fn with_channel(
        config: TeamConfig,
        backbone: Backbone<B>,
        channel: ChannelPair<B>,
        seed: u64,
    ) -> Self {
        let kinds: Vec<FeedKind> = (0..config.agents.len() - 1).map(|j| config.feed(j)).collect();
        let feed = FeedModule::new(&backbone, &kinds);
        let communication = channel.inner.parameters(&backbone, seed);
        Self { config, backbone, feed, channel, communication }
    }

    /// The team with `modules` in place of what it learns beside its adapters, as [`TeamModel::modules`] names them.
    pub fn with_modules(mut self, mut modules: Parameters<B>) -> Self {
        if self.feed.learned.is_some() {
            self.feed.learned = modules.remove(FEED);
        }
        self.communication = modules;
        self
    }

    /// The same team with nothing passing between agents; what its channel learns stays among the parameters.
    pub fn without_channel(&self) -> Self {
        Self { channel: ChannelPair::new(NoChannel), ..self.clone() }
    }

    /// The model for training, sharing storage.
    pub fn to_autodiff(&self) -> TeamModel<Autodiff<B>> {
        TeamModel {
            config: self.config.clone(),
            backbone: self.backbone.to_autodiff(),
            feed: self.feed.to_autodiff(),
            channel: self.channel.to_autodiff(),
            communication: Parameters::default(),
        }
    }

    /// What the team learns: the adapters' factors, the channel's weights and, where an agent uses it, the learned feed.
    pub fn parameters(&self, adapters: &AdapterSet<B>) -> Parameters<B> {
        let mut all = adapters.parameters();
        all.extend(self.modules());
        all
    }

    /// What the team learns beside its adapters.
    pub fn modules(&self) -> Parameters<B> {
        let mut all = self.communication.clone();
        if let Some(w) = &self.feed.learned {
            all.insert(FEED.into(), w.clone());
        }
        all
    }

    /// The team with the values of `parameters` for everything it learns; `adapters` says which factors belong where.
    pub fn bind<C: Backend>(&self, adapters: &AdapterSet<C>, parameters: &Parameters<B>) -> Team<B> {
        let adapters = adapters.bind(parameters);
        let roles = (0..self.config.agents.len())
            .map(|j| match adapters.of(&self.config, j) {
                Some(adapter) => self.backbone.with_adapter(adapter),
                None => self.backbone.clone(),
            })
            .collect();
        let mut feed = self.feed.clone();
        if feed.learned.is_some() {
            feed.learned = Some(parameters.get(FEED).clone());
        }
        Team {
            config: self.config.clone(),
            roles,
            adapters,
            feed,
            channel: self.channel.clone(),
            parameters: parameters.clone(),
        }
    }
}

impl<B: ModelBackend> Team<B> {
    /// Who reads whom on `batch`, and where everything will stand.
    pub fn plan(&self, batch: &TeamBatch) -> TeamPlan {
        TeamPlan::new(&self.config, batch, |thought| self.channel.inner.layout(thought))
    }

    /// What agent `j` finds of the messages `sent` by agent: segments stand where it reads them.
    ///
    /// # Panics
    /// If a message that it reads is missing.
    pub fn find(&self, j: usize, sent: &[Option<Message<B>>], plan: &TeamPlan) -> Trace<B> {
        let rotary = &self.roles[j].rotary;
        let messages = plan.agents[j].reads.iter().map(|read| {
            let mut message = sent[read.agent].clone().expect("an agent runs after those it reads");
            if let Some(segment) = &mut message.segment {
                segment.kv = segment.kv.clone().shifted(&read.offsets, rotary);
            }
            message
        });
        Trace { messages: messages.collect(), start: plan.agents[j].start.clone() }
    }

    /// What the passes of an agent that finds `trace` run on.
    pub fn read(&self, trace: &Trace<B>) -> Reading<B> {
        self.channel.inner.read(&self.parameters, trace)
    }

    /// The message of an agent that found `trace` and thought `thought`.
    pub fn send(&self, thought: &Thought<B>, trace: &Trace<B>) -> Message<B> {
        self.channel.inner.send(&self.parameters, thought, trace)
    }

    /// Stage I for `agents`, which run as one batch: prefill, then latent steps. No token is sampled.
    ///
    /// # Panics
    /// If there is no agent, one of them is the final one, or readings and batch have other rows.
    pub fn think(
        &self,
        agents: &[usize],
        batch: &TeamBatch,
        plan: &TeamPlan,
        readings: &[Reading<B>],
    ) -> Vec<Thought<B>> {
        assert!(
            agents.iter().all(|&j| j + 1 < self.config.agents.len()),
            "the final agent answers; it does not think"
        );
        let rows = batch.rows();
        let stacked;
        let (backbone, prompt, reading) = match (agents, readings) {
            ([j], [reading]) => (&self.roles[*j], batch.prompts[*j].clone(), reading.clone()),
            _ => {
                stacked = self.together(agents);
                let prompts: Vec<_> = agents.iter().map(|&j| &batch.prompts[j]).collect();
                (&stacked, PaddedIds::stack(&prompts), Reading::stack(readings))
            }
        };
        let steps: Vec<usize> = agents.iter().map(|&j| plan.agents[j].steps).collect();
        let mut next = reading.start.clone();
        let (hidden, written) = prefill(backbone, &prompt, &reading, &mut next);
        let mut h = last_position(hidden.clone(), prompt.batch);
        let mut latents = vec![h.clone()];
        let past: Vec<&KeyValues<B>> = reading.kv.iter().chain([&written]).collect();
        let mut tail: Option<KeyValues<B>> = None;
        for t in 0..steps.iter().copied().max().unwrap_or(0) {
            let z = self.next_input(agents, h, backbone);
            // Agents that have finished stay in the batch, unseen, until all have.
            let thinks: Vec<bool> = steps.iter().flat_map(|&n| vec![t < n; rows]).collect();
            let at = Positions::issue(&thinks, &mut next);
            let (hidden, grown) = backbone.forward(z, &at, &past, tail.as_ref(), reading.hook.as_deref());
            h = hidden;
            latents.push(h.clone());
            tail = Some(grown);
        }
        let d = h.dims()[1];
        let hidden = hidden.reshape([prompt.batch, prompt.len, d]);
        agents
            .iter()
            .enumerate()
            .map(|(i, &j)| {
                let (from, own, n) = (i * rows, batch.prompts[j].len, steps[i]);
                let skip = prompt.len - own;
                Thought {
                    sender: j,
                    transmit: self.config.transmit(j),
                    dropped: plan.agents[j].dropped.clone(),
                    prompt: written.rows(from, rows).slice(skip, prompt.len),
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

    /// Stage I of all upstream agents that send something: what the final agent finds.
    pub fn think_all(&self, batch: &TeamBatch) -> Trace<B> {
        self.think_watched(batch, |_, _| ())
    }

    /// [`Team::think_all`]; `watch` sees each agent's thought and what the agent had found.
    pub fn think_watched(
        &self,
        batch: &TeamBatch,
        mut watch: impl FnMut(&Thought<B>, &Trace<B>),
    ) -> Trace<B> {
        let batch = &batch.clone().without_experts();
        let plan = self.plan(batch);
        let mut sent: Vec<Option<Message<B>>> = vec![None; plan.agents.len()];
        let last = plan.agents.len() - 1;
        for stage in &plan.stages {
            let sends = |&j: &usize| !plan.agents[j].message.is_empty();
            let agents: Vec<usize> = stage.agents.iter().copied().filter(sends).collect();
            if agents.is_empty() {
                continue;
            }
            let traces: Vec<_> = agents.iter().map(|&j| self.find(j, &sent, &plan)).collect();
            let readings: Vec<_> = traces.iter().map(|trace| self.read(trace)).collect();
            let thoughts = self.think(&agents, batch, &plan, &readings);
            for (thought, trace) in thoughts.iter().zip(&traces) {
                watch(thought, trace);
                sent[thought.sender] = Some(self.send(thought, trace));
            }
        }
        self.find(last, &sent, &plan)
    }

    /// `−log p(y_i | y_<i, prompt, trace)` of every target token, rows one after another; see [`Team::predict_target`].
    ///
    /// # Shapes
    /// `[number of target tokens]`
    pub fn target_nll(&self, prompt: &PaddedIds, target: &PaddedIds, reading: &Reading<B>) -> Tensor<B, 1> {
        self.predict_target(prompt, target, reading).nll()
    }

    /// Stage II, teacher-forced: what is predicted of every target token after `prompt`, the trace and the target so far.
    pub fn predict_target(
        &self,
        prompt: &PaddedIds,
        target: &PaddedIds,
        reading: &Reading<B>,
    ) -> Predictions<B> {
        let backbone = self.answering();
        // The last target token is predicted, never read.
        let input = PaddedIds::beside(&[prompt, &target.truncated(target.len - 1)]);
        let (hidden, _) = prefill(backbone, &input, reading, &mut reading.start.clone());
        self.predict(backbone, hidden, input.len, prompt.len - 1, target)
    }

    /// What an upstream agent predicts of every token of its expert text, which follows its latent positions in a branch of its own:
    /// nothing of it is passed on. `next` is the id of the branch's first position per row.
    pub fn predict_expert(
        &self,
        thought: &Thought<B>,
        expert: &PaddedIds,
        reading: &Reading<B>,
        next: &[u32],
    ) -> Predictions<B> {
        let backbone = &self.roles[thought.sender];
        let first = thought.latents.last().expect("h_0 is always there").clone();
        let [batch, d] = first.dims();
        let mut states = first.unsqueeze_dim::<3>(1);
        if expert.len > 1 {
            let input = expert.truncated(expert.len - 1);
            let past: Vec<&KeyValues<B>> = reading.kv.iter().chain([&thought.prompt]).collect();
            let at = Positions::issue(&input.valid, &mut next.to_vec());
            let x = backbone.embed(&input.ids);
            let (hidden, _) =
                backbone.forward(x, &at, &past, thought.latent.as_ref(), reading.hook.as_deref());
            states = Tensor::cat(vec![states, hidden.reshape([batch, input.len, d])], 1);
        }
        self.predict(backbone, states.reshape([batch * expert.len, d]), expert.len, 0, expert)
    }

    /// What is predicted of all valid ids of `text`, the first of which follows position `first` of each row's `len` hidden states.
    fn predict(
        &self,
        backbone: &Backbone<B>,
        hidden: Tensor<B, 2>,
        len: usize,
        first: usize,
        text: &PaddedIds,
    ) -> Predictions<B> {
        let real = (0..text.ids.len()).filter(|&i| text.valid[i]);
        let (rows, tokens) = real.clone().map(|i| (i / text.len, text.ids[i])).unzip();
        let at: Vec<i64> = real.map(|i| (i / text.len * len + first + i % text.len) as i64).collect();
        let n = at.len();
        let at = Tensor::<B, 1, Int>::from_data(TensorData::new(at, [n]), &backbone.device());
        Predictions { logits: backbone.logits(hidden.select(0, at)), tokens, rows }
    }

    /// The final agent's backbone.
    pub fn answering(&self) -> &Backbone<B> {
        self.roles.last().expect("a team has an agent")
    }

    /// One backbone for agents that run as one batch.
    fn together(&self, agents: &[usize]) -> Backbone<B> {
        match self.adapters.scope {
            AdapterScope::PerRole => {
                let adapters: Vec<Option<&Adapter<B>>> =
                    agents.iter().map(|&j| self.adapters.of(&self.config, j)).collect();
                self.roles[agents[0]].with_adapters(&adapters)
            }
            AdapterScope::Shared | AdapterScope::FinalOnly => self.roles[agents[0]].clone(),
        }
    }

    /// The next input embeddings of agents that run as one batch, each by its own feed.
    fn next_input(&self, agents: &[usize], h: Tensor<B, 2>, backbone: &Backbone<B>) -> Tensor<B, 2> {
        let kinds: Vec<FeedKind> = agents.iter().map(|&j| self.config.feed(j)).collect();
        if kinds.windows(2).all(|pair| pair[0] == pair[1]) {
            return self.feed.forward(kinds[0], h, backbone);
        }
        let rows = h.dims()[0] / agents.len();
        let each = kinds
            .iter()
            .enumerate()
            .map(|(i, &kind)| self.feed.forward(kind, h.clone().narrow(0, i * rows, rows), backbone));
        Tensor::cat(each.collect(), 0)
    }
}

/// The rows `from..from + count` of `h`.
fn own_rows<B: Backend>(h: &Tensor<B, 2>, from: usize, count: usize) -> Tensor<B, 2> {
    if count == h.dims()[0] { h.clone() } else { h.clone().narrow(0, from, count) }
}

/// Runs `ids` on top of `reading`; returns the hidden states `[B·t, D]` and what was written.
pub(crate) fn prefill<B: ModelBackend>(
    backbone: &Backbone<B>,
    ids: &PaddedIds,
    reading: &Reading<B>,
    next: &mut [u32],
) -> (Tensor<B, 2>, KeyValues<B>) {
    let positions = Positions::issue(&ids.valid, next);
    let past: Vec<&KeyValues<B>> = reading.kv.iter().collect();
    backbone.forward(backbone.embed(&ids.ids), &positions, &past, None, reading.hook.as_deref())
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
