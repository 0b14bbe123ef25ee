//! `vectors`: a fixed number of learned vectors per agent.

use diffmas_backends::ModelBackend;
use serde_json::{Map, Value};

use crate::backbone::{ParameterGroup, ParameterSpec, Parameters};
use crate::communication::cross_attention::CrossAttention;
use crate::communication::encoder::Encoder;
use crate::communication::{
    Channel, ChannelPair, ChannelType, Context, Initializer, Message, MessageLayout, ReceivedMessages,
    Rollout, RolloutLayout, TeamSizes, VectorsConfig, VectorsSettings,
};
use crate::error::Result;

/// Learned vectors, read by gated cross-agent attention.
#[derive(Clone, Debug)]
pub struct VectorsChannel {
    /// Sizes and names.
    pub config: VectorsConfig,
}

impl VectorsChannel {
    /// The keys of the team file that are settings of vectors.
    pub(super) const KEYS: &'static [&'static str] =
        &["num_vectors", "vector_dim", "vector_heads", "cross_attention_layers", "encoder_position_prior"];
    /// The groups in which vectors learn.
    pub(super) const GROUPS: &'static [ParameterGroup] =
        &[ParameterGroup::ENCODER, ParameterGroup::CROSS_ATTENTION];
}

impl<B: ModelBackend> Channel<B> for VectorsChannel {
    fn parameters(&self, sizes: &TeamSizes) -> Vec<(ParameterSpec, Initializer)> {
        let encoder = Encoder::<B>::parameters(&self.config, sizes.hidden_size);
        let readers = CrossAttention::<B>::parameters(&self.config, sizes.hidden_size);
        encoder.into_iter().chain(readers).collect()
    }

    fn config(&self) -> Map<String, Value> {
        self.config.to_map()
    }

    fn layout(&self, rollout: &RolloutLayout) -> MessageLayout {
        MessageLayout { segment: None, vectors: Some(self.config.shown(rollout.batch())) }
    }

    fn send(
        &self,
        parameters: &Parameters<B>,
        rollout: &Rollout<B>,
        _trace: &ReceivedMessages<B>,
    ) -> Message<B> {
        let vectors = Encoder::new(&self.config, parameters).forward(rollout);
        Message { sender: rollout.sender, segment: None, vectors: Some(vectors) }
    }

    fn read(&self, parameters: &Parameters<B>, received: &ReceivedMessages<B>) -> Context<B> {
        CrossAttention::new(&self.config, parameters).context(received)
    }
}

impl ChannelType for VectorsChannel {
    const NAME: &'static str = "vectors";
    const ABOUT: &'static str = "A fixed number of learned vectors per agent.";
    const SEGMENTS: bool = false;
    const GROUPS: &'static [ParameterGroup] = Self::GROUPS;
    const KEYS: Option<&'static [&'static str]> = Some(Self::KEYS);
    type Settings = VectorsSettings;

    fn vectors(settings: &VectorsSettings) -> Option<[usize; 2]> {
        Some([settings.num_vectors, settings.vector_dim])
    }

    fn check(settings: &VectorsSettings, sizes: Option<&TeamSizes>) -> Result<()> {
        settings.check(sizes)
    }

    fn build<B: ModelBackend>(settings: VectorsSettings, sizes: &TeamSizes) -> ChannelPair<B> {
        ChannelPair::new(Self { config: settings.of(sizes) })
    }
}
