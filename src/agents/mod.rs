//! Agents: who they are, what they think on, and how a team becomes a DAG of stages.

mod adapters;
mod batch;
mod feed;
mod fingerprint;
mod input;
mod layout;
mod model;
mod objective;
mod origin;
mod plan;
mod preset;
mod saved;
mod sender_attention;
mod stages;
pub mod team;
mod topology;

pub use adapters::{AdapterScope, AdapterSet};
pub use batch::{PaddedIds, TeamBatch, check_context};
pub use feed::FeedModule;
pub use input::{AgentInput, Embedded, PaddedEmbeddings};
pub use layout::{TeamLayout, TeamModel};
pub use model::Team;
pub(crate) use model::{last_position, prefill};
pub use objective::{LossTerm, LossWeights, Objective, Predictions, Text, TokenCounts};
pub use origin::{Base, Origin};
pub use plan::{AgentPlan, Dropout, Dropped, Read, StagePlan, TeamPlan};
pub use sender_attention::SenderAttention;
pub use stages::{StageGraph, StageOutput, TeamStages};
pub use team::{AgentConfig, FeedKind, TeamConfig, Topology};

pub use crate::communication::{ChannelConfig, ChannelKind, OverwriteUpdate, Transmit};
