//! Teams of language agents that pass internal state instead of text.
//!
//! Agents of one team share a frozen transformer. Instead of sentences they pass internal state: the keys and values of their
//! positions in every layer. The channel is continuous, so the whole team is one differentiable function, and a small adapter
//! (LoRA) *learns to communicate* by plain supervised learning (DiffMAS, arXiv 2604.21794).
//!
//! ```text
//! question ──► planner ──► critic ──► refiner ──► solver ──► answer        each agent: prefill its prompt, then T latent
//!                 │           │          │          ▲                      steps that feed hidden states back as inputs;
//!                 └── S₁ ─────┴── S₂ ────┴── S₃ ────┘                      Sⱼ: keys and values it leaves in the trace
//! ```
//!
//! A transformer computes keys and values for every position, and later positions depend on nothing else. So the keys and values of an
//! agent are all that a later one could learn from it, without sampling a single token:
//!
//! 1. An upstream agent reads its prompt on top of the *trace*, then runs `T` latent steps: the last hidden state, rescaled,
//!    becomes the next input embedding. No token is sampled.
//! 2. Its keys and values are appended to the trace as a [`Segment`](communication::Segment). The trace only grows.
//! 3. The final agent reads its prompt on top of the trace and answers in text; in training, the loss is that of the target's tokens.
//! 4. The gradient flows back through the trace into every agent's latent steps, one stage at a time
//!    ([`recompute`](training::recompute)), and the adapter learns keys and values that later agents can use.
//!
//! Whether the message matters is measured on any trained team by controls: the final agent gets another question's trace, for example
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
//! - [`engine`]: the whole as one handle without a backend type: ask, answer, evaluate, train, inspect
//! - [`backbone`]: the transformer, its files, LoRA
//! - [`communication`]: messages and the trace, channels
//! - [`agents`]: roles, prompts on a batch, a team as a DAG of stages
//! - [`training`]: objectives, the recomputation driver, an update in its parts, a loop that resumes bit-identically, TensorBoard events
//! - [`inference`] and [`evaluation`]: answers; scores with real messages and with controls
//! - [`benchmarks`]: questions whose evidence is spread over a team
//! - [`report`]: one HTML page about a run
//! - [`mod@bench`]: the same work timed on any backend
//! - [`processes`]: several processes that share training and evaluation
//! - [`images`]: what senders of images see, and their encoders
//! - [`text`] and [`checkpoint`]: tokenizer, chat template, data; safetensors, GGUF, PEFT
//! - [`settings`] and [`files`]: files and flags as layers; atomic writes, bounded reads, TOML
//!
//! `docs/glossary.md` says what words mean: rollout, context, received messages, sender attention, control, method.

#![warn(missing_docs)]

#[macro_use]
pub mod files;

pub mod agents;
pub mod backbone;
pub mod bench;
pub mod benchmarks;
pub mod checkpoint;
pub mod communication;
pub mod engine;
pub mod error;
pub mod evaluation;
mod guard;
pub mod images;
pub mod inference;
pub mod processes;
mod random;
mod rectangle;
pub mod report;
pub mod settings;
pub mod text;
pub mod training;

pub use diffmas_backends as backends;
pub use error::{Error, Result};
