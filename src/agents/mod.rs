//! Agents: who they are, what they think on, and how a team becomes a DAG of stages.

mod adapters;
mod batch;
mod feed;
mod model;
mod plan;
pub mod preset;
mod stages;
pub mod team;

pub use adapters::{AdapterScope, AdapterSet};
pub use batch::{PaddedIds, TeamBatch, check_context};
pub use feed::FeedModule;
pub use model::{Team, TeamModel, Thought};
pub(crate) use model::{last_position, prefill};
pub use plan::{StagePlan, TeamPlan};
pub use preset::paper_team;
pub use stages::TeamStages;
pub use team::{AgentConfig, Channel, FeedKind, TeamConfig, Topology, Transmit};
