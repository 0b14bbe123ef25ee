//! The work of training: the gradient of an update of one micro-batch.

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::ModelBackend;

use super::clock::{Run, clocked};
use super::tokens::{SEED, sample};
use crate::agents::{AdapterScope, AdapterSet, TeamBatch, TeamConfig, TeamModel};
use crate::backbone::{Backbone, Parameters};
use crate::error::Result;
use crate::random::uniform;
use crate::training::{LoraConfig, Recompute, StepMetrics, TrainConfig, Trainer, UpdateGradient};

/// What stands before the names of an adapter that all roles share, among the parameters of a team.
const SHARED: &str = "adapter.default.";

/// Forward and backward of one micro-batch: four agents with prompts of 120 tokens and targets of 64, one LoRA of rank 8 on all projections.
pub struct TrainingStep<B: ModelBackend> {
    trainer: Trainer<B>,
    batch: [TeamBatch; 1],
}

impl<B: ModelBackend> TrainingStep<B> {
    /// A step of `team` on a micro-batch of `rows`. The factors have numbers that their names stand for, none of them 0.
    ///
    /// # Errors
    /// If there is nothing to train.
    ///
    /// # Panics
    /// If the team is not valid for the backbone, or has not four agents.
    pub fn new(backbone: Backbone<B>, team: TeamConfig, rows: usize) -> Result<Self> {
        let samples: Vec<_> = (0..rows).map(|row| sample(row, backbone.config.vocab_size)).collect();
        let lora = LoraConfig::default().adapter(String::new());
        let adapters = AdapterSet::new(AdapterScope::Shared, &lora, &team, &backbone.config)?;
        let model = TeamModel::new(team, adapters, backbone);
        let mut parameters = model.init(SEED);
        parameters.extend(filled(&parameters));
        let trainer = Trainer::new(TrainConfig::default(), model, parameters)?;
        Ok(Self { trainer, batch: [TeamBatch::new(&samples.iter().collect::<Vec<_>>())] })
    }

    /// The same step in which `recompute` says which passes are run again for their gradient, and whether layer by layer.
    pub fn with_recompute(self, recompute: Recompute, activation_checkpointing: bool) -> Self {
        Self { trainer: self.trainer.with_recompute(recompute, activation_checkpointing), ..self }
    }

    /// The run that it is a step of.
    pub fn trainer(&self) -> &Trainer<B> {
        &self.trainer
    }

    /// The micro-batch.
    pub fn batch(&self) -> &TeamBatch {
        &self.batch[0]
    }

    /// One gradient.
    ///
    /// # Panics
    /// If the device has failed.
    pub fn run(&self) -> (Run, UpdateGradient<B>) {
        let device = self.trainer.model().backbone.device();
        let (gradient, seconds) = clocked::<B, _>(&device, || self.trainer.gradients(&self.batch));
        (Run { seconds, count: 1 }, gradient)
    }

    /// A whole update: the gradient, clipped, and AdamW.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn update(&mut self) -> Result<StepMetrics> {
        self.trainer.update(&self.batch, TrainConfig::default().learning_rate)
    }
}

/// The factors of the shared adapter, filled with numbers that another program can make, too.
fn filled<B: ModelBackend>(parameters: &Parameters<B>) -> Parameters<B> {
    let fill = |(name, value): (&String, &Tensor<B, 2>)| {
        let shape = value.dims();
        let bound = if name.ends_with("lora_A") { (1.0 / shape[1] as f64).sqrt() } else { 0.02 };
        let drawn = uniform(&format!("{SEED}/base_model.model.{name}.weight"), 0);
        let data: Vec<f32> =
            drawn.take(shape[0] * shape[1]).map(|u| (bound * (2.0 * u - 1.0)) as f32).collect();
        (format!("{SHARED}{name}"), Tensor::from_data(TensorData::new(data, shape), &value.device()))
    };
    parameters.within(SHARED).iter().map(fill).collect()
}
