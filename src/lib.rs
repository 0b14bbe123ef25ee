//! Teams of language agents that think together without text.
//!
//! Agents of one team share a frozen transformer. Instead of sentences they pass internal state: the keys and values that their
//! thinking leaves in every layer. The channel is continuous, so the whole team is one differentiable function, and a small adapter
//! (LoRA) *learns to communicate* by plain supervised learning (DiffMAS, arXiv 2604.21794).
//!
//! ```text
//! question ──► planner ──► critic ──► refiner ──► solver ──► answer        each agent: prefill its prompt, then T latent
//!                 │           │          │          ▲                      steps that feed hidden states back as inputs;
//!                 └── S₁ ─────┴── S₂ ────┴── S₃ ────┘                      Sⱼ: keys and values it leaves in the trace
//! ```
//!
//! A transformer writes keys and values for every position it reads, and later positions read nothing else. So an agent that leaves
//! its keys and values behind has told the next one everything it could know, without choosing a single word:
//!
//! 1. An upstream agent reads its prompt on top of the *trace*, then thinks for `T` latent steps: the last hidden state, rescaled,
//!    becomes the next input embedding. No token is sampled.
//! 2. Its keys and values are appended to the trace as a [`Segment`](communication::Segment). The trace only grows.
//! 3. The final agent reads its prompt on top of the trace and answers in text; in training, the loss is that of the target's tokens.
//! 4. The gradient flows back through the trace into every agent's thinking, one stage at a time
//!    ([`recompute`](training::recompute)), and an adapter learns what to write and how to read.
//!
//! Whether the message matters can be asked of any trained team: give the final agent another question's trace
//! ([`Control`](evaluation::Control)).
//!
//! # Quick start
//!
//! `examples/quickstart.rs`; `diffmas train`, `run` and `eval` do the same from the command line.
//!
//! ```no_run
#![doc = include_str!("../examples/quickstart.rs")]
//! ```
//!
//! # Where things are
//!
//! Every component is generic over Burn's `Backend` through [`ModelBackend`](backends::ModelBackend); training runs on `Autodiff<B>`,
//! everything else on `B`. [`BackendKind::run`](backends::BackendKind::run) is the one place where a name becomes a type.
//!
//! - [`backbone`]: the transformer, its files, LoRA
//! - [`communication`]: messages and the trace, channels
//! - [`agents`]: roles, prompts on a batch, a team as a DAG of stages
//! - [`training`]: objectives, the recomputation driver, an update in its parts, a loop that resumes bit-identically, TensorBoard events
//! - [`inference`] and [`evaluation`]: answers; scores with real messages and with controls
//! - [`benchmarks`]: questions whose evidence is spread over a team
//! - [`report`]: one HTML page about a run
//! - [`text`] and [`checkpoint`]: tokenizer, chat template, data; safetensors, GGUF, PEFT
//! - [`files`]: atomic writes, bounded reads, TOML

#![warn(missing_docs)]

#[macro_use]
pub mod files;

pub mod agents;
pub mod backbone;
pub mod benchmarks;
pub mod checkpoint;
pub mod communication;
pub mod engine;
pub mod error;
pub mod evaluation;
mod guard;
pub mod inference;
mod random;
mod rectangle;
pub mod report;
pub mod settings;
pub mod text;
pub mod training;

pub use diffmas_backends as backends;
pub use error::{Error, Result};
