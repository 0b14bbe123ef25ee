//! Names of backends, and the one place where a name becomes a type.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::str::FromStr;
use std::sync::Mutex;

use burn::prelude::*;

use crate::device_failure::{check_device, watch};
use crate::quiet::quietly;
use crate::{DeviceInfo, DeviceMemory, ModelBackend, free_host_memory, settle};

/// A backend that can be asked for with `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// Burn's fast CPU backend, with kernels of our own for frozen weights and attention.
    #[cfg(feature = "flex")]
    Flex,
    /// Burn's plain CPU backend.
    #[cfg(feature = "ndarray")]
    NdArray,
    /// Any GPU, through the graphics API of the system.
    #[cfg(feature = "wgpu")]
    Wgpu,
    /// Any GPU, through Vulkan.
    #[cfg(feature = "vulkan")]
    Vulkan,
    /// Apple GPUs, through Metal.
    #[cfg(feature = "metal")]
    Metal,
    /// NVIDIA GPUs.
    #[cfg(feature = "cuda")]
    Cuda,
    /// AMD GPUs.
    #[cfg(feature = "rocm")]
    Rocm,
}

/// Why a backend cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name is not that of a backend in this binary.
    #[error(
        "backend `{name}` is not in this binary (it has: {available}); build with `--features {name}` if it is a backend's name"
    )]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those compiled in.
        available: String,
    },
    /// No backend was compiled in.
    #[error("this binary has no backend; build with `--features flex`")]
    Empty,
    /// The backend has no device of this number.
    #[error("backend `{kind}` has no device {index}; it has {available}")]
    NoSuch {
        /// The backend.
        kind: BackendKind,
        /// The number asked for.
        index: usize,
        /// The devices that it has.
        available: String,
    },
    /// The backend's device does not start.
    #[error("backend `{kind}` has no usable device here: {reason}")]
    Missing {
        /// The backend.
        kind: BackendKind,
        /// What its driver said.
        reason: String,
    },
    /// No backend was named, and none is to be chosen.
    #[error("there is nothing to compute on: {reasons}; --backend names one all the same")]
    None {
        /// Why not, for each of them.
        reasons: String,
    },
    /// A device failed while it worked.
    #[error("the device failed at its work: {reason} (nothing that it computed since is used)")]
    Failed {
        /// What its driver said and, where that is known, what to do.
        reason: String,
    },
}

/// Work that runs on any backend; [`BackendKind::run`] gives it one.
pub trait Job: Send {
    /// What the work returns.
    type Output: Send;

    /// Does the work on `device` of backend `B`.
    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output;
}

/// What is done once for every backend type; [`for_each_backend`] gives it them one after another.
pub trait BackendVisitor {
    /// Called with the backend type `B`.
    fn visit<B: ModelBackend>(&mut self);
}

/// Shows `visitor` every backend type that is compiled in, each once: several names may run on one type.
pub fn for_each_backend(visitor: &mut impl BackendVisitor) {
    #[cfg(feature = "flex")]
    visitor.visit::<burn::backend::Flex>();
    #[cfg(feature = "ndarray")]
    visitor.visit::<burn::backend::NdArray>();
    #[cfg(feature = "wgpu")]
    visitor.visit::<burn::backend::Wgpu>();
    #[cfg(feature = "cuda")]
    visitor.visit::<burn::backend::Cuda>();
    #[cfg(feature = "rocm")]
    visitor.visit::<burn::backend::Rocm>();
    // A binary without backends has none to show.
    let _ = visitor;
}

impl BackendKind {
    /// The backends compiled in, in the order in which one is chosen where none is named.
    pub const ALL: &[BackendKind] = &[
        #[cfg(feature = "cuda")]
        BackendKind::Cuda,
        #[cfg(feature = "metal")]
        BackendKind::Metal,
        #[cfg(feature = "vulkan")]
        BackendKind::Vulkan,
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu,
        #[cfg(feature = "flex")]
        BackendKind::Flex,
        #[cfg(feature = "ndarray")]
        BackendKind::NdArray,
        #[cfg(feature = "rocm")]
        BackendKind::Rocm,
    ];

    /// Every backend by name, each of which is the Cargo feature that adds it.
    pub const NAMES: [&str; 7] = ["cuda", "metal", "vulkan", "wgpu", "flex", "ndarray", "rocm"];

    /// The backend used when neither it nor a device is named; see [`BackendKind::automatic`].
    ///
    /// # Errors
    /// If none has a usable device.
    pub fn default_kind() -> Result<Self, DeviceError> {
        Self::automatic(None)
    }

    /// The first of [`BackendKind::ALL`] that has a usable device, one of number `index` where that is given. A program on the CPU that stands for
    /// a GPU is never chosen. What was chosen once stays.
    ///
    /// # Errors
    /// If none has.
    pub fn automatic(index: Option<usize>) -> Result<Self, DeviceError> {
        static CHOSEN: Mutex<Vec<(Option<usize>, BackendKind)>> = Mutex::new(Vec::new());
        let mut chosen = CHOSEN.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, kind)) = chosen.iter().find(|(known, _)| *known == index) {
            return Ok(*kind);
        }
        let mut refused = Vec::new();
        for kind in Self::ALL.iter().copied() {
            match kind.usable(index) {
                Ok(()) => {
                    chosen.push((index, kind));
                    return Ok(kind);
                }
                Err(e) => refused.push(e),
            }
        }
        Err(match refused.len() {
            0 => DeviceError::Empty,
            1 => refused.remove(0),
            _ => {
                let reasons: Vec<String> = refused.iter().map(ToString::to_string).collect();
                DeviceError::None { reasons: reasons.join("; ") }
            }
        })
    }

    /// Whether the backend is to be chosen without its name; else, why not.
    fn usable(self, index: Option<usize>) -> Result<(), DeviceError> {
        let device = self.device(index)?;
        if device.software {
            return Err(self.missing(format!("{} is a program on the CPU", device.name)));
        }
        // There is a GPU, and the user should know why it is idle.
        self.prepare().inspect_err(|e| tracing::warn!("{e}"))
    }

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => "flex",
            #[cfg(feature = "ndarray")]
            Self::NdArray => "ndarray",
            #[cfg(feature = "wgpu")]
            Self::Wgpu => "wgpu",
            #[cfg(feature = "vulkan")]
            Self::Vulkan => "vulkan",
            #[cfg(feature = "metal")]
            Self::Metal => "metal",
            #[cfg(feature = "cuda")]
            Self::Cuda => "cuda",
            #[cfg(feature = "rocm")]
            Self::Rocm => "rocm",
        }
    }

    /// Whether the backend computes on the CPU, so that its memory is the process's.
    pub fn is_cpu(self) -> bool {
        matches!(self.name(), "flex" | "ndarray")
    }

    /// The devices that the backend can run on, by number, the first of which is the default. None of them is started.
    ///
    /// # Errors
    /// If there is none.
    pub fn devices(self) -> Result<Vec<DeviceInfo>, DeviceError> {
        let found = match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => quietly(crate::cuda::devices).flatten(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => quietly(|| crate::wgpu::devices(self)).flatten(),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => quietly(|| crate::wgpu::devices(self)).flatten(),
            #[cfg(feature = "metal")]
            Self::Metal => quietly(|| crate::wgpu::devices(self)).flatten(),
            #[cfg(feature = "rocm")]
            Self::Rocm => Ok(vec![DeviceInfo::amd()]),
            #[cfg(feature = "flex")]
            Self::Flex => Ok(vec![DeviceInfo::cpu()]),
            #[cfg(feature = "ndarray")]
            Self::NdArray => Ok(vec![DeviceInfo::cpu()]),
        };
        found.map_err(|reason| self.missing(reason))
    }

    /// The device of number `index`, or the default one.
    ///
    /// # Errors
    /// If there is none, or none of this number.
    pub fn device(self, index: Option<usize>) -> Result<DeviceInfo, DeviceError> {
        let index = index.unwrap_or(0);
        let mut devices = self.devices()?;
        #[cfg(feature = "rocm")]
        if self == Self::Rocm {
            // Its driver alone counts its devices, when one is started.
            return Ok(DeviceInfo { index, ..devices.swap_remove(0) });
        }
        if index < devices.len() {
            return Ok(devices.swap_remove(index));
        }
        let available: Vec<String> = devices.iter().map(|d| format!("{} ({})", d.index, d.name)).collect();
        Err(DeviceError::NoSuch { kind: self, index, available: available.join(", ") })
    }

    /// The memory that the device of number `index` has left, in bytes, where that is known; `taken` is what this process has of it. A device
    /// without memory of its own takes the machine's.
    pub fn free_memory(self, index: Option<usize>, taken: Option<DeviceMemory>) -> Option<u64> {
        let info = self.device(index).ok()?;
        if self.is_cpu() || info.software || self.name() == "metal" {
            return free_host_memory();
        }
        Some(info.memory?.saturating_sub(taken.map_or(0, |memory| memory.reserved)))
    }

    /// Finds what the backend needs beside its device.
    fn prepare(self) -> Result<(), DeviceError> {
        #[cfg(feature = "cuda")]
        if self == Self::Cuda {
            return quietly(crate::cuda::compiler).flatten().map(drop).map_err(|reason| self.missing(reason));
        }
        #[cfg(feature = "flex")]
        if self == Self::Flex {
            return crate::flex::check_instructions().map_err(|reason| self.missing(reason));
        }
        Ok(())
    }

    fn missing(self, reason: String) -> DeviceError {
        DeviceError::Missing { kind: self, reason }
    }

    /// Runs `job` on this backend; `index` picks among several devices, the first where it is absent.
    ///
    /// # Errors
    /// If there is no such device; if it does not start, which is probed once, with the panic of a driver turned into a sentence; if it
    /// failed while the job ran.
    pub fn run<J: Job>(self, index: Option<usize>, job: J) -> Result<J::Output, DeviceError> {
        let info = self.device(index)?;
        self.prepare()?;
        // Of a CPU there is nothing to choose.
        let _ = &info;
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => self.start::<burn::backend::Flex, _>(Default::default, crate::flex::InPool(job)),
            #[cfg(feature = "ndarray")]
            Self::NdArray => self.start::<burn::backend::NdArray, J>(Default::default, job),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => self.start::<burn::backend::Wgpu, J>(|| crate::wgpu::start(self, &info), job),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => self.start::<burn::backend::Wgpu, J>(|| crate::wgpu::start(self, &info), job),
            #[cfg(feature = "metal")]
            Self::Metal => self.start::<burn::backend::Wgpu, J>(|| crate::wgpu::start(self, &info), job),
            #[cfg(feature = "cuda")]
            Self::Cuda => self.start::<burn::backend::Cuda, J>(|| crate::cuda::start(&info), job),
            #[cfg(feature = "rocm")]
            Self::Rocm => self.start::<burn::backend::Rocm, J>(
                || burn::backend::rocm::RocmDevice { index: info.index },
                job,
            ),
        }
    }

    /// Starts the device behind a probe, then the job.
    fn start<B: ModelBackend, J: Job>(
        self,
        device: impl FnOnce() -> B::Device,
        job: J,
    ) -> Result<J::Output, DeviceError> {
        let device = quietly(|| {
            let device = device();
            let two = Tensor::<B, 1>::ones([2], &device).sum().into_data();
            assert_eq!(two.iter::<f64>().next(), Some(2.0), "the device computes 1 + 1 wrongly");
            device
        })
        .map_err(|reason| self.missing(reason))?;
        watch();
        if self.is_cpu() {
            return Ok(job.run::<B>(device));
        }
        // Whatever panics once the device has failed does so because of that.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            let output = job.run::<B>(device.clone());
            settle::<B>(&device);
            output
        }));
        check_device()?;
        outcome.or_else(|panic| panic::resume_unwind(panic))
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        Self::ALL.iter().copied().find(|k| k.name() == name).ok_or_else(|| DeviceError::Unknown {
            name: name.to_string(),
            available: Self::ALL.iter().map(|k| k.name()).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_backend_is_one_sentence_that_lists_the_known_ones() {
        let e = "abacus".parse::<BackendKind>().unwrap_err().to_string();
        assert!(e.contains("abacus") && BackendKind::ALL.iter().all(|k| e.contains(k.name())), "{e}");
    }

    #[test]
    fn every_backend_runs_on_a_type_that_is_visited_once() {
        struct Types(Vec<std::any::TypeId>);
        impl BackendVisitor for Types {
            fn visit<B: ModelBackend>(&mut self) {
                self.0.push(std::any::TypeId::of::<B>());
            }
        }
        struct Own;
        impl Job for Own {
            type Output = std::any::TypeId;
            fn run<B: ModelBackend>(self, _device: B::Device) -> Self::Output {
                std::any::TypeId::of::<B>()
            }
        }
        let mut types = Types(Vec::new());
        for_each_backend(&mut types);
        for kind in BackendKind::ALL.iter().filter(|kind| kind.is_cpu()) {
            let own = kind.run(None, Own).unwrap();
            assert_eq!(types.0.iter().filter(|&&visited| visited == own).count(), 1, "{kind}");
        }
    }

    #[test]
    fn no_program_on_the_cpu_is_chosen_and_a_device_that_nobody_has_is_told() {
        let kind = BackendKind::automatic(None).unwrap();
        assert!(!kind.device(None).unwrap().software, "{kind}");
        let e = BackendKind::automatic(Some(99)).unwrap_err().to_string();
        assert!(BackendKind::ALL.iter().all(|kind| e.contains(kind.name())), "{e}");
        let e = kind.run(Some(99), Nothing).unwrap_err().to_string();
        assert!(e.contains("no device 99; it has 0 ("), "{e}");
    }

    struct Nothing;

    impl Job for Nothing {
        type Output = ();
        fn run<B: ModelBackend>(self, _device: B::Device) {}
    }
}
