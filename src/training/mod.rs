//! Learning to communicate: the recomputation driver, the optimiser, and a loop that can be stopped and resumed.

mod checkpoint;
mod config;
mod driver;
mod metrics;
mod optimizer;
mod parameters;
mod sampler;
mod schedule;
mod tensorboard;
mod trainer;

pub use checkpoint::{CheckpointState, DataMark, read_checkpoint, read_feed, write_checkpoint, write_feed};
pub use config::{TraceGradient, TrainConfig};
pub use driver::{Outcome, StageGraph, StageOutput, end_to_end, recompute};
pub use metrics::{EvalMetrics, StepMetrics, peak_memory_bytes};
pub use optimizer::{Optimizer, clip};
pub use parameters::Parameters;
pub use sampler::Sampler;
pub use schedule::{LrSchedulerType, learning_rate};
pub use tensorboard::EventFile;
pub use trainer::{Event, StopReason, Trainer};
