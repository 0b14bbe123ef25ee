//! The processes that `mpirun`, `srun` and the like started together: the first speaks and writes, all compute.

use std::sync::{Arc, OnceLock};

use diffmas::Result;
use diffmas::processes::{OneProcess, Processes};

/// What launchers tell a process of its number.
#[cfg(feature = "mpi")]
const RANKS: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"];

static PROCESSES: OnceLock<Arc<dyn Processes>> = OnceLock::new();

/// As long as it lives, processes can talk; it is dropped where all of them have done their work.
pub struct Job {
    #[cfg(feature = "mpi")]
    _mpi: Option<diffmas::processes::MpiEnvironment>,
}

#[cfg(feature = "mpi")]
mod mpi {
    use diffmas::processes::{Mpi, MpiEnvironment};

    use super::*;

    static MPI: OnceLock<Arc<Mpi>> = OnceLock::new();

    /// Joins the others, where a launcher started this process.
    pub fn join(shared: bool) -> Result<Option<MpiEnvironment>> {
        // Without a launcher, MPI would start one.
        if !RANKS.iter().any(|name| std::env::var_os(name).is_some()) {
            return Ok(None);
        }
        let (environment, mpi) = Mpi::start()?;
        let mpi = MPI.get_or_init(|| Arc::new(mpi)).clone();
        // Work that is not shared is that of one process, which meets nobody.
        if shared || mpi.rank() > 0 {
            PROCESSES.get_or_init(|| mpi);
        }
        Ok(Some(environment))
    }

    /// Ends the other processes, and this one, where there are others.
    pub fn abort(code: u8) {
        if let Some(mpi) = MPI.get().filter(|mpi| mpi.count() > 1) {
            mpi.abort(code.into());
        }
    }
}

/// Joins the other processes of the job, if a launcher started several; they share the work, or the first does it.
///
/// # Errors
/// If they cannot be joined.
pub fn join(shared: bool) -> Result<Job> {
    #[cfg(not(feature = "mpi"))]
    let _ = shared;
    Ok(Job {
        #[cfg(feature = "mpi")]
        _mpi: mpi::join(shared)?,
    })
}

/// Says that this is one of several processes that do not know of each other, where that is so.
pub fn tell_alone() {
    let several = |name: &&&str| std::env::var(name).is_ok_and(|n| n.parse().is_ok_and(|n: usize| n > 1));
    if cfg!(feature = "mpi") {
        return;
    }
    if let Some(name) = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"].iter().find(several) {
        tracing::warn!(
            "{name} says that this is one of several processes, but this program was built without the feature `mpi`: each works alone"
        );
    }
}

/// The processes of the job.
pub fn processes() -> Arc<dyn Processes> {
    PROCESSES.get_or_init(|| Arc::new(OneProcess)).clone()
}

/// Whether this process writes and speaks for all.
pub fn is_first() -> bool {
    processes().is_first()
}

/// Whether there are others.
pub fn is_shared() -> bool {
    processes().count() > 1
}

/// Lets the first process do `work` before all others: what it fetches they find.
///
/// # Errors
/// Those of `work`.
pub fn in_turn<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let processes = processes();
    if !processes.is_first() {
        processes.meet()?;
        return work();
    }
    let done = work()?;
    processes.meet()?;
    Ok(done)
}

/// Lets the first process say what is wrong for all, and end them.
pub fn let_first_speak() {
    if !is_first() {
        std::thread::sleep(std::time::Duration::from_secs(3));
    }
}

/// Ends the whole job with this exit code, where there are other processes; else returns.
pub fn abort(code: u8) {
    #[cfg(feature = "mpi")]
    mpi::abort(code);
    #[cfg(not(feature = "mpi"))]
    let _ = code;
}
