//! A team that thinks: prompts in, segments and scores out.

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{Autodiff, ModelBackend};

use super::{AdapterSet, FeedKind, FeedModule, PaddedIds, TeamBatch, TeamConfig, TeamPlan, Transmit};
use crate::backbone::{Backbone, KeyValues, Positions};
use crate::communication::{Segment, Trace};
use crate::training::Parameters;

/// Name of the learned feed among the parameters.
const FEED: &str = "feed.learned";

/// A team without values for what it learns: frozen backbone, adapters' shapes, roles.
#[derive(Clone, Debug)]
pub struct TeamModel<B: Backend> {
    /// Roles, latent steps, what is transmitted.
    pub config: TeamConfig,
    /// The frozen model that all roles share, without LoRA.
    pub backbone: Backbone<B>,
    /// From hidden state to next input.
    pub feed: FeedModule<B>,
}

/// A team ready to run.
#[derive(Clone, Debug)]
pub struct Team<B: Backend> {
    /// Roles, latent steps, what is transmitted.
    pub config: TeamConfig,
    /// The backbone of each role, with the adapter that is active in its passes; all share the frozen weights.
    pub roles: Vec<Backbone<B>>,
    /// From hidden state to next input.
    pub feed: FeedModule<B>,
}

/// What an upstream agent thought.
#[derive(Clone, Debug)]
pub struct Thought<B: Backend> {
    /// What it transmits.
    pub segment: Segment<B>,
    /// `h_0 … h_T` after the final norm, `[B, D]` each.
    pub latents: Vec<Tensor<B, 2>>,
}

impl<B: ModelBackend> TeamModel<B> {
    /// A team on `backbone`.
    pub fn new(config: TeamConfig, backbone: Backbone<B>) -> Self {
        let kinds: Vec<FeedKind> = (0..config.agents.len() - 1).map(|j| config.feed(j)).collect();
        let feed = FeedModule::new(&backbone, &kinds);
        Self { config, backbone, feed }
    }

    /// The model for training, sharing storage.
    pub fn to_autodiff(&self) -> TeamModel<Autodiff<B>> {
        TeamModel {
            config: self.config.clone(),
            backbone: self.backbone.to_autodiff(),
            feed: self.feed.to_autodiff(),
        }
    }

    /// What the team learns: the adapters' factors and, where an agent uses it, the learned feed.
    pub fn parameters(&self, adapters: &AdapterSet<B>) -> Parameters<B> {
        let mut all = adapters.parameters();
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
        Team { config: self.config.clone(), roles, feed }
    }
}

impl<B: ModelBackend> Team<B> {
    /// Stage I for agent `j`: prefill, latent steps, and the positions that `transmit` names. No token is sampled.
    ///
    /// `start` is the id of each row's first position.
    ///
    /// # Panics
    /// If the batch sizes differ or `j` is the final agent.
    pub fn think(&self, j: usize, prompt: &PaddedIds, trace: &Trace<B>, start: &[u32]) -> Thought<B> {
        assert!(j + 1 < self.config.agents.len(), "the final agent answers; it does not think");
        let backbone = &self.roles[j];
        let transmit = self.config.transmit(j);
        // Latent positions that nobody will read are not computed; their ids stay used.
        let steps = if transmit == Transmit::Prompt { 0 } else { self.config.steps(j) };
        let mut next = start.to_vec();
        let read = trace.joined();
        let (hidden, written) = prefill(backbone, prompt, read.as_ref(), &mut next);
        let mut h = last_position(hidden, prompt.batch);
        let mut latents = vec![h.clone()];
        let past: Vec<&KeyValues<B>> = read.iter().chain([&written]).collect();
        let mut tail: Option<KeyValues<B>> = None;
        for _ in 0..steps {
            let z = self.feed.forward(self.config.feed(j), h, backbone);
            let at = Positions::issue(&vec![true; prompt.batch], &mut next);
            let (hidden, grown) = backbone.forward(z, &at, &past, tail.as_ref());
            h = hidden;
            latents.push(h.clone());
            tail = Some(grown);
        }
        let (prompt_len, kv) = match (transmit, tail) {
            (Transmit::Latent, Some(tail)) => (0, tail),
            (Transmit::All, Some(tail)) => {
                (prompt.len, KeyValues::cat(&[&written, &tail]).expect("a prompt is never empty"))
            }
            _ => (prompt.len, written),
        };
        Thought { segment: Segment { sender: j, prompt_len, kv }, latents }
    }

    /// Stage I of all upstream agents; returns the trace that the final agent finds.
    pub fn think_all(&self, batch: &TeamBatch, plan: &TeamPlan) -> Trace<B> {
        plan.stages.iter().enumerate().filter(|(_, stage)| stage.segment.is_some()).fold(
            Trace::default(),
            |trace, (j, stage)| {
                let thought = self.think(j, &batch.prompts[j], &trace, &stage.start);
                trace.push(thought.segment)
            },
        )
    }

    /// Stage II, teacher-forced: `−log p(y_i | y_<i, prompt, trace)` of every target token, rows one after another.
    ///
    /// # Shapes
    /// `[number of target tokens]`
    pub fn target_nll(
        &self,
        prompt: &PaddedIds,
        target: &PaddedIds,
        trace: &Trace<B>,
        start: &[u32],
    ) -> Tensor<B, 1> {
        let backbone = self.answering();
        let mut next = start.to_vec();
        let read = trace.joined();
        // The last target token is predicted, never read.
        let input = PaddedIds::beside(&[prompt, &target.truncated(target.len - 1)]);
        let (hidden, _) = prefill(backbone, &input, read.as_ref(), &mut next);
        let mut at = Vec::with_capacity(target.count());
        let mut expected = Vec::with_capacity(target.count());
        for (b, (ids, valid)) in
            target.ids.chunks_exact(target.len).zip(target.valid.chunks_exact(target.len)).enumerate()
        {
            for (i, _) in valid.iter().enumerate().filter(|(_, v)| **v) {
                at.push((b * input.len + prompt.len - 1 + i) as i64);
                expected.push(ids[i]);
            }
        }
        let n = at.len();
        let at = Tensor::<B, 1, Int>::from_data(TensorData::new(at, [n]), &backbone.device());
        B::token_nll(backbone.logits(hidden.select(0, at)), &expected)
    }

    /// The final agent's backbone.
    pub fn answering(&self) -> &Backbone<B> {
        self.roles.last().expect("a team has an agent")
    }
}

/// Runs `ids` on top of `read`; returns the hidden states `[B·t, D]` and what was written.
pub(crate) fn prefill<B: ModelBackend>(
    backbone: &Backbone<B>,
    ids: &PaddedIds,
    read: Option<&KeyValues<B>>,
    next: &mut [u32],
) -> (Tensor<B, 2>, KeyValues<B>) {
    let positions = Positions::issue(&ids.valid, next);
    let past: Vec<&KeyValues<B>> = read.into_iter().collect();
    backbone.forward(backbone.embed(&ids.ids), &positions, &past, None)
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
