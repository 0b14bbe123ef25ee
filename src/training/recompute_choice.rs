//! How a run chooses what it recomputes.

use std::fmt;

use diffmas_backends::{ModelBackend, human_bytes};

use super::{GraphMemory, MemorySize, Recompute, TrainConfig, Trainer};
use crate::agents::{TeamBatch, TeamModel, TeamPlan};
use crate::text::{TokenizedSample, lines};

/// What `recompute = "auto"` has become, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecomputeChoice {
    /// It.
    pub mode: Recompute,
    /// What the largest micro-batch takes in each mode.
    pub memory: GraphMemory,
    /// What it may take; nothing where nothing is known of the device's memory.
    pub limit: Option<MemorySize>,
}

impl fmt::Display for RecomputeChoice {
    /// In a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, memory, limit } = self;
        let size = human_bytes;
        let Some(limit) = limit else {
            return write!(
                f,
                "recompute = {mode}, since the device does not tell its memory; --memory-limit lets more be kept"
            );
        };
        write!(f, "recompute = {mode}: ")?;
        match mode {
            Recompute::Never => {
                write!(f, "no pass runs twice, for which about {} are kept", size(memory.never))?
            }
            Recompute::Prompts => {
                write!(f, "prompts run twice, latent steps are kept in about {}", size(memory.prompts))?;
                if memory.never > memory.prompts {
                    write!(f, "; all would take {}", size(memory.never))?;
                }
            }
            Recompute::Auto | Recompute::Always => write!(
                f,
                "every pass of upstream agents runs twice, in about {}; to keep latent steps would take {}",
                size(memory.always),
                size(memory.prompts)
            )?,
        }
        write!(f, " (--memory-limit is {})", size(limit.0))
    }
}

impl<B: ModelBackend> Trainer<B> {
    /// What the gradient of a micro-batch takes, by arithmetic.
    pub fn graph_memory(&self, batch: &TeamBatch) -> GraphMemory {
        let TeamModel { layout, channel, .. } = &self.model;
        let plan = TeamPlan::new(&layout.config, batch, |rollout| channel.inner.layout(rollout));
        GraphMemory::new(
            layout,
            &plan,
            batch,
            size_of::<B::FloatElem>(),
            B::GROWS_IN_PLACE,
            self.config.activation_checkpointing,
        )
    }

    /// Decides what is recomputed, where that is left to the memory limit, by the largest micro-batch that `samples` could make up; the limit
    /// is a half of what is `free`, in bytes, where none is set. From then on the run's settings say both.
    pub fn choose_recompute(
        &mut self,
        samples: &[TokenizedSample],
        free: impl FnOnce() -> Option<u64>,
    ) -> Option<RecomputeChoice> {
        if self.config.recompute != Recompute::Auto || samples.is_empty() {
            return None;
        }
        let limit = self.config.memory_limit.or_else(|| free().map(MemorySize::half_of));
        let memory = self.graph_memory(&largest_batch(samples, &self.config));
        let mode = limit
            .map_or(Recompute::Always, |limit| memory.mode(limit.0, self.config.activation_checkpointing));
        (self.config.recompute, self.config.memory_limit) = (mode, limit);
        Some(RecomputeChoice { mode, memory, limit })
    }
}

/// A micro-batch that no other is larger than: in each row, the longest of all prompts and texts, and as many questions a line as any has.
fn largest_batch(samples: &[TokenizedSample], config: &TrainConfig) -> TeamBatch {
    let longest = |ids: &dyn Fn(&TokenizedSample) -> Option<usize>| samples.iter().filter_map(ids).max();
    let zeros = |n: usize| vec![0; n];
    let agents = samples[0].prompts.len();
    let all = lines(samples);
    let questions = all.iter().map(ExactSizeIterator::len).max().unwrap_or(1);
    let unanswered = samples.iter().any(|s| s.target.is_none()).then_some(config.teacher_tokens);
    let trajectory = |j: usize| longest(&|s| Some(s.trajectories.get(j)?.as_ref()?.len()));
    let mut sample = TokenizedSample {
        prompts: (0..agents).map(|j| zeros(longest(&|s| Some(s.prompts[j].len())).unwrap_or(0))).collect(),
        // An encoder makes as many positions of each.
        images: samples[0].images.clone(),
        target: longest(&|s| s.target.as_ref().map(Vec::len)).max(unanswered).map(zeros),
        teacher: longest(&|s| s.teacher.as_ref().map(Vec::len)).map(zeros),
        ..TokenizedSample::default()
    };
    if config.phases(1).iter().any(|phase| phase.trajectory_weight > 0.0) {
        sample.trajectories = (0..agents).map(|j| trajectory(j).map(zeros)).collect();
    }
    let rows =
        (1..=config.batch_size.min(all.len())).flat_map(|line| (1..=questions).map(move |q| (line, q)));
    let rows: Vec<_> =
        rows.map(|(line, question)| TokenizedSample { line, question, ..sample.clone() }).collect();
    TeamBatch::new(&rows.iter().collect::<Vec<_>>())
}
