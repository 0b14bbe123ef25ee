//! Processes under MPI.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use mpi::{Count, Threading};

use super::Processes;
use crate::error::{Error, Result};

/// MPI, as long as it lives. It is dropped where all processes come to an end together, which wait for each other there; who fails
/// [aborts](Mpi::abort).
pub struct MpiEnvironment {
    _universe: Universe,
}

/// All processes that were started together.
pub struct Mpi {
    world: Mutex<World>,
    rank: usize,
    count: usize,
    on_machine: (usize, usize),
}

/// The communicator of all processes.
struct World(SimpleCommunicator);

// SAFETY: MPI was asked for threads that call it one at a time, and the lock around this lets no two do so.
unsafe impl Send for World {}

impl Mpi {
    /// Starts MPI.
    ///
    /// # Errors
    /// If it was started before, or no other thread than this one may use it.
    pub fn start() -> Result<(MpiEnvironment, Self)> {
        let started = mpi::initialize_with_threading(Threading::Serialized);
        let (universe, threading) = started.ok_or_else(|| Error::invalid("MPI was started before"))?;
        if threading < Threading::Serialized {
            return Err(Error::invalid("this MPI library is built for programs of one thread"));
        }
        let world = universe.world();
        let (rank, count) = (number(world.rank()), number(world.size()));
        let near = world.split_shared(world.rank());
        let on_machine = (number(near.rank()), number(near.size()));
        let mpi = Self { world: Mutex::new(World(world)), rank, count, on_machine };
        Ok((MpiEnvironment { _universe: universe }, mpi))
    }

    /// Ends all processes with the exit code `code`.
    pub fn abort(&self, code: i32) -> ! {
        // Whoever holds the lock may wait for ever.
        let world = mpi::topology::SimpleCommunicator::world();
        world.abort(code)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Processes for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn on_machine(&self) -> (usize, usize) {
        self.on_machine
    }

    fn deal(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        let world = self.world();
        let lengths: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        let mut theirs = vec![0u64; self.count];
        world.0.all_to_all_into(&lengths[..], &mut theirs[..]);
        let (sent, received) = (Shares::new(&lengths)?, Shares::new(&theirs)?);
        let own = parts.concat();
        let mut all = vec![0f32; received.total];
        let own = Partition::new(&own[..], &sent.counts[..], &sent.starts[..]);
        let mut into = PartitionMut::new(&mut all[..], &received.counts[..], &received.starts[..]);
        world.0.all_to_all_varcount_into(&own, &mut into);
        Ok(received.of(&all))
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let world = self.world();
        let mut lengths = vec![0u64; self.count];
        world.0.all_gather_into(&(own.len() as u64), &mut lengths[..]);
        let shares = Shares::new(&lengths)?;
        if shares.total == 0 {
            return Ok(vec![Vec::new(); self.count]);
        }
        // The address of an empty list may be one that means something else to MPI: 1 is `MPI_IN_PLACE` in Open MPI.
        let own = if own.is_empty() { &NOTHING[..0] } else { own };
        let mut all = vec![0u8; shares.total];
        let mut into = PartitionMut::new(&mut all[..], &shares.counts[..], &shares.starts[..]);
        world.0.all_gather_varcount_into(own, &mut into);
        Ok(shares.of(&all))
    }
}

/// Has an address.
static NOTHING: [u8; 1] = [0];

/// What each process has of one list, one after another.
struct Shares {
    counts: Vec<Count>,
    starts: Vec<Count>,
    total: usize,
}

impl Shares {
    fn new(lengths: &[u64]) -> Result<Self> {
        let total: u64 = lengths.iter().sum();
        if Count::try_from(total).is_err() {
            return Err(Error::invalid(
                "the processes have more to tell each other than MPI counts (2³¹ numbers)",
            ));
        }
        let counts: Vec<Count> = lengths.iter().map(|&n| n as Count).collect();
        let starts = (0..counts.len()).map(|i| counts[..i].iter().sum()).collect();
        Ok(Self { counts, starts, total: total as usize })
    }

    fn of<T: Clone>(&self, all: &[T]) -> Vec<Vec<T>> {
        let part = |(&from, &n): (&Count, &Count)| all[from as usize..][..n as usize].to_vec();
        self.starts.iter().zip(&self.counts).map(part).collect()
    }
}

fn number(n: i32) -> usize {
    usize::try_from(n).expect("MPI counts from 0")
}
