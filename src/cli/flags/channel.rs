//! What agents pass to each other.

use clap::Args;
use diffmas::agents::{
    ChannelKind, FeedKind, MessageDtype, OverwriteUpdate, SlotPlacement, Topology, Transmit,
};
use serde::Serialize;

use super::{offered, offering};

/// What agents pass to each other, in place of the team file's settings.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Channel")]
pub struct ChannelFlags {
    /// What agents pass on [trace, vectors, hybrid, overwrite, text]
    #[arg(long, value_parser = offering::<ChannelKind>(ChannelKind::all().iter().map(|kind| kind.name())), hide_possible_values = true)]
    pub channel: Option<ChannelKind>,
    /// Who reads whom [sequential, hierarchical; graph needs a team file with `reads`]
    #[arg(long, value_parser = offered::<Topology>(), hide_possible_values = true)]
    pub topology: Option<Topology>,
    /// Latent steps of every upstream agent
    #[arg(long, value_name = "T")]
    pub latent_steps: Option<usize>,
    /// Which positions an upstream agent leaves in the trace [all, latent, prompt]
    #[arg(long, value_parser = offered::<Transmit>(), hide_possible_values = true)]
    pub transmit: Option<Transmit>,
    /// How a hidden state becomes the next input; or trainable inputs, read in one pass [identity, realign, soft, learned; slots]
    #[arg(long, value_parser = offered::<FeedKind>(), hide_possible_values = true)]
    pub feed: Option<FeedKind>,
    /// Where slots stand in a prompt (feed slots) [end, spread]
    #[arg(long, value_parser = offered::<SlotPlacement>(), hide_possible_values = true)]
    pub slot_placement: Option<SlotPlacement>,
    /// What the numbers of messages are rounded to where they leave their sender [f32, bf16, int8, int4]
    #[arg(long, value_parser = offered::<MessageDtype>(), hide_possible_values = true)]
    pub message_dtype: Option<MessageDtype>,
    /// Vectors that an agent sends (vectors, hybrid, overwrite) [8]
    #[arg(long, value_name = "M")]
    pub num_vectors: Option<usize>,
    /// Width of a vector [256]
    #[arg(long, value_name = "C")]
    pub vector_dim: Option<usize>,
    /// Heads of communication encoder and cross-agent attention [4]
    #[arg(long, value_name = "H")]
    pub vector_heads: Option<usize>,
    /// Layers in which a reader attends to vectors, comma-separated [every fourth]
    #[arg(long, value_delimiter = ',', value_name = "LAYERS")]
    pub cross_attention_layers: Option<Vec<usize>>,
    /// Whether each query of the communication encoder prefers its own part of the sender's rollout [true]
    #[arg(long)]
    pub encoder_position_prior: Option<bool>,
    /// How an agent replaces the state of `overwrite` [tanh, gated]
    #[arg(long, value_parser = offered::<OverwriteUpdate>(), hide_possible_values = true)]
    pub overwrite_update: Option<OverwriteUpdate>,
    /// Most tokens that an upstream agent writes on the channel `text` [128]
    #[arg(long, value_name = "N")]
    pub message_tokens: Option<usize>,
}
