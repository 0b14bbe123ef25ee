//! What is told of a device before it is started.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// A device that a backend can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number among those of the backend, from 0.
    pub index: usize,
    /// Its name, as the driver gives it.
    pub name: String,
    /// Its memory in bytes, where that is known.
    pub memory: Option<u64>,
    /// What it is driven by: API, driver, their versions.
    pub api: String,
    /// Whether it stands for a GPU and is a program on the CPU.
    pub software: bool,
}

impl DeviceInfo {
    /// What an AMD GPU is before it is started.
    #[cfg(feature = "rocm")]
    pub(crate) fn amd() -> Self {
        let (name, api) = ("AMD GPU".into(), "HIP".into());
        Self { index: 0, name, memory: None, api, software: false }
    }

    /// The CPU, whose memory is the process's.
    pub fn cpu() -> Self {
        // Processors are listed by the hundred; the first tells.
        let line = |file: &str, key: &str| {
            let lines = BufReader::new(File::open(file).ok()?).lines().map_while(Result::ok);
            let value = |line: String| Some(line.strip_prefix(key)?.split_once(':')?.1.trim().to_string());
            { lines }.find_map(value)
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let kibibytes = memory.and_then(|memory| memory.strip_suffix("kB")?.trim().parse::<u64>().ok());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            index: 0,
            name: line("/proc/cpuinfo", "model name").unwrap_or_else(|| "CPU".into()),
            memory: kibibytes.map(|kibibytes| kibibytes << 10),
            api: format!("{threads} threads, {}", std::env::consts::ARCH),
            software: false,
        }
    }
}

/// Whether a program on the CPU that stands for a GPU is asked for beside a GPU (`DIFFMAS_SOFTWARE_GPU`).
pub fn software_wanted() -> bool {
    std::env::var_os("DIFFMAS_SOFTWARE_GPU").is_some()
}
