//! Where something was measured.

use std::thread::available_parallelism;

use diffmas_backends::DeviceInfo;
use serde::{Deserialize, Serialize};

/// A computer, as far as speed depends on it. What GPU it has stands at the columns that were measured there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The processor's name, as the system gives it.
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
            cpu: DeviceInfo::cpu().name,
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
