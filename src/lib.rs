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
//! Every component is generic over Burn's `Backend` through [`diffmas_backends::ModelBackend`]; training runs on `Autodiff<B>`,
//! everything else on `B`.
//!
//! - [`backbone`]: the transformer, its files, LoRA
//! - [`communication`]: segments and the trace
//! - [`agents`]: roles, prompts on a batch, a team as a DAG of stages
//! - [`training`]: the recomputation driver and a loop that resumes bit-identically
//! - [`inference`] and [`evaluation`]: answers; scores with real messages and with controls
//! - [`text`] and [`checkpoint`]: tokenizer, chat template, data; safetensors, GGUF, PEFT

#![warn(missing_docs)]

pub mod agents;
pub mod backbone;
pub mod checkpoint;
pub mod communication;
pub mod error;
pub mod evaluation;
pub mod inference;
pub mod text;
pub mod training;

pub use diffmas_backends as backends;
pub use error::{Error, Result};
