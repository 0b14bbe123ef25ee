//! `hybrid`: trace and vectors.

use diffmas_backends::ModelBackend;
use serde_json::{Map, Value};

use super::VectorsChannel;
use crate::backbone::{ParameterGroup, ParameterSpec, Parameters};
use crate::communication::{
    Channel, ChannelPair, ChannelType, Context, Initializer, Message, MessageLayout, ReceivedMessages,
    Rollout, RolloutLayout, TeamSizes, VectorsSettings,
};
use crate::error::Result;

/// The keys and values of `received` beside the learned vectors of `vectors`.
#[derive(Clone, Debug)]
pub struct HybridChannel(pub VectorsChannel);

impl<B: ModelBackend> Channel<B> for HybridChannel {
    fn parameters(&self, sizes: &TeamSizes) -> Vec<(ParameterSpec, Initializer)> {
        Channel::<B>::parameters(&self.0, sizes)
    }

    fn config(&self) -> Map<String, Value> {
        Channel::<B>::config(&self.0)
    }

    fn layout(&self, rollout: &RolloutLayout) -> MessageLayout {
        MessageLayout { segment: Some(rollout.segment()), ..Channel::<B>::layout(&self.0, rollout) }
    }

    fn send(
        &self,
        parameters: &Parameters<B>,
        rollout: &Rollout<B>,
        received: &ReceivedMessages<B>,
    ) -> Message<B> {
        let segment = Some(rollout.segment());
        Message { segment, ..self.0.send(parameters, rollout, received) }
    }

    fn read(&self, parameters: &Parameters<B>, received: &ReceivedMessages<B>) -> Context<B> {
        self.0.read(parameters, received)
    }
}

impl ChannelType for HybridChannel {
    const NAME: &'static str = "hybrid";
    const ABOUT: &'static str = "Trace and vectors.";
    const SEGMENTS: bool = true;
    const GROUPS: &'static [ParameterGroup] = VectorsChannel::GROUPS;
    const KEYS: Option<&'static [&'static str]> = Some(VectorsChannel::KEYS);
    type Settings = VectorsSettings;

    fn vectors(settings: &VectorsSettings) -> Option<[usize; 2]> {
        VectorsChannel::vectors(settings)
    }

    fn check(settings: &VectorsSettings, sizes: Option<&TeamSizes>) -> Result<()> {
        settings.check(sizes)
    }

    fn build<B: ModelBackend>(settings: VectorsSettings, sizes: &TeamSizes) -> ChannelPair<B> {
        ChannelPair::new(Self(VectorsChannel { config: settings.of(sizes) }))
    }
}
