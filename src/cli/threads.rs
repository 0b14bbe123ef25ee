//! How many threads compute: as many as there are cores, or as `RAYON_NUM_THREADS` says within reason.

use std::thread::available_parallelism;

use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

/// Most threads on a machine with fewer cores.
const MOST: usize = 256;

/// Starts them for the whole program.
pub fn install() {
    let most = available_parallelism().map_or(MOST, |cores| cores.get().max(MOST));
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse::<usize>().ok());
    let asked = asked.unwrap_or(0); // as many as there are cores
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
}
