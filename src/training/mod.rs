//! Training of everything that a team learns.
//!
//! An update differentiates by recomputation, reduces over processes, clips and steps; what it learns by is an objective. A loop draws
//! samples and goes through phases; it can be stopped and resumed.

mod checkpoint;
mod config;
mod curriculum;
mod decay;
mod differentiate;
mod driver;
mod flat_gradient;
mod flat_layout;
mod graph_memory;
mod last_state;
mod lora_config;
mod memory_limit;
mod metrics;
mod objectives;
mod optimizer;
mod phase_config;
mod phases;
mod recompute;
mod recompute_choice;
mod reduce;
mod sampler;
mod schedule;
mod settings;
mod step;
mod teacher;
mod tensorboard;
mod trainer;
mod training_loop;

pub use checkpoint::DataMark;
pub(crate) use checkpoint::{ADAPTER, CheckpointState, read_checkpoint, write_checkpoint};
pub use config::{TraceGradient, TrainConfig};
pub use curriculum::{Curriculum, competence};
pub use decay::Decay;
pub use differentiate::UpdateGradient;
pub use driver::{Outcome, end_to_end, recompute};
pub use flat_gradient::FlatGradient;
pub use flat_layout::{FlatLayout, Place};
pub use graph_memory::GraphMemory;
pub use last_state::LastState;
pub use lora_config::LoraConfig;
pub use memory_limit::MemorySize;
pub use metrics::{EvalMetrics, StepMetrics, peak_memory_bytes};
pub use objectives::{CrossEntropy, Distillation, Teach};
pub use optimizer::{Optimizer, clip_factor};
pub use phase_config::{PhaseConfig, PhasePreset};
pub use phases::Phase;
pub use recompute::Recompute;
pub use recompute_choice::RecomputeChoice;
pub use sampler::Sampler;
pub use schedule::{DecayType, LrSchedulerType, Schedule};
pub(crate) use settings::RunSettings;
pub use teacher::{FrozenTeacher, Teacher};
pub(crate) use tensorboard::EventFile;
pub use trainer::Trainer;
pub use training_loop::{Event, StopReason};
