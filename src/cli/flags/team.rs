//! Which team runs, on which model and where: what every command with `--config` has.

use clap::Args;
use serde::Serialize;

use super::{ChannelFlags, DeviceFlags, ModelFlags};

/// Team, model and device.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct TeamFlags {
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub channel: ChannelFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceFlags,
}
