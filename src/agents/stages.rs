//! A team on one batch as a DAG of stages, the form that training differentiates.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::{TeamBatch, TeamModel, TeamPlan};
use crate::backbone::Parameters;
use crate::communication::Message;

/// What a stage returns.
#[derive(Debug)]
pub struct StageOutput<B: Backend> {
    /// What later stages read; empty for a stage that nobody reads.
    pub message: Vec<Tensor<B, 4>>,
    /// Its term of the loss, `[1]`.
    pub loss: Option<Tensor<B, 1>>,
}

/// Stages in an order in which each reads messages of earlier ones only.
pub trait StageGraph<B: Backend> {
    /// How many stages there are.
    fn len(&self) -> usize;

    /// Whether there is no stage.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stages whose messages `stage` reads, in order.
    fn reads(&self, stage: usize) -> &[usize];

    /// Computes a stage: the same numbers for the same arguments, every time.
    fn run(
        &self,
        stage: usize,
        parameters: &Parameters<B>,
        messages: Vec<Vec<Tensor<B, 4>>>,
    ) -> StageOutput<B>;
}

/// How the terms of a loss are weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct LossWeights {
    /// The factor of the summed NLL of targets: one over the target tokens of the whole update.
    pub target: f64,
    /// The factor of the summed NLL of each upstream agent's expert text.
    pub experts: Vec<f64>,
}

impl LossWeights {
    /// `L_final + λ · mean_j L_j` over all `batches` of an update, each `L` a mean over its tokens.
    pub fn new(batches: &[TeamBatch], lambda: f64) -> Self {
        let agents = batches.iter().map(|b| b.experts.len()).max().unwrap_or(0);
        let tokens = |j: usize| batches.iter().filter_map(|b| b.expert(j)).map(|e| e.count()).sum::<usize>();
        let tokens: Vec<usize> = (0..agents).map(tokens).collect();
        let roles = tokens.iter().filter(|&&n| n > 0).count();
        let expert = |&n: &usize| if n == 0 { 0.0 } else { lambda / (roles * n) as f64 };
        let target = batches.iter().map(TeamBatch::target_tokens).sum::<usize>();
        Self { target: 1.0 / target.max(1) as f64, experts: tokens.iter().map(expert).collect() }
    }
}

/// The stages of `model` on `batch`: each returns the messages of its agents, agent after agent; the last one's loss is the target's.
#[derive(Debug)]
pub struct TeamStages<'a, B: ModelBackend> {
    /// The team without values for what it learns.
    pub model: &'a TeamModel<B>,
    /// The samples, with targets.
    pub batch: &'a TeamBatch,
    /// Positions of everything.
    pub plan: &'a TeamPlan,
    /// How terms of the loss are weighed.
    pub weights: &'a LossWeights,
    /// Agents that the gradient of what is read from them goes on through.
    pub through: &'a [bool],
}

impl<B: ModelBackend> TeamStages<'_, B> {
    /// The stages that have to be run again for a gradient: it goes through one of their agents, or one learns expert text.
    pub fn reached(&self) -> Vec<bool> {
        let reached = |j: &usize| self.through[*j] || self.batch.has_expert(*j);
        self.plan.stages.iter().map(|stage| stage.agents.iter().any(reached)).collect()
    }

    /// The tensors of a stage's message, by agent.
    pub fn split<T>(&self, stage: usize, tensors: Vec<T>) -> Vec<(usize, Vec<T>)> {
        let layers = self.model.backbone.layers.len();
        let mut tensors = tensors.into_iter();
        let agents = self.plan.stages[stage].agents.iter();
        agents
            .map(|&j| {
                let n = self.plan.agents[j].message.num_tensors(layers);
                (j, tensors.by_ref().take(n).collect())
            })
            .collect()
    }
}

impl<B: ModelBackend> StageGraph<B> for TeamStages<'_, B> {
    fn len(&self) -> usize {
        self.plan.stages.len()
    }

    fn reads(&self, stage: usize) -> &[usize] {
        &self.plan.stages[stage].reads
    }

    fn run(
        &self,
        stage: usize,
        parameters: &Parameters<B>,
        messages: Vec<Vec<Tensor<B, 4>>>,
    ) -> StageOutput<B> {
        let team = self.model.bind(parameters);
        let mut found: Vec<Option<Message<B>>> = vec![None; self.plan.agents.len()];
        for (&s, tensors) in self.plan.stages[stage].reads.iter().zip(messages) {
            for (j, tensors) in self.split(s, tensors) {
                found[j] = Some(Message::from_tensors(j, tensors, &self.plan.agents[j].message));
            }
        }
        let agents = &self.plan.stages[stage].agents;
        let traces: Vec<_> = agents.iter().map(|&j| team.find(j, &found, self.plan)).collect();
        let readings: Vec<_> = traces.iter().map(|trace| team.read(trace)).collect();
        if agents[..] == [self.plan.agents.len() - 1] {
            let target = self.batch.target.as_ref().expect("training samples have targets");
            let nll = team.target_nll(&self.batch.prompts[agents[0]], target, &readings[0]);
            let loss = Some(B::sum(nll).mul_scalar(self.weights.target));
            return StageOutput { message: Vec::new(), loss };
        }
        let thoughts = team.think(agents, self.batch, self.plan, &readings);
        let mut message = Vec::new();
        let mut loss: Option<Tensor<B, 1>> = None;
        for ((&j, thought), (trace, reading)) in agents.iter().zip(thoughts).zip(traces.iter().zip(&readings))
        {
            if let Some(expert) = self.batch.expert(j) {
                let nll = team.expert_nll(&thought, expert, reading, &self.plan.agents[j].end);
                let own = B::sum(nll).mul_scalar(self.weights.experts[j]);
                loss = Some(loss.map_or(own.clone(), |sum| sum + own));
            }
            let tensors = team.send(&thought, trace).into_tensors().into_iter();
            message.extend(tensors.map(|t| if self.through[j] { t } else { t.detach() }));
        }
        StageOutput { message, loss }
    }
}
