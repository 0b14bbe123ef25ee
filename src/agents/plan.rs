//! Who reads whom, and at which positions everything will stand: decided on the host, before any tensor.

use super::{TeamBatch, TeamConfig, Transmit};
use crate::backbone::Positions;
use crate::communication::SegmentLayout;

/// What one stage reads and where it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagePlan {
    /// Stages whose segments it reads, in reading order.
    pub reads: Vec<usize>,
    /// Per row, the id of its first position: the largest id ever issued in what it reads, plus one.
    pub start: Vec<u32>,
    /// The segment it leaves; none for the final agent.
    pub segment: Option<SegmentLayout>,
}

/// The stages of a team for one batch, in an order in which each reads only earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamPlan {
    /// One plan an agent.
    pub stages: Vec<StagePlan>,
}

impl TeamPlan {
    /// The plan of a sequential team: every agent reads all earlier ones.
    pub fn new(config: &TeamConfig, batch: &TeamBatch) -> Self {
        let last = config.agents.len() - 1;
        let mut next = vec![0u32; batch.rows()];
        let stages = (0..=last)
            .map(|j| {
                let start = next.clone();
                let segment = (j < last).then(|| {
                    let prompt = Positions::issue(&batch.prompts[j].valid, &mut next);
                    let (steps, transmit) = (config.steps(j), config.transmit(j));
                    let latent = Positions::issue(&vec![true; batch.rows() * steps], &mut next);
                    let prompt_len = if transmit == Transmit::Latent { 0 } else { prompt.len };
                    let positions = match transmit {
                        Transmit::All => Positions::cat(&[&prompt, &latent], batch.rows()),
                        Transmit::Latent => latent,
                        Transmit::Prompt => prompt,
                    };
                    SegmentLayout { sender: j, positions, prompt_len }
                });
                StagePlan { reads: (0..j).collect(), start, segment }
            })
            .collect();
        Self { stages }
    }
}
