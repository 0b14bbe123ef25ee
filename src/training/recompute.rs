//! What is run twice so that it need not be kept.

use crate::agents::{Layers, StagePart, TeamPlan};

named_enum! {
    /// Which forward passes are run again for their gradient, so that what they computed need not be kept until then.
    Recompute, "recompute" {
        /// What the memory limit asks for: none, prompts or all.
        #[default]
        Auto = "auto",
        /// All of upstream agents: the memory of one stage.
        Always = "always",
        /// Prompts; latent steps, which are short and many, are kept.
        Prompts = "prompts",
        /// None: the memory of all stages, and no pass is run twice.
        Never = "never",
    }
}

impl Recompute {
    /// The stages of `plan` as they are differentiated in a model of `layers` layers, and of each whether its graph is kept. With
    /// `checkpointing`, prompts are read layer by layer, and only what stands between two layers is kept. `Auto` is what it has become by then;
    /// here it keeps nothing.
    pub fn divide(self, plan: TeamPlan, layers: usize, checkpointing: bool) -> (TeamPlan, Vec<bool>) {
        let plan = match (checkpointing, self) {
            (true, _) => {
                let pieces: Vec<_> = (0..layers).map(|l| Layers { from: l, to: l + 1 }).collect();
                plan.with_prompts_apart(&pieces)
            }
            (false, Self::Prompts) => plan.with_prompts_apart(&[Layers { from: 0, to: layers }]),
            (false, _) => plan,
        };
        let keep = plan.stages.iter().map(|stage| match self {
            Self::Auto | Self::Always => false,
            Self::Prompts => stage.part == StagePart::Rest,
            Self::Never => true,
        });
        let keep = keep.collect();
        (plan, keep)
    }
}
