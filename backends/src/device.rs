//! Names of backends, and the one place where a name becomes a type.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::str::FromStr;
use std::sync::Mutex;

use burn::prelude::*;

use crate::device_failure::{check_device, watch};
use crate::{ModelBackend, settle};

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
    /// The backend's device does not start.
    #[error("backend `{kind}` has no usable device here: {reason}")]
    Missing {
        /// The backend.
        kind: BackendKind,
        /// What its driver said.
        reason: String,
    },
    /// A device failed while it worked.
    #[error("the device failed at its work: {reason} (nothing that it computed since is used)")]
    Failed {
        /// What its driver said and, where that is known, what to do.
        reason: String,
    },
}

/// What a graphics API found to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name, as the driver gives it.
    pub name: String,
    /// The graphics API.
    pub api: String,
    /// Whether it is a program on the CPU.
    pub software: bool,
    /// Whether such a program was asked for (`DIFFMAS_SOFTWARE_GPU`).
    pub wanted: bool,
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
    /// The backends compiled in, the default first.
    pub const ALL: &[BackendKind] = &[
        #[cfg(feature = "flex")]
        BackendKind::Flex,
        #[cfg(feature = "ndarray")]
        BackendKind::NdArray,
        #[cfg(feature = "cuda")]
        BackendKind::Cuda,
        #[cfg(feature = "metal")]
        BackendKind::Metal,
        #[cfg(feature = "vulkan")]
        BackendKind::Vulkan,
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu,
        #[cfg(feature = "rocm")]
        BackendKind::Rocm,
    ];

    /// The backend used when none is named: the first of [`BackendKind::ALL`].
    ///
    /// # Errors
    /// If none is compiled in.
    pub fn default_kind() -> Result<Self, DeviceError> {
        Self::ALL.first().copied().ok_or(DeviceError::Empty)
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

    /// What a started device runs on; none for backends whose name says it.
    pub fn adapter(self, index: Option<usize>) -> Option<Adapter> {
        #[cfg(feature = "wgpu")]
        if ["wgpu", "vulkan", "metal"].contains(&self.name()) {
            return crate::wgpu::adapter(index);
        }
        let _ = index;
        None
    }

    /// Runs `job` on this backend; `index` picks among several GPUs.
    ///
    /// # Errors
    /// If the device does not start, which is probed once, with the panic of a missing driver turned into a sentence; if it failed while the
    /// job ran.
    pub fn run<J: Job>(self, index: Option<usize>, job: J) -> Result<J::Output, DeviceError> {
        // CPU backends have one device.
        let _ = index;
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => self.start::<burn::backend::Flex, _>(Default::default, crate::flex::InPool(job)),
            #[cfg(feature = "ndarray")]
            Self::NdArray => self.start::<burn::backend::NdArray, J>(Default::default, job),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => self.start::<burn::backend::Wgpu, J>(|| crate::wgpu::device(self, index), job),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => self.start::<burn::backend::Wgpu, J>(|| crate::wgpu::device(self, index), job),
            #[cfg(feature = "metal")]
            Self::Metal => self.start::<burn::backend::Wgpu, J>(|| crate::wgpu::device(self, index), job),
            #[cfg(feature = "cuda")]
            Self::Cuda => self.start::<burn::backend::Cuda, J>(
                || burn::backend::cuda::CudaDevice { index: index.unwrap_or(0) },
                job,
            ),
            #[cfg(feature = "rocm")]
            Self::Rocm => self.start::<burn::backend::Rocm, J>(
                || burn::backend::rocm::RocmDevice { index: index.unwrap_or(0) },
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
        .map_err(|reason| DeviceError::Missing { kind: self, reason })?;
        if self.is_cpu() {
            return Ok(job.run::<B>(device));
        }
        watch();
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

/// Runs `f` with panics of any thread kept off the terminal, and returns the first panic's message as the error: GPU runtimes
/// panic on a worker thread when there is no driver, and then again, without a reason, on the caller's.
fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static FIRST: Mutex<Option<String>> = Mutex::new(None);
    // The hook is the process's: who starts a device waits for who does.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let lock = || FIRST.lock().unwrap_or_else(|e| e.into_inner());
    *lock() = None;
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("the driver could not be started");
        let line = text.lines().next().unwrap_or_default().trim().to_string();
        FIRST.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(line);
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(hook);
    result.map_err(|_| lock().take().unwrap_or_else(|| "the driver could not be started".into()))
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
    fn a_panic_of_a_driver_becomes_its_message() {
        assert_eq!(quietly(|| panic!("no libcuda\nbacktrace")).unwrap_err(), "no libcuda");
        assert_eq!(quietly(|| 3), Ok(3));
    }
}
