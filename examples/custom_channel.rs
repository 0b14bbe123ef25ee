//! A channel that the library does not have, named in a team file: agents pass on their last positions, keys and values times a learned gain.
//! `cargo run --release --example custom_channel -- MODEL_FOLDER DATA.jsonl`

use burn::prelude::*;
use diffmas::agents::TeamConfig;
use diffmas::backbone::{ParameterGroup, ParameterSpec, Parameters};
use diffmas::backends::ModelBackend;
use diffmas::communication::*;
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};

#[allow(dead_code)]
#[path = "vectors_channel.rs"]
pub mod vectors_channel;

/// The last positions of a rollout. Everything else (joining, recomputation, controls, checkpoints) the library does.
#[derive(Debug)]
pub struct Window(usize);

/// The table `[channel.window]`.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowSettings {
    positions: usize,
}

impl ChannelType for Window {
    const NAME: &'static str = "window";
    const ABOUT: &'static str = "The last positions of a thought.";
    const SEGMENTS: bool = true;
    type Settings = WindowSettings;

    fn build<B: ModelBackend>(settings: WindowSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
        ChannelPair::new(Self(settings.positions))
    }
}

impl<B: ModelBackend> Channel<B> for Window {
    /// What learns, by name; here one number.
    fn parameters(&self, _sizes: &TeamSizes) -> Vec<(ParameterSpec, Initializer)> {
        vec![(ParameterSpec::new("window.gain", [1, 1], ParameterGroup::CHANNEL), Initializer::Full(1.0))]
    }

    /// The form of a message, known before any tensor is.
    fn layout(&self, rollout: &RolloutLayout) -> MessageLayout {
        let mut segment = rollout.segment();
        let from = segment.positions.len.saturating_sub(self.0);
        segment.positions = segment.positions.slice(from, segment.positions.len);
        segment.prompt_len = segment.prompt_len.saturating_sub(from);
        MessageLayout { segment: Some(segment), vectors: None }
    }

    /// The message itself. What a reader does with it is the trace's way: it attends to the keys and values.
    fn send(
        &self,
        parameters: &Parameters<B>,
        rollout: &Rollout<B>,
        _trace: &ReceivedMessages<B>,
    ) -> Message<B> {
        let mut segment = rollout.segment();
        let from = segment.kv.len().saturating_sub(self.0);
        segment.kv = segment.kv.slice(from, segment.kv.len());
        segment.prompt_len = segment.prompt_len.saturating_sub(from);
        let gain: Tensor<B, 4> = parameters.get("window.gain").clone().unsqueeze();
        for block in &mut segment.kv.layers {
            block.value = block.value.clone() * gain.clone();
        }
        Message { sender: rollout.sender, segment: Some(segment), vectors: None }
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, data] = &args[..] else {
        return Err(Error::invalid("usage: custom_channel MODEL_FOLDER DATA.jsonl"));
    };
    register::<Window>()?;
    let team = TeamConfig::read("examples/custom_channel.toml".as_ref())?;
    let learned = vectors_channel::learn(team, model, data, 50)?;
    println!("a message is {} bytes; losses: {:.3?}", learned.bytes, learned.losses);
    Ok(())
}
