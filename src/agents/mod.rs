//! A team of agents: its description, its prompts, latent rollouts, and how a batch becomes a DAG of stages.

mod adapters;
mod batch;
mod context_length;
mod feed;
mod fingerprint;
mod input;
mod layout;
mod model;
mod objective;
mod one_message;
mod origin;
mod padded_ids;
mod plan;
mod preset;
mod prompts;
mod rollout;
mod saved;
mod self_rollout;
mod sender_attention;
mod slots;
mod stages;
mod team;
mod team_model;
mod topology;

pub use adapters::{AdapterScope, AdapterSet};
pub use batch::TeamBatch;
pub(crate) use context_length::{check_context, check_teacher_context};
pub use feed::FeedModule;
pub use input::{AgentInput, Embedded, PaddedEmbeddings};
pub use layout::TeamLayout;
pub use model::Team;
pub(crate) use model::{last_position, predict_target, prefill};
pub use objective::{Loss, LossTerm, LossWeights, Objective, Predictions, Text, TokenCounts};
pub(crate) use one_message::check_lines;
pub use origin::{Base, Origin};
pub use padded_ids::PaddedIds;
pub use plan::{AgentPlan, Dropout, Dropped, Read, StagePart, StagePlan, TeamPlan};
pub use prompts::{PromptBuilder, TeacherPrompts};
pub(crate) use self_rollout::check_self_context;
pub use sender_attention::SenderAttention;
pub use slots::{SlotPlacement, SlotPlaces};
pub use stages::{StageGraph, StageOutput, TeamStages};
pub use team::{AgentConfig, FeedKind, TeamConfig, Topology};
pub use team_model::TeamModel;

pub use crate::communication::{ChannelConfig, ChannelKind, MessageDtype, OverwriteUpdate, Transmit};
