//! A team on one batch as a DAG of stages, the form that training differentiates.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::{
    LossTerm, LossWeights, Objective, Predictions, StagePart, StagePlan, TeamBatch, TeamModel, TeamPlan, Text,
};
use crate::backbone::Parameters;
use crate::communication::Message;

/// What a stage returns.
#[derive(Debug)]
pub struct StageOutput<B: Backend> {
    /// What later stages read; empty for a stage without a reader.
    pub message: Vec<Tensor<B, 4>>,
    /// Its term of the loss, `[1]`.
    pub loss: Option<Tensor<B, 1>>,
    /// Its term of the mean divergence from a teacher, `[1]`.
    pub distillation: Option<Tensor<B, 1>>,
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

    /// Whether `stage` goes on where the one before it ended. What both add to gradients is summed before it joins that of others, as if they
    /// were one.
    fn goes_on(&self, _stage: usize) -> bool {
        false
    }

    /// Whether the gradient of what `stage` passes on is asked for; else it is let go of as soon as it has been used.
    fn is_told(&self, _stage: usize) -> bool {
        true
    }

    /// Computes a stage: the same numbers for the same arguments, every time.
    fn run(
        &self,
        stage: usize,
        parameters: &Parameters<B>,
        messages: Vec<Vec<Tensor<B, 4>>>,
    ) -> StageOutput<B>;
}

/// The stages of `model` on `batch`: each returns the messages of its agents, agent after agent, and what `objective` makes of the texts
/// that they learn; the last one's is the target.
#[derive(Debug)]
pub struct TeamStages<'a, B: ModelBackend> {
    /// The team without values for what it learns.
    pub model: &'a TeamModel<B>,
    /// The samples, with targets.
    pub batch: &'a TeamBatch,
    /// Positions of everything.
    pub plan: &'a TeamPlan,
    /// What makes a loss of what is predicted; without it, stages return their messages alone.
    pub objective: Option<&'a dyn Objective<B>>,
    /// How terms of the loss are weighed.
    pub weights: &'a LossWeights,
    /// Agents that the gradient of what is read from them goes on through.
    pub through: &'a [bool],
}

impl<B: ModelBackend> TeamStages<'_, B> {
    /// The stages that have to be run again for a gradient: it goes through one of their agents, or one learns trajectory.
    pub fn reached(&self) -> Vec<bool> {
        let reached = |j: &usize| self.through[*j] || self.batch.has_trajectory(*j);
        self.plan.stages.iter().map(|stage| stage.agents.iter().any(reached)).collect()
    }

    fn term(&self, text: Text, predictions: Predictions<B>, weight: f64) -> LossTerm<'_, B> {
        LossTerm { text, predictions, batch: self.batch, weight }
    }

    /// The tensors of a stage's message, by agent; prompts that stand apart are no message.
    pub fn split<T>(&self, stage: usize, tensors: Vec<T>) -> Vec<(usize, Vec<T>)> {
        let layers = self.model.backbone.layers.len();
        let mut tensors = tensors.into_iter();
        let StagePlan { agents, part, .. } = &self.plan.stages[stage];
        let senders = agents.iter().filter(|_| !matches!(part, StagePart::Prompts(_)));
        senders
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

    fn goes_on(&self, stage: usize) -> bool {
        match self.plan.stages[stage].part {
            StagePart::Whole => false,
            StagePart::Prompts(layers) => layers.from > 0,
            StagePart::Rest => true,
        }
    }

    fn is_told(&self, stage: usize) -> bool {
        !matches!(self.plan.stages[stage].part, StagePart::Prompts(_))
    }

    fn run(
        &self,
        stage: usize,
        parameters: &Parameters<B>,
        messages: Vec<Vec<Tensor<B, 4>>>,
    ) -> StageOutput<B> {
        let team = self.model.bind(parameters);
        let team = match &self.plan.factor_draws {
            Some(draws) => team.with_factor_draws(draws),
            None => team,
        };
        let StagePlan { agents, reads, part } = &self.plan.stages[stage];
        let mut pieces = Vec::new();
        let mut found: Vec<Option<Message<B>>> = vec![None; self.plan.agents.len()];
        for (&s, tensors) in reads.iter().zip(messages) {
            if let StagePart::Prompts(_) = self.plan.stages[s].part {
                pieces.push(tensors);
                continue;
            }
            for (j, tensors) in self.split(s, tensors) {
                found[j] = Some(Message::from_tensors(j, tensors, &self.plan.agents[j].message));
            }
        }
        let received: Vec<_> = agents.iter().map(|&j| team.find(j, &found, self.plan)).collect();
        let contexts: Vec<_> = received.iter().map(|received| team.read(received)).collect();
        if let StagePart::Prompts(layers) = *part {
            let before = pieces.pop().and_then(|mut piece| piece.pop());
            let message = team.read_layers(layers, before, agents, self.batch, self.plan, &contexts);
            return StageOutput { message, loss: None, distillation: None };
        }
        if agents[..] == [self.plan.agents.len() - 1] {
            let loss = self.objective.map(|objective| {
                let target = self.batch.target.as_ref().expect("training samples have targets");
                let predictions = match pieces.pop().and_then(|mut piece| piece.pop()) {
                    Some(hidden) => team.predict_from(hidden, self.batch),
                    None => {
                        let context = contexts[0].select(&self.batch.messages);
                        team.predict_target(&self.batch.prompts[agents[0]], target, &context)
                    }
                };
                objective.loss(self.term(Text::Target, predictions, self.weights.target))
            });
            let (loss, distillation) =
                loss.map_or((None, None), |loss| (Some(loss.value), loss.distillation));
            return StageOutput { message: Vec::new(), loss, distillation };
        }
        let rollouts = match part {
            StagePart::Rest => {
                let prefilled = team.prefilled(pieces, agents, self.batch, self.plan, &contexts);
                team.roll_out_from(prefilled, agents, self.batch, self.plan, &contexts)
            }
            _ => team.roll_out(agents, self.batch, self.plan, &contexts),
        };
        let mut message = Vec::new();
        let mut loss: Option<Tensor<B, 1>> = None;
        for ((&j, rollout), (received, context)) in
            agents.iter().zip(rollouts).zip(received.iter().zip(&contexts))
        {
            if let (Some(objective), Some(trajectory)) = (self.objective, self.batch.trajectory(j)) {
                let predictions =
                    team.predict_trajectory(&rollout, trajectory, context, &self.plan.agents[j].branch);
                let own = objective
                    .loss(self.term(Text::Trajectory(j), predictions, self.weights.trajectories[j]))
                    .value;
                loss = Some(loss.map_or(own.clone(), |sum| sum + own));
            }
            let tensors = team.send(&rollout, received).into_tensors().into_iter();
            message.extend(tensors.map(|t| if self.through[j] { t } else { t.detach() }));
        }
        StageOutput { message, loss, distillation: None }
    }
}
