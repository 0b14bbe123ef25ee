//! The frozen part of a team, and how what is learned joins it.

use std::collections::BTreeMap;
use std::sync::Arc;

use diffmas_backends::{Autodiff, ModelBackend};

use super::feed::{LEARNED, projector_of, slots_of};
use super::{AdapterSet, FeedKind, FeedModule, SlotPlacement, Team, TeamConfig, TeamLayout};
use crate::backbone::{Backbone, ParameterGroup, ParameterSpec, ParameterSpecs, Parameters, Pull};
use crate::communication::{ChannelPair, Initializer, NoChannel, initialize};
use crate::images::Encoders;

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
    /// What makes features of the images that agents see.
    pub encoders: Encoders,
}

impl<B: ModelBackend> TeamModel<B> {
    /// A team on `backbone` with the channel that its configuration names.
    ///
    /// # Panics
    /// If the configuration is not valid for the backbone, or names a channel that was registered for other backends.
    pub fn new(config: TeamConfig, adapters: AdapterSet, backbone: Backbone<B>) -> Self {
        let sizes = config.sizes(&backbone.config);
        let channel = config.channel.kind.build(&config.channel_settings(), &sizes);
        let channel = channel.expect("a valid configuration");
        Self::with_channel(config, adapters, backbone, channel)
    }

    /// A team with `channel` in place of the channel that its configuration names.
    pub fn with_channel(
        config: TeamConfig,
        adapters: AdapterSet,
        backbone: Backbone<B>,
        channel: ChannelPair<B>,
    ) -> Self {
        let kinds: Vec<FeedKind> = (0..config.upstream().len()).map(|j| config.feed(j)).collect();
        let feed = FeedModule::new(&backbone, &kinds);
        let layout = TeamLayout { config, adapters, sizes: backbone.config.clone() };
        Self { layout: Arc::new(layout), backbone, feed, channel, encoders: Encoders::default() }
    }

    /// The same team with `adapters` in place of its own.
    pub fn with_adapters(self, adapters: AdapterSet) -> Self {
        let layout = TeamLayout { adapters, ..(*self.layout).clone() };
        Self { layout: Arc::new(layout), ..self }
    }

    /// The same team with encoders for the images that its agents see.
    pub fn with_encoders(self, encoders: Encoders) -> Self {
        Self { encoders, ..self }
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
            encoders: self.encoders.clone(),
        }
    }

    /// What everything that the team learns is.
    pub fn parameter_specs(&self) -> ParameterSpecs {
        self.layout.adapters.specs().into_iter().chain(self.module_specs()).collect()
    }

    /// What the team learns beside its adapters.
    pub(super) fn module_specs(&self) -> Vec<ParameterSpec> {
        self.modules().into_iter().map(|(spec, _)| spec).collect()
    }

    /// What the team learns beside its adapters, and how it begins.
    fn modules(&self) -> Vec<(ParameterSpec, Initializer)> {
        let TeamLayout { config, sizes, .. } = &*self.layout;
        let of_channel = self.channel.inner.parameters(&config.sizes(sizes)).into_iter();
        let of_channel =
            of_channel.map(|(spec, initial)| (ParameterSpec { needs_channel: true, ..spec }, initial));
        let feed = self.layout.learns_feed().then(|| {
            let spec = ParameterSpec::new(LEARNED, [sizes.hidden_size; 2], ParameterGroup::FEED);
            (spec.pulled(Pull::Identity), Initializer::Identity)
        });
        let slots = self.layout.slots().map(|(name, count)| {
            let spec = ParameterSpec::new(slots_of(name), [count, sizes.hidden_size], ParameterGroup::SLOTS);
            // Behind the prompt only messages hold them; spread in it, the agent's own text, too.
            let needs_channel = config.slot_placement == SlotPlacement::End;
            // Roles that have as many begin with the same: what one of them learns to say, a reader can read of all.
            let deviation = self.feed.rho / (sizes.hidden_size as f64).sqrt();
            (ParameterSpec { needs_channel, ..spec.spared() }, Initializer::Alike(deviation))
        });
        let projectors = config.encoders().into_values().flat_map(|kind| {
            let hidden = 2 * sizes.hidden_size;
            [(1, kind.inputs(), hidden), (2, hidden, sizes.hidden_size)].into_iter().flat_map(
                |(layer, from, to)| {
                    let [weight, bias] = projector_of(kind, layer);
                    let spec = |name, rows| ParameterSpec::new(name, [rows, to], ParameterGroup::PROJECTOR);
                    [
                        (spec(weight, from), Initializer::Linear),
                        (spec(bias, 1).spared(), Initializer::Full(0.0)),
                    ]
                },
            )
        });
        of_channel.chain(feed).chain(slots).chain(projectors).collect()
    }

    /// Fresh values of everything that the team learns, drawn from `seed`: the adapters' factors, the channel's weights and, where an agent
    /// uses them, the learned feed and slots.
    pub fn init(&self, seed: u64) -> Parameters<B> {
        let TeamLayout { config, adapters, sizes } = &*self.layout;
        let mut all = adapters.init(config, sizes, seed, &self.backbone.device());
        all.extend(self.init_modules(seed));
        all
    }

    /// Fresh values of what the team learns beside its adapters.
    pub fn init_modules(&self, seed: u64) -> Parameters<B> {
        initialize(&self.modules(), seed, &self.backbone.device())
    }

    /// The team with the values of `parameters` for everything it learns.
    ///
    /// # Panics
    /// If a parameter is missing.
    pub fn bind(&self, parameters: &Parameters<B>) -> Team<B> {
        let TeamLayout { config, adapters, .. } = &*self.layout;
        // Roles that share an adapter share what it converts.
        let converted: BTreeMap<&str, Backbone<B>> = adapters
            .adapters
            .keys()
            .map(|name| (name.as_str(), self.backbone.with_adapter(&adapters.bind(name, parameters))))
            .collect();
        let role = |j| adapters.of(config, j).map_or(&self.backbone, |name| &converted[name]).clone();
        let roles = (0..config.agents.len()).map(role).collect();
        Team {
            layout: self.layout.clone(),
            roles,
            feed: self.feed.clone(),
            channel: self.channel.clone(),
            encoders: self.encoders.clone(),
            parameters: parameters.clone(),
        }
    }
}
