//! `text`: the classical system, in which agents write and read sentences.

use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};

use crate::backbone::Parameters;
use crate::communication::{
    Channel, ChannelPair, ChannelType, Message, MessageLayout, ReceivedMessages, Rollout, RolloutLayout,
    TeamSizes,
};

/// No tensor passes: agents run apart, or generate text that stands in the prompts of those that read it.
#[derive(Clone, Copy, Debug)]
pub struct NoChannel;

impl<B: ModelBackend> Channel<B> for NoChannel {
    fn layout(&self, _thought: &RolloutLayout) -> MessageLayout {
        MessageLayout::default()
    }

    fn send(
        &self,
        _parameters: &Parameters<B>,
        rollout: &Rollout<B>,
        _trace: &ReceivedMessages<B>,
    ) -> Message<B> {
        Message { sender: rollout.sender, segment: None, vectors: None }
    }
}

/// The settings of `text`, keys of the team file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TextSettings {
    /// Most tokens that an agent writes which does not set its own.
    pub message_tokens: usize,
}

impl ChannelType for NoChannel {
    const NAME: &'static str = "text";
    const ABOUT: &'static str = "Text, as in the classical system.";
    const SEGMENTS: bool = false;
    const TEXT: bool = true;
    const KEYS: Option<&'static [&'static str]> = Some(&["message_tokens"]);
    type Settings = TextSettings;

    fn build<B: ModelBackend>(_settings: TextSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
        ChannelPair::new(Self)
    }
}
