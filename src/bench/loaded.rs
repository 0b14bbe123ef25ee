//! A model on a device, and what the runs of a work have in common there.

use diffmas_backends::ModelBackend;

use super::clock::{Run, clocked};
use super::generation::{decoding, latent_steps, prefill, written};
use super::tokens::{PROMPT, TARGET, team};
use super::training::TrainingStep;
use super::work::Work;
use crate::agents::{AdapterSet, Team, TeamModel};
use crate::backbone::{Backbone, ModelFiles, Precision};
use crate::communication::Context;
use crate::error::Result;
use crate::training::{MemorySize, Recompute};

/// Tokens of the long prompt.
const LONG: usize = 512;
/// Positions before those of latent steps and answers.
const PAST: usize = 499;
/// Latent steps, and tokens of a row, that are timed.
const STEPS: usize = 32;

/// Positions that a work goes up to.
pub(super) fn positions(work: Work) -> usize {
    match work {
        Work::Load | Work::LoadRandom => 0,
        Work::FirstTokenCold | Work::FirstToken => PROMPT + 1,
        Work::Prefill => LONG + 1,
        Work::LatentStep => PAST + 1 + STEPS,
        Work::Decode { .. } => PAST + 2 + STEPS,
        Work::Train { latent_steps, .. } => 4 * PROMPT + 3 * latent_steps + TARGET,
    }
}

/// What runs of a work have in common, which is not timed.
enum Prepared<B: ModelBackend> {
    Nothing,
    Latent(Box<Team<B>>, Context<B>),
    Decoding(Context<B>, usize),
    Training(Box<TrainingStep<B>>),
}

/// The model on the device, once it is there.
pub(super) struct Loaded<B: ModelBackend> {
    backbone: Option<Backbone<B>>,
    prepared: Prepared<B>,
}

impl<B: ModelBackend> Default for Loaded<B> {
    fn default() -> Self {
        Self { backbone: None, prepared: Prepared::Nothing }
    }
}

impl<B: ModelBackend> Loaded<B> {
    fn backbone(&self) -> &Backbone<B> {
        self.backbone.as_ref().expect("loading is the first work")
    }

    /// Makes what the runs of `work` have in common; training keeps what fits into a half of what is `free`, in bytes.
    ///
    /// # Errors
    /// If there is nothing to train.
    pub fn prepare(&mut self, work: Work, free: Option<u64>) -> Result<()> {
        self.prepared = match work {
            Work::LatentStep => {
                let model = TeamModel::new(team(STEPS), AdapterSet::none(), self.backbone().clone());
                let team = model.bind(&model.init(0));
                Prepared::Latent(Box::new(team), written(self.backbone(), PAST, 1))
            }
            Work::Decode { batch } => Prepared::Decoding(written(self.backbone(), PAST, batch), batch),
            Work::Train { latent_steps, batch } => {
                let step = TrainingStep::new(self.backbone().clone(), team(latent_steps), batch)?;
                let memory = step.trainer().graph_memory(step.batch());
                let fits = |free| memory.mode(MemorySize::half_of(free).0, false);
                let recompute = free.map_or(Recompute::Always, fits);
                Prepared::Training(Box::new(step.with_recompute(recompute, false)))
            }
            _ => Prepared::Nothing,
        };
        Ok(())
    }

    /// Lets go of what the runs of a work had in common.
    pub fn finish(&mut self) {
        self.prepared = Prepared::Nothing;
    }

    /// One run of `work`, which is prepared.
    ///
    /// # Errors
    /// If the weights cannot be read, or a score is not finite.
    pub fn run(
        &mut self,
        work: Work,
        files: &ModelFiles,
        precision: Precision,
        device: &B::Device,
    ) -> Result<Run> {
        match (work, &self.prepared) {
            (_, Prepared::Latent(team, past)) => Ok(latent_steps(team, past).0),
            (_, Prepared::Decoding(past, batch)) => Ok(decoding(self.backbone(), past, STEPS, *batch)?.0),
            (_, Prepared::Training(step)) => Ok(step.run().0),
            (Work::Load | Work::LoadRandom, _) => {
                // There may be no room for the weights twice.
                self.backbone = None;
                let (backbone, seconds) = clocked::<B, _>(device, || files.load::<B>(device, precision));
                self.backbone = Some(backbone?);
                Ok(Run { seconds, count: 1 })
            }
            (Work::Prefill, _) => Ok(prefill(self.backbone(), LONG)?.0),
            _ => {
                let run = prefill(self.backbone(), PROMPT)?.0;
                Ok(Run { count: 1, ..run })
            }
        }
    }
}
