//! Flags that several commands share, group by group: their help text; what they mean stands at the structs whose fields they set.

mod channel;
mod device;
mod eval;
mod generation;
mod lora;
mod model;
mod run;
mod switches;
mod team;
mod train;
mod training;
mod values;

pub use channel::ChannelFlags;
pub use device::DeviceFlags;
pub use eval::EvalFlags;
pub use generation::GenerationFlags;
pub use lora::LoraFlags;
pub use model::ModelFlags;
pub use run::RunFlags;
pub use switches::{join_values, with_switches};
pub use team::TeamFlags;
pub use train::TrainFlags;
pub use training::TrainingFlags;
pub use values::{number, offered, offering, one_of};
