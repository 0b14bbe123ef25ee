//! A team without any tensor: a description of what takes part and how large it is.

use std::sync::Arc;

use super::{AdapterSet, FeedKind, TeamConfig};
use crate::backbone::BackboneConfig;

/// A team without any tensor: who takes part, which adapters they have, and how large everything is.
#[derive(Clone, Debug)]
pub struct TeamLayout {
    /// Roles, latent steps, what is transmitted and over which channel.
    pub config: TeamConfig,
    /// Which adapter is active in whose passes, and which layers it converts.
    pub adapters: AdapterSet,
    /// Sizes of the shared model.
    pub sizes: Arc<BackboneConfig>,
}

impl TeamLayout {
    /// Whether an agent's feed is trainable.
    pub(crate) fn learns_feed(&self) -> bool {
        (0..self.config.upstream().len()).any(|j| self.config.feed(j) == FeedKind::Learned)
    }

    /// The agents that have slots, and how many.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&str, usize)> {
        let all = self.config.upstream().iter().enumerate();
        all.map(|(j, agent)| (agent.name.as_str(), self.config.slots(j))).filter(|(_, count)| *count > 0)
    }
}
