//! Where and in which numbers is computed.

use clap::Args;
use diffmas::backbone::{ComputeDtype, WeightDtype};
use diffmas::backends::BackendKind;
use serde::Serialize;

use super::{offered, offering};

/// Where and in which numbers is computed.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Device")]
pub struct DeviceFlags {
    /// Backend; `diffmas devices` lists those in this binary [the first with a device: cuda, metal, vulkan, wgpu, flex, ndarray]
    #[arg(long, value_parser = offering::<String>(BackendKind::ALL.iter().map(|kind| kind.name())), hide_possible_values = true)]
    pub backend: Option<String>,
    /// Which of the backend's devices, by its number in `diffmas devices` [0]
    #[arg(long, value_name = "N", alias = "device-index")]
    pub device: Option<usize>,
    /// How the model's weights are stored: auto is as the file has them, where the backend can [f32; bf16, f16, q8, q4, auto]
    #[arg(long, value_name = "TYPE", value_parser = offered::<WeightDtype>(), hide_possible_values = true)]
    pub dtype: Option<WeightDtype>,
    /// What products of weights with many positions are computed in, where the device can [f32; tf32, bf16, f16]
    #[arg(long, value_name = "TYPE", value_parser = offered::<ComputeDtype>(), hide_possible_values = true)]
    pub precision: Option<ComputeDtype>,
    /// Data lines that run together [8]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
}
