//! NVIDIA GPUs: what is needed before CubeCL starts, which panics where something is missing. Here it is found, or named in a sentence.

mod shim;
mod toolkit;

use std::ffi::{CStr, OsStr, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::backend::cuda::CudaDevice;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use libloading::Library;

use crate::{DeviceInfo, kernel_cache};

/// Where a driver may lie that the loader does not look for: containers, WSL, NixOS.
const DRIVERS: [&str; 3] = ["/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/run/opengl-driver/lib"];

/// A version of CUDA, such as `(12, 8)`.
type Version = (c_int, c_int);

/// The GPUs that the driver finds.
///
/// # Errors
/// A sentence, if there is no driver, or it finds none.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>, String> {
    if !has_driver() {
        return Err("there is no NVIDIA driver (libcuda.so is not found); install the one for the GPU".into());
    }
    let failed = |e: DriverError| format!("the NVIDIA driver does not start: {}", told(e));
    result::init().map_err(failed)?;
    let count = result::device::get_count().map_err(failed)?;
    if count == 0 {
        let hidden = std::env::var("CUDA_VISIBLE_DEVICES");
        let hidden = hidden.map_or(String::new(), |value| format!(" (CUDA_VISIBLE_DEVICES is `{value}`)"));
        return Err(format!("the NVIDIA driver finds no GPU{hidden}"));
    }
    let driver = driver_version().map_err(failed)?;
    (0..count).map(|index| device(index, driver).map_err(failed)).collect()
}

/// Whether the loader finds the driver, by itself or once it has been loaded from its place.
fn has_driver() -> bool {
    // SAFETY: what these libraries do when they are loaded is the driver's.
    let load = |dir: &str| unsafe { Library::new(Path::new(dir).join("libcuda.so.1")) };
    let found = || unsafe { sys::is_culib_present() };
    found() || DRIVERS.iter().any(|dir| load(dir).map(std::mem::forget).is_ok() && found())
}

fn device(index: c_int, (major, minor): Version) -> Result<DeviceInfo, DriverError> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(index)?;
    // SAFETY: the device is one of the driver's.
    let (memory, capability) = unsafe {
        let attribute = |which| result::device::get_attribute(device, which);
        (result::device::total_mem(device)?, [attribute(MAJOR)?, attribute(MINOR)?])
    };
    Ok(DeviceInfo {
        index: index as usize,
        name: result::device::get_name(device)?,
        memory: Some(memory as u64),
        api: format!("CUDA {major}.{minor}, compute capability {}.{}", capability[0], capability[1]),
        software: false,
    })
}

fn driver_version() -> Result<Version, DriverError> {
    let mut version = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version).result()? };
    Ok((version / 1000, version % 1000 / 10))
}

/// What the driver says of an error.
fn told(e: DriverError) -> String {
    let text =
        |text: Result<&CStr, DriverError>| text.map_or("?".into(), |t| t.to_string_lossy().into_owned());
    format!("{} ({})", text(e.error_string()), text(e.error_name()))
}

/// The device that `info` tells of, which CubeCL then starts; see [`compiler`].
pub(crate) fn start(info: &DeviceInfo) -> CudaDevice {
    let compiler = compiler().map_or(String::new(), |(major, minor)| format!("NVRTC {major}.{minor}"));
    kernel_cache::keep(&format!("{} {} {compiler}", info.name, info.api));
    CudaDevice { index: info.index }
}

/// Where the headers are that lack those for tensor cores.
static WITHOUT_TENSOR_CORES: OnceLock<PathBuf> = OnceLock::new();

/// Whether kernels for tensor cores can be compiled.
///
/// # Errors
/// What is missing, as the end of a sentence.
pub(crate) fn tensor_cores() -> Result<(), String> {
    match WITHOUT_TENSOR_CORES.get() {
        Some(root) => Err(format!(
            "multiplies such numbers on tensor cores, whose header include/crt/mma.h is not in {}; install the CUDA toolkit, or set CUDA_PATH to its \
             folder",
            root.display()
        )),
        None => Ok(()),
    }
}

/// Finds the compiler and the headers of CUDA, once, and lets CubeCL find them; returns the compiler's version.
///
/// # Errors
/// A sentence that names what is missing.
pub(crate) fn compiler() -> Result<Version, String> {
    static FOUND: OnceLock<Result<Version, String>> = OnceLock::new();
    FOUND.get_or_init(|| take(&toolkit::find(&|name| std::env::var_os(name), Path::new("/")))).clone()
}

fn take(found: &toolkit::Found) -> Result<Version, String> {
    let driver = driver_version().map_err(told)?;
    let version = take_compiler(found, driver)?;
    let Some((root, tensor_cores)) = &found.headers else {
        return Err(format!(
            "CUDA's headers are not found (include/cuda_runtime.h); install the CUDA toolkit, or `pip install {}`, and set CUDA_PATH to its folder \
             if that is an unusual one",
            package("nvidia-cuda-runtime", driver)
        ));
    };
    let lack = if *tensor_cores { "" } else { ", without those for tensor cores" };
    tracing::debug!("CUDA's headers are those of {}{lack}", root.display());
    if !tensor_cores {
        WITHOUT_TENSOR_CORES.get_or_init(|| root.clone());
    }
    // CubeCL knows no other way.
    if std::env::var_os("CUDA_PATH").as_deref() != Some(root.as_os_str()) {
        // SAFETY: this runs once, before CubeCL's threads, which read it; Rust's own readers wait for each other.
        unsafe { std::env::set_var("CUDA_PATH", root) };
    }
    Ok(version)
}

/// Takes the first compiler whose code the driver reads: those that the user names, what the loader finds by itself, others.
fn take_compiler(found: &toolkit::Found, driver: Version) -> Result<Version, String> {
    let load = |path: &PathBuf| Some((Some(path.clone()), open(path.as_os_str())?));
    let by_loader = || {
        let names = cudarc::get_lib_name_candidates("nvrtc");
        names.into_iter().find_map(|name| Some((None, open(name.as_ref())?)))
    };
    let all = found.named.iter().filter_map(load).chain(std::iter::once_with(by_loader).flatten());
    let mut newer = None;
    for compiler in all.chain(found.others.iter().filter_map(load)) {
        if compiler.1.1 <= driver {
            return use_compiler(compiler);
        }
        newer.get_or_insert(compiler);
    }
    let Some(compiler) = newer else {
        return Err(format!(
            "CUDA's compiler NVRTC is not found (libnvrtc.so); install the CUDA toolkit, or `pip install {}`, and set CUDA_PATH to its folder if that \
             is an unusual one",
            package("nvidia-cuda-nvrtc", driver)
        ));
    };
    let ((major, minor), (of_driver, its_minor)) = (compiler.1.1, driver);
    tracing::warn!(
        "NVRTC {major}.{minor} is newer than the driver, which is for CUDA {of_driver}.{its_minor}: if it refuses kernels, install an older NVRTC or a newer driver"
    );
    use_compiler(compiler)
}

/// NVRTC, and which it is.
type Compiler = (Library, Version);

/// Loads the library, if it is NVRTC.
fn open(name: &OsStr) -> Option<Compiler> {
    // SAFETY: a library that goes by the name of NVRTC, with the signature of its function.
    unsafe {
        let library = Library::new(name).ok()?;
        let version =
            library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion").ok()?;
        let (mut major, mut minor) = (0, 0);
        let status = version(&mut major, &mut minor);
        (status == 0).then_some((library, (major, minor)))
    }
}

/// Lets cudarc find a compiler, which it does by itself where the loader does.
fn use_compiler((path, (library, version)): (Option<PathBuf>, Compiler)) -> Result<Version, String> {
    let place = path.as_deref().map_or("found by the loader".into(), Path::to_string_lossy);
    tracing::debug!("NVRTC {}.{}: {place}", version.0, version.1);
    if let Some(path) = &path {
        introduce(path).map_err(|e| {
            let folder = path.parent().unwrap_or(path).display();
            format!("{} cannot be loaded: {e}; set LD_LIBRARY_PATH to {folder}", path.display())
        })?;
    }
    // It stays for as long as the process lives.
    std::mem::forget(library);
    Ok(version)
}

/// Makes the library at `path` known to the loader under the name that cudarc asks for first.
fn introduce(path: &Path) -> Result<(), String> {
    let machine = shim::MACHINE.ok_or("CUDA does not run on this kind of machine")?;
    let path = path.to_str().ok_or("its path is not UTF-8")?;
    let names = cudarc::get_lib_name_candidates("nvrtc");
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = dir.path().join("nvrtc");
    std::fs::write(&file, shim::library(machine, &names[0], path)).map_err(|e| e.to_string())?;
    // SAFETY: the library has no code of its own, and the one that it needs is loaded already.
    let shim = unsafe { Library::new(&file) }.map_err(|e| e.to_string())?;
    std::mem::forget(shim);
    Ok(())
}

/// The newest package of pip that a driver of this version goes with.
fn package(name: &str, (major, minor): Version) -> String {
    let suffix = if major < 13 { format!("-cu{major}") } else { String::new() };
    format!("'{name}{suffix}=={major}.{minor}.*'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_those_for_the_driver() {
        assert_eq!(package("nvidia-cuda-nvrtc", (12, 8)), "'nvidia-cuda-nvrtc-cu12==12.8.*'");
        assert_eq!(package("nvidia-cuda-nvrtc", (13, 0)), "'nvidia-cuda-nvrtc==13.0.*'");
    }

    #[test]
    fn a_machine_without_a_driver_says_so_in_a_sentence_without_lists() {
        if let Err(sentence) = devices() {
            assert!(sentence.contains("driver") && !sentence.contains('['), "{sentence}");
        }
    }
}
