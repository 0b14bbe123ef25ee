//! A channel that the library does not have, named in a team file: agents pass on their last positions, keys and values times a learned gain.
//! `cargo run --release --example custom_channel -- MODEL_FOLDER DATA.jsonl`

use burn::prelude::*;
use diffmas::backbone::{ParameterGroup, ParameterSpec, Parameters};
use diffmas::backends::ModelBackend;
use diffmas::communication::*;
use diffmas::engine::{Engine, EngineConfig, EvaluateRequest, TrainRequest};
use diffmas::text::Answers;
use diffmas::training::TrainConfig;
use diffmas::{Error, Result};
use serde::{Deserialize, Serialize};

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
    const ABOUT: &'static str = "The last positions of a rollout.";
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
    let system = Some("examples/custom_channel.toml".into());
    let engine = Engine::open(EngineConfig { system, ..EngineConfig::of_model(model) })?;
    let samples = engine.session().data(data, Answers::Required, 0)?;
    let config = TrainConfig { max_steps: Some(50), learning_rate: 1e-2, ..TrainConfig::default() };
    let trained = engine.train(TrainRequest { config, ..TrainRequest::new(samples.clone()) })?.finish()?;
    let losses: Vec<f64> = trained.steps.iter().filter_map(|metrics| metrics.loss).collect();
    let scored = engine.evaluate(EvaluateRequest::new(samples)).finish()?;
    println!("a message is {} bytes; losses: {losses:.3?}", scored[0].evaluation.message_bytes);
    Ok(())
}
