//! The channels that the library has.

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::sigmoid;
use diffmas_backends::ModelBackend;

use super::cross_attention::{self, CrossAttention};
use super::encoder::{self, encode};
use super::init::Draws;
use super::{
    Channel, Message, MessageLayout, Reading, SharedHook, Thought, ThoughtLayout, Trace, Vectors,
    VectorsConfig,
};
use crate::backbone::{Backbone, Parameters};

named_enum! {
    /// What agents pass to each other.
    ChannelKind, "channel" {
        /// Keys and values of the shared model.
        #[default]
        Trace = "trace",
        /// A fixed number of learned vectors per agent.
        Vectors = "vectors",
        /// Trace and vectors.
        Hybrid = "hybrid",
        /// A state of fixed size that every agent replaces.
        Overwrite = "overwrite",
        /// Text, as in the classical system.
        Text = "text",
    }
}

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

/// Keys and values, and nothing that learns.
#[derive(Clone, Copy, Debug)]
pub struct TraceChannel;

impl<B: ModelBackend> Channel<B> for TraceChannel {}

/// Nothing passes: agents think alone, or write text that stands in the next ones' prompts.
#[derive(Clone, Copy, Debug)]
pub struct NoChannel;

impl<B: ModelBackend> Channel<B> for NoChannel {
    fn layout(&self, _thought: &ThoughtLayout) -> MessageLayout {
        MessageLayout::default()
    }

    fn send(&self, _parameters: &Parameters<B>, thought: &Thought<B>, _trace: &Trace<B>) -> Message<B> {
        Message { sender: thought.sender, segment: None, vectors: None }
    }
}

/// Learned vectors, read by gated cross-agent attention; with the trace beside them or instead of it.
#[derive(Clone, Debug)]
pub struct VectorsChannel {
    /// Sizes and names.
    pub config: VectorsConfig,
    /// Whether keys and values are passed on, too.
    pub with_trace: bool,
}

impl<B: ModelBackend> Channel<B> for VectorsChannel {
    fn parameters(&self, backbone: &Backbone<B>, seed: u64) -> Parameters<B> {
        learned(&self.config, backbone, seed, |_| ())
    }

    fn layout(&self, thought: &ThoughtLayout) -> MessageLayout {
        MessageLayout {
            segment: self.with_trace.then(|| thought.segment()),
            vectors: Some(self.config.shown(thought.batch())),
        }
    }

    fn send(&self, parameters: &Parameters<B>, thought: &Thought<B>, _trace: &Trace<B>) -> Message<B> {
        Message {
            sender: thought.sender,
            segment: self.with_trace.then(|| thought.segment()),
            vectors: Some(encode(&self.config, parameters, thought)),
        }
    }

    fn read(&self, parameters: &Parameters<B>, trace: &Trace<B>) -> Reading<B> {
        listening(&self.config, parameters, trace)
    }
}

/// A state of fixed size that every agent replaces: `c_j = F(c_{j-1}, E_j)`. The comparison for channels that only grow.
#[derive(Clone, Debug)]
pub struct OverwriteChannel {
    /// Sizes and names.
    pub config: VectorsConfig,
    /// `F`.
    pub update: OverwriteUpdate,
}

impl OverwriteChannel {
    /// `F(c_{j-1}, E_j)`.
    ///
    /// # Shapes
    /// `[B, M, c]` twice → `[B, M, c]`
    pub fn replace<B: ModelBackend>(
        &self,
        parameters: &Parameters<B>,
        state: Tensor<B, 3>,
        encoded: Tensor<B, 3>,
    ) -> Tensor<B, 3> {
        let [b, m, c] = encoded.dims();
        let get = |name: &str| parameters.get(&format!("overwrite.{name}")).clone();
        let (state, encoded) = (state.reshape([b * m, c]), encoded.reshape([b * m, c]));
        let input = B::matmul(encoded.clone(), get("input"));
        let next = match self.update {
            OverwriteUpdate::Tanh => (B::matmul(state, get("state")) + input + get("bias")).tanh(),
            OverwriteUpdate::Gated => {
                let z = sigmoid(
                    B::matmul(state.clone(), get("state")) + B::matmul(encoded, get("gate")) + get("bias"),
                );
                let kept = z.clone() * state;
                kept + (z.neg() + 1.0) * input.tanh()
            }
        };
        next.reshape([b, m, c])
    }
}

impl<B: ModelBackend> Channel<B> for OverwriteChannel {
    fn parameters(&self, backbone: &Backbone<B>, seed: u64) -> Parameters<B> {
        let c = self.config.vector_dim;
        learned(&self.config, backbone, seed, |draws| {
            draws.full("overwrite.initial", [self.config.num_vectors, c], 0.0);
            draws.linear("overwrite.state", [c, c]);
            draws.linear("overwrite.input", [c, c]);
            draws.full("overwrite.bias", [1, c], 0.0);
            if self.update == OverwriteUpdate::Gated {
                draws.linear("overwrite.gate", [c, c]);
            }
        })
    }

    fn layout(&self, thought: &ThoughtLayout) -> MessageLayout {
        MessageLayout { segment: None, vectors: Some(self.config.shown(thought.batch())) }
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

    fn send(&self, parameters: &Parameters<B>, thought: &Thought<B>, trace: &Trace<B>) -> Message<B> {
        let Vectors { values, valid } = encode(&self.config, parameters, thought);
        let [batch, m, c] = values.dims();
        let before = trace.messages.last().and_then(|message| message.vectors.as_ref());
        let state = match before {
            Some(before) => before.values.clone(),
            None => parameters.get("overwrite.initial").clone().expand([batch, m, c]),
        };
        let mut next = self.replace(parameters, state.clone(), values);
        if thought.dropped.contains(&true) {
            let dropped = TensorData::new(thought.dropped.clone(), [batch, 1, 1]);
            let dropped: Tensor<B, 3, Bool> = Tensor::from_data(dropped, &next.device());
            next = next.mask_where(dropped.expand([batch, m, c]), state);
        }
        Message { sender: thought.sender, segment: None, vectors: Some(Vectors { values: next, valid }) }
    }

    fn read(&self, parameters: &Parameters<B>, trace: &Trace<B>) -> Reading<B> {
        listening(&self.config, parameters, trace)
    }
}

/// Fresh weights of encoder and cross-agent attention, and what `more` draws.
fn learned<B: ModelBackend>(
    config: &VectorsConfig,
    backbone: &Backbone<B>,
    seed: u64,
    more: impl FnOnce(&mut Draws<B>),
) -> Parameters<B> {
    let device = backbone.device();
    let mut draws = Draws::new(seed, &device);
    let projection = draws.projection(backbone.config.hidden_size, config.vector_dim);
    encoder::init(config, &projection, &mut draws);
    cross_attention::init(config, &projection, &mut draws);
    more(&mut draws);
    draws.finish()
}

/// The trace's keys and values, if there are any, and cross-agent attention to its vectors.
fn listening<B: ModelBackend>(
    config: &VectorsConfig,
    parameters: &Parameters<B>,
    trace: &Trace<B>,
) -> Reading<B> {
    let hook = CrossAttention::new(config, parameters, trace);
    Reading {
        kv: trace.segments().cloned().collect(),
        hook: hook.map(|hook| Arc::new(hook) as SharedHook<B>),
        start: trace.start.clone(),
    }
}
