//! What is run twice so that it need not be kept.

use crate::agents::{StagePart, TeamPlan};

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
    /// The stages of `plan` as they are differentiated, and of each whether its graph is kept. `Auto` is what it has become by then; here it
    /// keeps nothing.
    pub fn divide(self, plan: TeamPlan) -> (TeamPlan, Vec<bool>) {
        let plan = if self == Self::Prompts { plan.with_prompts_apart() } else { plan };
        let keep = plan.stages.iter().map(|stage| match self {
            Self::Auto | Self::Always => false,
            Self::Prompts => stage.part == StagePart::Steps,
            Self::Never => true,
        });
        let keep = keep.collect();
        (plan, keep)
    }
}
