//! GPUs through wgpu: the system's own graphics API, or Vulkan or Metal where asked for.

use std::sync::Mutex;

use burn::backend::wgpu::{WgpuDevice, graphics, init_setup};
use burn_cubecl::cubecl::future::block_on;
use wgpu::{Adapter, AdapterInfo, Backend, DeviceType, Instance, InstanceDescriptor};

use crate::{BackendKind, DeviceInfo, kernel_cache, software_wanted};

/// A device as CubeCL names it, and what is told of it.
type Found = (WgpuDevice, DeviceInfo);

/// What a graphics API found, once it was asked.
static FOUND: Mutex<Vec<(Backend, Vec<Found>)>> = Mutex::new(Vec::new());

/// A device is started once in a process, with the first graphics API that is asked of it.
static STARTED: Mutex<Vec<WgpuDevice>> = Mutex::new(Vec::new());

/// The graphics API of a backend.
fn api(kind: BackendKind) -> Backend {
    match kind {
        #[cfg(feature = "vulkan")]
        BackendKind::Vulkan => Backend::Vulkan,
        #[cfg(feature = "metal")]
        BackendKind::Metal => Backend::Metal,
        _ if cfg!(target_os = "macos") => Backend::Metal,
        _ => Backend::Vulkan,
    }
}

/// The devices of a backend, the default first.
///
/// # Errors
/// A sentence, if there is none.
pub(crate) fn devices(kind: BackendKind) -> Result<Vec<DeviceInfo>, String> {
    let found = found(api(kind));
    if found.is_empty() {
        return Err(format!("{:?} finds no device; install the GPU's driver for it", api(kind)));
    }
    Ok(found.into_iter().map(|(_, info)| info).collect())
}

/// The devices of a graphics API, in the order of their numbers.
fn found(api: Backend) -> Vec<Found> {
    let mut known = FOUND.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((_, found)) = known.iter().find(|(known, _)| *known == api) {
        return found.clone();
    }
    quiet_layer();
    let instance = Instance::new(InstanceDescriptor {
        backends: api.into(),
        ..InstanceDescriptor::new_without_display_handle()
    });
    let mut found = Vec::new();
    for adapter in block_on(instance.enumerate_adapters(api.into())) {
        let info = adapter.get_info();
        // CubeCL counts devices of each type.
        let before = |kind| found.iter().filter(|(_, _, other)| *other == kind).count();
        let device = match info.device_type {
            DeviceType::DiscreteGpu => WgpuDevice::DiscreteGpu(before(DeviceType::DiscreteGpu)),
            DeviceType::IntegratedGpu => WgpuDevice::IntegratedGpu(before(DeviceType::IntegratedGpu)),
            DeviceType::VirtualGpu => WgpuDevice::VirtualGpu(before(DeviceType::VirtualGpu)),
            // Of these it knows the first.
            kind if before(kind) > 0 => continue,
            DeviceType::Cpu => WgpuDevice::Cpu,
            DeviceType::Other => WgpuDevice::DefaultDevice,
        };
        found.push((device, described(&adapter, &info), info.device_type));
    }
    let rank = |kind: DeviceType| match kind {
        DeviceType::Cpu if software_wanted() => 0,
        DeviceType::DiscreteGpu => 1,
        DeviceType::IntegratedGpu => 2,
        DeviceType::VirtualGpu => 3,
        DeviceType::Other => 4,
        DeviceType::Cpu => 5,
    };
    found.sort_by_key(|(_, _, kind)| rank(*kind));
    let numbered = found.into_iter().enumerate();
    let found: Vec<Found> =
        numbered.map(|(index, (device, info, _))| (device, DeviceInfo { index, ..info })).collect();
    known.push((api, found.clone()));
    found
}

/// Mesa's layer that reorders devices asks the display for its own, and complains on standard error where there is none; it is left out there.
fn quiet_layer() {
    let set = |name| std::env::var_os(name).is_some();
    if !["XDG_RUNTIME_DIR", "MESA_VK_DEVICE_SELECT", "NODEVICE_SELECT"].into_iter().any(set) {
        // SAFETY: this is before the first of the driver's threads, which read it; Rust's own readers wait for each other.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// What an adapter says of itself.
fn described(adapter: &Adapter, info: &AdapterInfo) -> DeviceInfo {
    let driver = [info.driver.as_str(), &info.driver_info].join(" ");
    let driver = driver.trim();
    let comma = if driver.is_empty() { "" } else { ", " };
    DeviceInfo {
        index: 0,
        name: info.name.clone(),
        memory: memory(adapter),
        api: format!("{:?}{comma}{driver}", info.backend),
        software: info.device_type == DeviceType::Cpu,
    }
}

/// The bytes of a device's own memory, of which only Vulkan tells.
#[cfg(not(target_os = "macos"))]
fn memory(adapter: &Adapter) -> Option<u64> {
    /// Of a heap that is the device's own (`VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`).
    const OWN: u32 = 1;
    // SAFETY: the adapter lives as long as the handle to it, which is only read.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = vulkan.shared_instance().raw_instance();
    // SAFETY: the physical device is one of the instance's.
    let memory = unsafe { instance.get_physical_device_memory_properties(vulkan.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    Some(heaps.filter(|heap| heap.flags.as_raw() & OWN != 0).map(|heap| heap.size).sum())
}

/// The bytes of a device's own memory: Metal's is the machine's.
#[cfg(target_os = "macos")]
fn memory(_adapter: &Adapter) -> Option<u64> {
    None
}

/// Starts the graphics API that `kind` names on the device that `info` tells of.
pub(crate) fn start(kind: BackendKind, info: &DeviceInfo) -> WgpuDevice {
    let (device, _) = found(api(kind)).swap_remove(info.index);
    let mut started = STARTED.lock().unwrap_or_else(|e| e.into_inner());
    if started.contains(&device) {
        return device;
    }
    kernel_cache::keep(&format!("{} {}", info.name, info.api));
    match api(kind) {
        Backend::Metal => init_setup::<graphics::Metal>(&device, Default::default()),
        _ => init_setup::<graphics::Vulkan>(&device, Default::default()),
    };
    started.push(device.clone());
    device
}
