//! A team on one batch as a DAG of stages, the form that training differentiates.

use burn::prelude::*;
use diffmas_backends::ModelBackend;

use super::{AdapterSet, TeamBatch, TeamModel, TeamPlan};
use crate::communication::{Segment, Trace};
use crate::training::{Parameters, StageGraph, StageOutput};

/// The stages of `model` on `batch`: messages are segments, the last stage's output is the loss.
#[derive(Debug)]
pub struct TeamStages<'a, B: Backend, C: Backend> {
    /// The team without values for what it learns.
    pub model: &'a TeamModel<B>,
    /// Which factors belong to which role.
    pub adapters: &'a AdapterSet<C>,
    /// The samples, with targets.
    pub batch: &'a TeamBatch,
    /// Positions of everything.
    pub plan: &'a TeamPlan,
    /// What the summed NLL is divided by: the target tokens of the whole update.
    pub target_tokens: usize,
}

impl<B: ModelBackend, C: Backend> StageGraph<B> for TeamStages<'_, B, C> {
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
        let team = self.model.bind(self.adapters, parameters);
        let plan = &self.plan.stages[stage];
        let trace = Trace {
            segments: plan
                .reads
                .iter()
                .zip(messages)
                .map(|(&s, m)| {
                    let layout = self.plan.stages[s].segment.as_ref().expect("only upstream stages are read");
                    Segment::from_tensors(m, layout)
                })
                .collect(),
        };
        let prompt = &self.batch.prompts[stage];
        match &plan.segment {
            Some(_) => {
                let thought = team.think(stage, prompt, &trace, &plan.start);
                StageOutput { message: thought.segment.into_tensors(), loss: None }
            }
            None => {
                let target = self.batch.target.as_ref().expect("training samples have targets");
                let nll = team.target_nll(prompt, target, &trace, &plan.start);
                StageOutput {
                    message: Vec::new(),
                    loss: Some(nll.sum().div_scalar(self.target_tokens as f64)),
                }
            }
        }
    }
}
