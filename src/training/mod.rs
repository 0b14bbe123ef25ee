//! Learning to communicate: the recomputation driver, the optimiser, and a loop that can be stopped and resumed.

mod checkpoint;
mod config;
mod curriculum;
mod decay;
mod driver;
mod metrics;
mod optimizer;
mod phases;
mod sampler;
mod schedule;
mod settings;
mod tensorboard;
mod trainer;

pub use checkpoint::{ADAPTER, CheckpointState, DataMark, read_checkpoint, write_checkpoint};
pub use config::{TraceGradient, TrainConfig};
pub use curriculum::{Curriculum, competence};
pub use decay::Decay;
pub use driver::{Outcome, end_to_end, frobenius, recompute};
pub use metrics::{EvalMetrics, StepMetrics, peak_memory_bytes};
pub use optimizer::{Optimizer, clip};
pub use phases::{Phase, PhaseConfig, PhasePreset, Trainable};
pub use sampler::Sampler;
pub use schedule::{LrSchedulerType, learning_rate};
pub use settings::RunSettings;
pub use tensorboard::EventFile;
pub use trainer::{Event, StopReason, Trainer, UpdateGradient};
