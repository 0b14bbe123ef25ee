//! GPUs through wgpu: the system's own graphics API, or Vulkan or Metal where asked for.

use std::sync::Mutex;

use burn::backend::wgpu::{WgpuDevice, graphics, init_setup};

use crate::{Adapter, BackendKind};

/// A device is started once in a process, with the first graphics API that is asked of it.
static STARTED: Mutex<Vec<(WgpuDevice, Adapter)>> = Mutex::new(Vec::new());

/// The device with `index` (GPU of that number; the best one when absent).
fn named(index: Option<usize>) -> WgpuDevice {
    match index {
        _ if software_wanted() => WgpuDevice::Cpu,
        Some(i) => WgpuDevice::DiscreteGpu(i),
        None => WgpuDevice::DefaultDevice,
    }
}

/// Software Vulkan (lavapipe) counts as a CPU; this asks for it.
fn software_wanted() -> bool {
    std::env::var_os("DIFFMAS_SOFTWARE_GPU").is_some()
}

/// Starts the graphics API that `kind` names on the device with `index`.
pub(crate) fn device(kind: BackendKind, index: Option<usize>) -> WgpuDevice {
    let device = named(index);
    let mut started = STARTED.lock().unwrap_or_else(|e| e.into_inner());
    if started.iter().any(|(known, _)| *known == device) {
        return device;
    }
    let setup = match kind {
        #[cfg(feature = "vulkan")]
        BackendKind::Vulkan => init_setup::<graphics::Vulkan>(&device, Default::default()),
        #[cfg(feature = "metal")]
        BackendKind::Metal => init_setup::<graphics::Metal>(&device, Default::default()),
        _ => init_setup::<graphics::AutoGraphicsApi>(&device, Default::default()),
    };
    let info = setup.adapter.get_info();
    let adapter = Adapter {
        name: info.name,
        api: format!("{:?}", info.backend),
        // The type has this name in the crate wgpu, of which nothing else is needed here.
        software: format!("{:?}", info.device_type) == "Cpu",
        wanted: software_wanted(),
    };
    started.push((device.clone(), adapter));
    device
}

/// What the device with `index` runs on, once it is started.
pub(crate) fn adapter(index: Option<usize>) -> Option<Adapter> {
    let (device, started) = (named(index), STARTED.lock().unwrap_or_else(|e| e.into_inner()));
    started.iter().find(|(known, _)| *known == device).map(|(_, adapter)| adapter.clone())
}
