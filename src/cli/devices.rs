//! `diffmas devices`

use clap::Args;
use diffmas::Result;
use diffmas::backends::{BackendKind, DeviceError};
use diffmas::engine::{BackendState, DeviceState, devices};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::output;

/// Flags of `devices`.
#[derive(Debug, Args)]
pub struct DevicesCommand {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DevicesCommand {
    /// Lists what is compiled in and what starts, then what is not compiled in.
    pub fn execute(self) -> Result<()> {
        let absent: Vec<&str> = BackendKind::NAMES
            .into_iter()
            .filter(|name| !BackendKind::ALL.iter().any(|kind| kind.name() == *name))
            .collect();
        if self.json {
            let backends: Vec<Value> = devices().map(|state| as_json(&state)).collect();
            return output::print(&json!({"backends": backends, "not_compiled_in": absent}).to_string());
        }
        for state in devices() {
            for line in lines(&state) {
                output::print(&format!("{:<8} {line}", state.kind.name()))?;
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        let features = absent.join(", ");
        output::print(&format!(
            "not in this binary: {features} (cargo build --release --features NAME adds one)"
        ))
    }
}

/// A line a device, or why there is none.
fn lines(state: &BackendState) -> Vec<String> {
    match &state.devices {
        Ok(devices) => devices.iter().map(line).collect(),
        Err(e) => vec![unusable(e)],
    }
}

fn line(device: &DeviceState) -> String {
    let info = &device.info;
    let mut parts = vec![format!("{}: {}", info.index, info.name)];
    parts.extend(info.memory.map(|bytes| HumanBytes(bytes).to_string()));
    parts.push(info.api.clone());
    match &device.abilities {
        Ok(abilities) => {
            parts.push(format!("weights {}", abilities.weights.join(", ")));
            parts.push(format!("arithmetic {}", abilities.arithmetic.join(", ")));
            parts.push(format!("products {}", abilities.products.join(", ")));
            parts.extend(abilities.largest_tensor.map(|n| format!("tensors up to {}", HumanBytes(n))));
        }
        Err(e) => parts.push(unusable(e)),
    }
    if info.software {
        parts.push("no GPU but a program on the CPU, and slow".into());
    }
    parts.join("; ")
}

fn unusable(e: &DeviceError) -> String {
    match e {
        DeviceError::Missing { reason, .. } => format!("not usable: {reason}"),
        e => format!("not usable: {e}"),
    }
}

fn as_json(state: &BackendState) -> Value {
    let device = |device: &DeviceState| {
        let (info, abilities) = (&device.info, device.abilities.as_ref());
        json!({
            "device": info.index,
            "name": info.name,
            "memory_bytes": info.memory,
            "api": info.api,
            "software": info.software,
            "weights": abilities.ok().map(|a| &a.weights),
            "arithmetic": abilities.ok().map(|a| &a.arithmetic),
            "products": abilities.ok().map(|a| &a.products),
            "largest_tensor_bytes": abilities.ok().and_then(|a| a.largest_tensor),
            "error": abilities.err().map(ToString::to_string),
        })
    };
    json!({
        "backend": state.kind.name(),
        "devices": state.devices.iter().flatten().map(device).collect::<Vec<_>>(),
        "error": state.devices.as_ref().err().map(ToString::to_string),
    })
}
