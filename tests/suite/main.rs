//! Tests that run on any backend (`DIFFMAS_TEST_BACKEND`). One program, so that each backend's code is compiled once.

mod batches;
mod bench;
mod bits;
mod channels;
mod common;
mod distillation;
mod generation;
#[path = "../shared/gguf.rs"]
#[allow(dead_code)]
mod gguf;
mod golden;
mod gradients;
mod images;
mod inputs;
mod lora_dropout;
mod merge;
mod message_dtype;
mod models;
mod objectives;
mod operations;
mod outside;
mod parity;
mod pieces;
mod precision;
mod properties;
mod questions;
mod recompute;
mod reductions;
mod references;
mod self_rollout;
mod slots;
mod smollm2;
mod training;
mod updates;
