//! GPUs through wgpu: the system's own graphics API, or Vulkan or Metal where asked for.

use std::sync::Mutex;

use burn::backend::wgpu::{WgpuDevice, graphics, init_setup};

use crate::BackendKind;

/// Starts the graphics API that `kind` names on the device with `index` (GPU of that number; the best one when absent).
pub(crate) fn device(kind: BackendKind, index: Option<usize>) -> WgpuDevice {
    // Software Vulkan (lavapipe) counts as a CPU and must be asked for by name.
    let software = std::env::var_os("DIFFMAS_SOFTWARE_GPU").is_some();
    let device = match index {
        _ if software => WgpuDevice::Cpu,
        Some(i) => WgpuDevice::DiscreteGpu(i),
        None => WgpuDevice::DefaultDevice,
    };
    // A device is started once in a process, with the first graphics API that is asked of it.
    static STARTED: Mutex<Vec<WgpuDevice>> = Mutex::new(Vec::new());
    let mut started = STARTED.lock().unwrap_or_else(|e| e.into_inner());
    if started.contains(&device) {
        return device;
    }
    match kind {
        #[cfg(feature = "vulkan")]
        BackendKind::Vulkan => drop(init_setup::<graphics::Vulkan>(&device, Default::default())),
        #[cfg(feature = "metal")]
        BackendKind::Metal => drop(init_setup::<graphics::Metal>(&device, Default::default())),
        _ => drop(init_setup::<graphics::AutoGraphicsApi>(&device, Default::default())),
    }
    started.push(device.clone());
    device
}
