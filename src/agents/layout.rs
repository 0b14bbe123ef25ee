//! What a team is, apart from values: a description without tensors, the frozen part, and how what is learned joins them.

use std::sync::Arc;

use burn::prelude::*;
use diffmas_backends::{Autodiff, ModelBackend};

use super::adapters::prefix;
use super::feed::LEARNED;
use super::{AdapterSet, FeedKind, FeedModule, Team, TeamConfig};
use crate::backbone::{Adapter, Backbone, BackboneConfig, Parameters};
use crate::communication::{
    ChannelKind, ChannelPair, NoChannel, OverwriteChannel, TraceChannel, VectorsChannel,
};

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
    pub fn learns_feed(&self) -> bool {
        (0..self.config.upstream().len()).any(|j| self.config.feed(j) == FeedKind::Learned)
    }

    /// The factors that are active in the passes of agent `j`, where there are any.
    pub(super) fn adapter<B: Backend>(&self, j: usize, parameters: &Parameters<B>) -> Option<Adapter<B>> {
        let name = self.adapters.of(&self.config, j)?;
        Some(self.adapters.adapters[name].bind(&parameters.within(&prefix(name))))
    }
}

/// The frozen part of a team. Everything that it learns is in one [`Parameters`]; [`TeamModel::bind`] joins the two.
#[derive(Clone, Debug)]
pub struct TeamModel<B: ModelBackend> {
    /// Who takes part and how.
    pub layout: Arc<TeamLayout>,
    /// The frozen model that all roles share, without LoRA.
    pub backbone: Backbone<B>,
    /// From hidden state to next input.
    pub feed: FeedModule<B>,
    /// What agents pass to each other.
    pub channel: ChannelPair<B>,
}

impl<B: ModelBackend> TeamModel<B> {
    /// A team on `backbone` with the channel that its configuration names.
    ///
    /// # Panics
    /// If the configuration is not valid for the backbone.
    pub fn new(config: TeamConfig, adapters: AdapterSet, backbone: Backbone<B>) -> Self {
        let vectors = || config.vectors(backbone.layers.len()).expect("a channel with vectors has sizes");
        let channel = match config.channel {
            ChannelKind::Trace => ChannelPair::new(TraceChannel),
            ChannelKind::Text => ChannelPair::new(NoChannel),
            ChannelKind::Vectors => ChannelPair::new(VectorsChannel { config: vectors(), with_trace: false }),
            ChannelKind::Hybrid => ChannelPair::new(VectorsChannel { config: vectors(), with_trace: true }),
            ChannelKind::Overwrite => {
                ChannelPair::new(OverwriteChannel { config: vectors(), update: config.overwrite_update })
            }
        };
        Self::with_channel(config, adapters, backbone, channel)
    }

    /// A team whose agents talk over `channel`, whatever channel its configuration names.
    pub fn with_channel(
        config: TeamConfig,
        adapters: AdapterSet,
        backbone: Backbone<B>,
        channel: ChannelPair<B>,
    ) -> Self {
        let kinds: Vec<FeedKind> = (0..config.upstream().len()).map(|j| config.feed(j)).collect();
        let feed = FeedModule::new(&backbone, &kinds);
        let layout = TeamLayout { config, adapters, sizes: backbone.config.clone() };
        Self { layout: Arc::new(layout), backbone, feed, channel }
    }

    /// The same team with `adapters` in place of its own.
    pub fn with_adapters(self, adapters: AdapterSet) -> Self {
        let layout = TeamLayout { adapters, ..(*self.layout).clone() };
        Self { layout: Arc::new(layout), ..self }
    }

    /// The same team with nothing passing between agents.
    pub fn without_channel(&self) -> Self {
        Self { channel: ChannelPair::new(NoChannel), ..self.clone() }
    }

    /// The model for training, sharing storage.
    pub fn to_autodiff(&self) -> TeamModel<Autodiff<B>> {
        TeamModel {
            layout: self.layout.clone(),
            backbone: self.backbone.to_autodiff(),
            feed: self.feed.to_autodiff(),
            channel: self.channel.to_autodiff(),
        }
    }

    /// Fresh values of everything that the team learns, drawn from `seed`: the adapters' factors, the channel's weights and, where an agent
    /// uses it, the learned feed.
    pub fn init(&self, seed: u64) -> Parameters<B> {
        let TeamLayout { config, adapters, sizes } = &*self.layout;
        let mut all = adapters.init(config, sizes, seed, &self.backbone.device());
        all.extend(self.init_modules(seed));
        all
    }

    /// Fresh values of what the team learns beside its adapters.
    pub fn init_modules(&self, seed: u64) -> Parameters<B> {
        let mut all = self.channel.inner.parameters(&self.backbone, seed);
        if self.layout.learns_feed() {
            all.insert(LEARNED.into(), Tensor::eye(self.layout.sizes.hidden_size, &self.backbone.device()));
        }
        all
    }

    /// The team with the values of `parameters` for everything it learns.
    ///
    /// # Panics
    /// If a parameter is missing.
    pub fn bind(&self, parameters: &Parameters<B>) -> Team<B> {
        let roles = (0..self.layout.config.agents.len())
            .map(|j| match self.layout.adapter(j, parameters) {
                Some(adapter) => self.backbone.with_adapter(&adapter),
                None => self.backbone.clone(),
            })
            .collect();
        Team {
            layout: self.layout.clone(),
            roles,
            feed: self.feed.clone(),
            channel: self.channel.clone(),
            parameters: parameters.clone(),
        }
    }
}
