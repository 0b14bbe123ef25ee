//! `overwrite`: a state of fixed size that every agent replaces. The comparison for channels that only grow.
//!
//! Per agent `j`, `[B, M, c]` throughout:
//! 1. `E_j` — the communication encoder's vectors of its rollout
//! 2. `c_{j-1}` — the state it read; the learned initial state `[M, c]`, for the first sender
//! 3. `c_j = F(c_{j-1}, E_j)` — one of two updates
//! 4. rows whose sender communication dropout hides keep `c_{j-1}`

use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::sigmoid;
use diffmas_backends::ModelBackend;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::VectorsChannel;
use crate::backbone::{ParameterGroup, ParameterSpec, Parameters};
use crate::communication::cross_attention::CrossAttention;
use crate::communication::encoder::Encoder;
use crate::communication::{
    Channel, ChannelPair, ChannelType, Context, Initializer, Message, MessageLayout, ReceivedMessages,
    Rollout, RolloutLayout, TeamSizes, Vectors, VectorsConfig, VectorsSettings,
};
use crate::error::Result;

named_enum! {
    /// How an agent replaces the state of `overwrite`.
    OverwriteUpdate, "overwrite_update" {
        /// `c_j = tanh(c_{j-1}·W + E_j·U + b)`
        #[default]
        Tanh = "tanh",
        /// `c_j = z ⊙ c_{j-1} + (1 - z) ⊙ tanh(E_j·U)` with `z = σ(c_{j-1}·W + E_j·V + b)`
        Gated = "gated",
    }
}

/// The settings of `overwrite`, keys of the team file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OverwriteSettings {
    /// Sizes of the state and of its readers.
    #[serde(flatten)]
    pub vectors: VectorsSettings,
    /// `F`.
    pub overwrite_update: OverwriteUpdate,
}

/// A state of fixed size that every agent replaces: `c_j = F(c_{j-1}, E_j)`.
#[derive(Clone, Debug)]
pub struct OverwriteChannel {
    /// Sizes and names.
    pub config: VectorsConfig,
    /// `F`.
    pub update: OverwriteUpdate,
}

/// The learned parts of `F`, and the state before anyone spoke.
#[derive(Clone, Debug)]
struct Update<B: ModelBackend> {
    /// `c_0`, `[M, c]`
    initial: Tensor<B, 2>,
    /// `W`, `[c, c]`
    state: Tensor<B, 2>,
    /// `U`, `[c, c]`
    input: Tensor<B, 2>,
    /// `b`, `[1, c]`
    bias: Tensor<B, 2>,
    /// `V`, `[c, c]`, of the gated update.
    gate: Option<Tensor<B, 2>>,
}

impl<B: ModelBackend> Update<B> {
    /// What learns, in the group of the encoder.
    fn parameters(config: &VectorsConfig, update: OverwriteUpdate) -> Vec<(ParameterSpec, Initializer)> {
        let (m, c) = (config.num_vectors, config.vector_dim);
        let spec = |name: &str, shape| {
            ParameterSpec::new(format!("overwrite.{name}"), shape, ParameterGroup::ENCODER)
        };
        let mut all = vec![
            (spec("initial", [m, c]).spared(), Initializer::Full(0.0)),
            (spec("state", [c, c]), Initializer::Linear),
            (spec("input", [c, c]), Initializer::Linear),
            (spec("bias", [1, c]).spared(), Initializer::Full(0.0)),
        ];
        if update == OverwriteUpdate::Gated {
            all.push((spec("gate", [c, c]), Initializer::Linear));
        }
        all
    }

    fn new(update: OverwriteUpdate, parameters: &Parameters<B>) -> Self {
        let get = |name: &str| parameters.get(&format!("overwrite.{name}")).clone();
        Self {
            initial: get("initial"),
            state: get("state"),
            input: get("input"),
            bias: get("bias"),
            gate: (update == OverwriteUpdate::Gated).then(|| get("gate")),
        }
    }

    /// `F(c_{j-1}, E_j)`: `[B, M, c]` twice → `[B, M, c]`.
    fn forward(&self, state: Tensor<B, 3>, encoded: Tensor<B, 3>) -> Tensor<B, 3> {
        let [b, m, c] = encoded.dims();
        let (state, encoded) = (state.reshape([b * m, c]), encoded.reshape([b * m, c]));
        // 1. E_j·U
        let input = B::matmul(encoded.clone(), self.input.clone());
        let next = match &self.gate {
            // 2. tanh(c_{j-1}·W + E_j·U + b)
            None => (B::matmul(state, self.state.clone()) + input + self.bias.clone()).tanh(),
            Some(gate) => {
                // 2. z = σ(c_{j-1}·W + E_j·V + b)
                let z = sigmoid(
                    B::matmul(state.clone(), self.state.clone())
                        + B::matmul(encoded, gate.clone())
                        + self.bias.clone(),
                );
                // 3. z ⊙ c_{j-1} + (1 - z) ⊙ tanh(E_j·U)
                let kept = z.clone() * state;
                kept + (z.neg() + 1.0) * input.tanh()
            }
        };
        next.reshape([b, m, c])
    }
}

impl<B: ModelBackend> Channel<B> for OverwriteChannel {
    fn parameters(&self, sizes: &TeamSizes) -> Vec<(ParameterSpec, Initializer)> {
        let vectors = VectorsChannel { config: self.config.clone() };
        let mut all = Channel::<B>::parameters(&vectors, sizes);
        all.extend(Update::<B>::parameters(&self.config, self.update));
        all
    }

    fn config(&self) -> Map<String, Value> {
        let mut all = self.config.to_map();
        all.insert("overwrite_update".into(), self.update.name().into());
        all
    }

    fn layout(&self, rollout: &RolloutLayout) -> MessageLayout {
        MessageLayout { segment: None, vectors: Some(self.config.shown(rollout.batch())) }
    }

    /// Readers see the state of the agents before, if any of them has spoken.
    fn hide(&self, message: &mut MessageLayout, before: Option<&MessageLayout>, dropped: &[bool]) {
        let Some((own, before)) =
            message.vectors.as_mut().zip(before.and_then(|before| before.vectors.as_ref()))
        else {
            return message.hide(dropped);
        };
        let m = self.config.num_vectors;
        for (row, _) in dropped.iter().enumerate().filter(|(_, dropped)| **dropped) {
            own[row * m..(row + 1) * m].copy_from_slice(&before[row * m..(row + 1) * m]);
        }
    }

    fn send(
        &self,
        parameters: &Parameters<B>,
        rollout: &Rollout<B>,
        received: &ReceivedMessages<B>,
    ) -> Message<B> {
        let update = Update::new(self.update, parameters);
        // 1. E_j
        let Vectors { values, valid } = Encoder::new(&self.config, parameters).forward(rollout);
        let [batch, m, c] = values.dims();
        // 2. c_{j-1}
        let before = received.messages.last().and_then(|message| message.vectors.as_ref());
        let state = match before {
            Some(before) => before.values.clone(),
            None => update.initial.clone().expand([batch, m, c]),
        };
        // 3. c_j
        let mut next = update.forward(state.clone(), values);
        // 4. rows that stay as they were
        if rollout.dropped.contains(&true) {
            let dropped = TensorData::new(rollout.dropped.clone(), [batch, 1, 1]);
            let dropped: Tensor<B, 3, Bool> = Tensor::from_data(dropped, &next.device());
            next = next.mask_where(dropped.expand([batch, m, c]), state);
        }
        Message { sender: rollout.sender, segment: None, vectors: Some(Vectors { values: next, valid }) }
    }

    fn read(&self, parameters: &Parameters<B>, received: &ReceivedMessages<B>) -> Context<B> {
        CrossAttention::new(&self.config, parameters).context(received)
    }
}

impl ChannelType for OverwriteChannel {
    const NAME: &'static str = "overwrite";
    const ABOUT: &'static str = "A state of fixed size that every agent replaces.";
    const SEGMENTS: bool = false;
    const REPLACES: bool = true;
    const GROUPS: &'static [ParameterGroup] = VectorsChannel::GROUPS;
    const KEYS: Option<&'static [&'static str]> = Some(&[
        "num_vectors",
        "vector_dim",
        "vector_heads",
        "cross_attention_layers",
        "encoder_position_prior",
        "overwrite_update",
    ]);
    type Settings = OverwriteSettings;

    fn vectors(settings: &OverwriteSettings) -> Option<[usize; 2]> {
        VectorsChannel::vectors(&settings.vectors)
    }

    fn check(settings: &OverwriteSettings, sizes: Option<&TeamSizes>) -> Result<()> {
        settings.vectors.check(sizes)
    }

    fn build<B: ModelBackend>(settings: OverwriteSettings, sizes: &TeamSizes) -> ChannelPair<B> {
        let OverwriteSettings { vectors, overwrite_update: update } = settings;
        ChannelPair::new(Self { config: vectors.of(sizes), update })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    type TestBackend = diffmas_backends::Flex;

    fn one(value: f32) -> Tensor<TestBackend, 2> {
        Tensor::full([1, 1], value, &Default::default())
    }

    /// The update of a state of one number.
    fn next(gate: Option<f32>, state: f32, encoded: f32) -> f32 {
        let update = Update {
            initial: one(0.0),
            state: one(0.5),
            input: one(2.0),
            bias: one(0.1),
            gate: gate.map(one),
        };
        let next = update.forward(one(state).unsqueeze(), one(encoded).unsqueeze());
        next.into_data().iter().next().unwrap()
    }

    #[test]
    fn both_updates_are_their_formulas() {
        let (state, encoded) = (0.8f32, -0.3f32);
        let tanh = (0.5 * state + 2.0 * encoded + 0.1).tanh();
        assert!((next(None, state, encoded) - tanh).abs() < 1e-6);
        let z = 1.0 / (1.0 + (-(0.5 * state + 0.7 * encoded + 0.1)).exp());
        let gated = z * state + (1.0 - z) * (2.0 * encoded).tanh();
        assert!((next(Some(0.7), state, encoded) - gated).abs() < 1e-6);
    }
}
