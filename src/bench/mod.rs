//! The same work on any backend, timed: what `diffmas bench` measures and compares.
//!
//! Works are the library's own functions as a user calls them, nothing rebuilt for the purpose: generation ([`prefill`], [`decoding`]), the
//! roll-out of an agent ([`latent_steps`]), the gradient of an update ([`TrainingStep`]). Each is run between two synchronisations of the
//! device. [`measure`] does all works of a [`BenchConfig`] on one backend and one type of weights and tells them as events; a [`Column`]
//! collects these, and a [`BenchRecord`] sets columns side by side.

mod against;
mod clock;
mod column;
mod config;
mod drawing;
mod generation;
mod loaded;
mod machine;
mod measure;
mod measurement;
mod model;
mod record;
mod shape;
mod table;
mod tokens;
mod training;
mod work;

pub use against::Comparison;
pub use clock::Run;
pub use column::{Column, ColumnEvent};
pub use config::BenchConfig;
pub use generation::{answering, decoding, latent_steps, prefill, written};
pub use machine::Machine;
pub use measure::{ColumnRequest, measure};
pub use measurement::{Measurement, median};
pub use model::{BenchModel, ModelRecord};
pub use record::BenchRecord;
pub use shape::Shape;
pub use tokens::{ids, sample, team};
pub use training::TrainingStep;
pub use work::{Work, WorkKind};
