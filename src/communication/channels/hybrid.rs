//! `hybrid`: trace and vectors.

use diffmas_backends::ModelBackend;
use serde_json::{Map, Value};

use super::VectorsChannel;
use crate::backbone::{ParameterGroup, ParameterSpec, Parameters};
use crate::communication::{
    Channel, ChannelPair, ChannelType, Initial, Message, MessageLayout, Reading, TeamSizes, Thought,
    ThoughtLayout, Trace, VectorsSettings,
};
use crate::error::Result;

/// The keys and values of `trace` beside the learned vectors of `vectors`.
#[derive(Clone, Debug)]
pub struct HybridChannel(pub VectorsChannel);

impl<B: ModelBackend> Channel<B> for HybridChannel {
    fn parameters(&self, sizes: &TeamSizes) -> Vec<(ParameterSpec, Initial)> {
        Channel::<B>::parameters(&self.0, sizes)
    }

    fn config(&self) -> Map<String, Value> {
        Channel::<B>::config(&self.0)
    }

    fn layout(&self, thought: &ThoughtLayout) -> MessageLayout {
        MessageLayout { segment: Some(thought.segment()), ..Channel::<B>::layout(&self.0, thought) }
    }

    fn send(&self, parameters: &Parameters<B>, thought: &Thought<B>, trace: &Trace<B>) -> Message<B> {
        let segment = Some(thought.segment());
        Message { segment, ..self.0.send(parameters, thought, trace) }
    }

    fn read(&self, parameters: &Parameters<B>, trace: &Trace<B>) -> Reading<B> {
        self.0.read(parameters, trace)
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
