//! Where something was measured.

use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

/// A computer, as far as speed depends on it. What GPU it has stands at the columns that were measured there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The processor's name, as the system gives it; else its architecture.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Threads that compute.
    pub threads: usize,
    /// The operating system.
    pub os: String,
}

impl Machine {
    /// The computer that this runs on.
    pub fn here() -> Self {
        Self {
            cpu: cpu_name().unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            os: std::env::consts::OS.into(),
        }
    }

    /// It in a few words.
    pub fn describe(&self) -> String {
        let Self { cpu, cores, threads, os } = self;
        format!("{cpu}, {cores} cores, {threads} threads, {os}")
    }
}

/// The processor's name on Linux.
fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map(|(_, name)| name.trim().to_string())
}
