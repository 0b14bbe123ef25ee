//! The driver and the compiler that do nothing, built where the tests run.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The folder that looks like a toolkit; none where there is no compiler of C, which is said.
pub fn toolkit() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_stub");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda_stub/build.sh");
        let said = Command::new("bash").arg(script).arg(&dir).output().ok()?;
        if !said.status.success() {
            eprintln!(
                "SKIPPED: the stub of CUDA needs a C compiler: {}",
                String::from_utf8_lossy(&said.stderr).trim()
            );
            return None;
        }
        Some(dir)
    };
    BUILT.get_or_init(build).as_deref()
}

/// The stub within this process.
pub struct Stub {
    driver: *mut libc::c_void,
}

impl Stub {
    /// Loads it in place of a driver; none where it cannot be built.
    ///
    /// Whoever asks for `libcuda.so` later is given what has been loaded under that name.
    pub fn load() -> Option<Self> {
        let dir = toolkit()?;
        let [driver, _] = ["libcuda.so", "libnvrtc.so"].map(|name| {
            let path = CString::new(dir.join("lib64").join(name).to_str().unwrap()).unwrap();
            // SAFETY: the path is a string that ends in 0, and the library has no code that runs when it is loaded.
            let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            assert!(!library.is_null(), "{name} was just built");
            library
        });
        // SAFETY: called before the test starts a thread that reads the environment.
        unsafe { std::env::set_var("CUDA_PATH", dir) };
        Some(Self { driver })
    }

    fn counter(&self, name: &str) -> *const AtomicU64 {
        let name = CString::new(name).unwrap();
        // SAFETY: the library stays loaded, and the name is a string that ends in 0.
        let address = unsafe { libc::dlsym(self.driver, name.as_ptr()) };
        assert!(!address.is_null(), "the stub has a counter {name:?}");
        address.cast()
    }

    fn read(&self, name: &str) -> u64 {
        // SAFETY: the counters are atomic numbers of 64 bits that live as long as the library.
        unsafe { &*self.counter(name) }.load(Ordering::SeqCst)
    }

    /// What the driver has been asked for since it was loaded.
    pub fn counts(&self) -> Counts {
        Counts {
            launches: self.read("cuda_stub_launches"),
            writes: self.read("cuda_stub_writes"),
            reads: self.read("cuda_stub_reads"),
        }
    }

    /// The bytes of each copy to the host after the first `before`.
    pub fn reads_since(&self, before: u64) -> Vec<u64> {
        let sizes = self.counter("cuda_stub_read_bytes");
        let size = |n: u64| {
            // SAFETY: the stub keeps the sizes of the last 4096 copies, the n-th at n % 4096.
            unsafe { &*sizes.add(n as usize % 4096) }.load(Ordering::SeqCst)
        };
        (before..self.counts().reads).map(size).collect()
    }
}

/// Requests to a driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Kernels.
    pub launches: u64,
    /// Copies to the device.
    pub writes: u64,
    /// Copies to the host.
    pub reads: u64,
}
