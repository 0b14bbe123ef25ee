//! `trace`: keys and values of the shared model.

use diffmas_backends::ModelBackend;

use crate::communication::{Channel, ChannelPair, ChannelType, NoSettings, TeamSizes};

/// Keys and values, and nothing that learns: what [`Channel`] provides.
#[derive(Clone, Copy, Debug)]
pub struct TraceChannel;

impl<B: ModelBackend> Channel<B> for TraceChannel {}

impl ChannelType for TraceChannel {
    const NAME: &'static str = "trace";
    const ABOUT: &'static str = "Keys and values of the shared model.";
    const SEGMENTS: bool = true;
    const KEYS: Option<&'static [&'static str]> = Some(&[]);
    type Settings = NoSettings;

    fn build<B: ModelBackend>(_settings: NoSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
        ChannelPair::new(Self)
    }
}
