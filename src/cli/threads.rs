//! How many threads compute: as many as there are cores for this process, or as `RAYON_NUM_THREADS` says within reason.

use std::thread::available_parallelism;

use diffmas::Result;
use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

use super::{job, verbosity};

/// Most threads on a machine with fewer cores.
const MOST: usize = 256;

/// Starts them for the whole program.
///
/// # Errors
/// If the other processes of the job cannot be reached.
pub fn install() -> Result<()> {
    let most = available_parallelism().map_or(MOST, |cores| cores.get().max(MOST));
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse::<usize>().ok());
    // 0 is as many as there are cores.
    let asked = asked.unwrap_or(if job::is_shared() { own_cores()? } else { 0 });
    if job::is_shared() {
        let threads = asked.min(most);
        verbosity::note(format_args!(
            "{} processes of {threads} threads (as the first has)",
            job::processes().count()
        ));
    }
    if asked > most {
        tracing::warn!("RAYON_NUM_THREADS = {asked} is beyond all use here; {most} threads compute");
    }
    let failed = |e: ThreadPoolBuildError| {
        tracing::warn!("no threads are to be had, so that one computes: {e}");
        ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()
    };
    if let Err(e) = ThreadPoolBuilder::new().num_threads(asked.min(most)).build_global().or_else(failed) {
        tracing::warn!("{e}");
    }
    Ok(())
}

/// The cores that fall to this process of several: those that it may run on, shared with the processes on its machine that may run on the same.
#[cfg(target_os = "linux")]
fn own_cores() -> Result<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    let cores = |set: rustix::thread::CpuSet| {
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&i| set.is_set(i)).collect()
    };
    let cores: Vec<usize> = set.map_or_else(|_| vec![0], cores);
    let own = (rustix::system::uname().nodename().to_string_lossy().into_owned(), cores);
    let alike = job::processes().all(own.clone())?.iter().filter(|other| **other == own).count();
    Ok((own.1.len() / alike).max(1))
}

/// The cores that fall to this process of several.
#[cfg(not(target_os = "linux"))]
fn own_cores() -> Result<usize> {
    let (_, processes) = job::processes().on_machine();
    Ok((available_parallelism().map_or(1, |cores| cores.get()) / processes).max(1))
}
