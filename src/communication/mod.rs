//! What passes between agents: messages of keys and values, of learned vectors, or of both; and the channels that make and read them.
//!
//! # Which channels there are
//!
//! A [`ChannelType`] describes a channel without tensors: its name, what its messages carry, its settings, in which groups it learns. The rest
//! of the library uses that ([`ChannelKind`], [`ChannelConfig`]) and names no channel. What a channel does with tensors is its [`Channel`]. One
//! of the library is a file in `channels/` and a line in `channel_kind.rs`; one from outside is [`register`]ed, and then named in team files.
//!
//! # The learned channel
//!
//! *Encoder* of sender `j`: states `H [n, D]` of the transmitted positions (after the final norm) become `M` vectors of width `c`.
//!
//! ```text
//! A = softmax(Q_j·(norm(H)·W_k)ᵀ / √(c/heads) + P)·norm(H)·W_v        Q_j [M, c]: the sender's queries; P: the position prior
//! E_j = A + silu(norm(A)·W_up)·W_down                                 c → 2c → c
//! ```
//!
//! *Cross-agent attention* of a reader, before `input_layernorm` of each chosen layer `l`:
//!
//! ```text
//! x ← x + tanh(g_l)·Attn(norm(x)·W_q, X·W_k, X·W_v)·W_o               X = [norm(E_1) + a_1; norm(E_2) + a_2; …]
//! ```
//!
//! What the published account leaves open is decided so:
//!
//! - `norm` is a root-mean-square norm without a weight, with 1e-6 added to the mean square.
//! - `P[m, i] = −2·|(i + ½)·M/n − (m + ½)|` over the `n` real positions: query `m` prefers the `m`-th of `M` equal parts of the rollout.
//!   `encoder_position_prior = false` leaves it out. Padding is hidden either way.
//! - A fresh `W_v` of the encoder and every fresh `W_q` are one orthonormal projection `D → c`, every fresh `W_o` is its transpose; `W_k` and
//!   `W_v` of the readers begin as the identity and `W_down` as zero: a vector begins as a mean over its part of the rollout, in a space that
//!   writer and readers share.
//! - `a_j`, the sender's embedding, is added after the norm, so that vectors of zeros still say whose they are.
//! - `g_l` is one number a layer and begins at 0: an untrained channel leaves the backbone's output as it is, bit for bit. With every gate at
//!   0 no gradient reaches the encoder, and a phase that trains it alone is refused.
//! - Attention of a reader may put weight on nothing: beside the keys' scores its softmax has a 0 without a value.
//! - `overwrite` begins with a learned state, 0 at first. Where communication dropout drops a sender, the state stays as it was before it.

mod channel;
mod channel_config;
mod channel_kind;
mod channel_type;
mod channels;
mod cross_attention;
mod encoder;
mod initializer;
mod message;
mod message_dtype;
mod packed;
mod received_messages;
mod registry;
mod rollout;
mod rounding;
mod segment;
mod team_sizes;
mod trace_file;
mod vectors_config;

pub use channel::{Channel, ChannelPair, Context, ContextHook, SharedHook};
pub use channel_config::ChannelConfig;
pub use channel_kind::{ChannelKind, register};
pub use channel_type::{ChannelDescription, ChannelSettings, ChannelType, NoSettings};
pub use channels::{
    HybridChannel, NoChannel, OverwriteChannel, OverwriteSettings, OverwriteUpdate, TraceChannel,
    VectorsChannel,
};
pub use initializer::Initializer;
pub(crate) use initializer::initialize;
pub use message::{Message, MessageLayout, Vectors};
pub use message_dtype::MessageDtype;
pub use received_messages::ReceivedMessages;
pub use rollout::{Rollout, RolloutLayout, Transmit};
pub use segment::{Segment, SegmentLayout};
pub use team_sizes::TeamSizes;
pub use trace_file::{Fingerprint, TraceOwner};
pub use vectors_config::{VectorsConfig, VectorsSettings};
