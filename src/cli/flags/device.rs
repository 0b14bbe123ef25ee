//! Where and in which numbers is computed.

use clap::Args;
use diffmas::backbone::{ComputeDtype, WeightDtype};
use serde::Serialize;

/// Where and in which numbers is computed.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Device")]
pub struct DeviceFlags {
    /// Backend; `diffmas devices` lists those in this binary [the first with a device: cuda, metal, vulkan, wgpu, flex, ndarray]
    #[arg(long)]
    pub backend: Option<String>,
    /// Which of the backend's devices, by its number in `diffmas devices` [0]
    #[arg(long, value_name = "N", alias = "device-index")]
    pub device: Option<usize>,
    /// How the model's weights are stored: auto is as the file has them, where the backend can [f32; bf16, f16, q8, q4, auto]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<WeightDtype>,
    /// What is computed in [f32, the only one]
    #[arg(long, value_name = "TYPE")]
    pub precision: Option<ComputeDtype>,
    /// Data lines that run together [8]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
}
