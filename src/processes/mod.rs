//! The processes of one job: several that were started together, by `mpirun` say, share the work and come to the same results.
//!
//! Whatever is computed by several is put together in the order in which one process computes it, so that results have the same bits
//! whatever the number of processes.

#[cfg(feature = "mpi")]
mod mpi;
mod one;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

#[cfg(feature = "mpi")]
pub use mpi::{Mpi, MpiEnvironment};
pub use one::OneProcess;

/// Lets the processes of a job talk. All of them call the same methods in the same order, from one thread at a time.
///
/// A process that fails ends the job: nobody answers those that wait for it.
pub trait Processes: Send + Sync {
    /// The number of this process, from 0; see [`is_first`](#method.is_first).
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn count(&self) -> usize;

    /// The number of this process among those on its machine, and how many these are.
    fn on_machine(&self) -> (usize, usize);

    /// Gives each process one of `parts`, in the order of their numbers; returns what each of them has for this one.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn deal(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>>;

    /// What each process gives, however long it is, in the order of their numbers.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;
}

impl dyn Processes + '_ {
    /// Whether this is the process that writes, and speaks for all.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Of pieces of work that are numbered from 0, those of this process; each takes turns.
    pub fn own<T>(&self, work: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        work.into_iter().skip(self.rank()).step_by(self.count())
    }

    /// What each process gives, in the order of their numbers.
    ///
    /// # Errors
    /// As [`Processes::gather`]; if it has no form in JSON.
    pub fn all<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        if self.count() == 1 {
            return Ok(vec![own]);
        }
        let parsed = |bytes: Vec<u8>| Ok(serde_json::from_slice(&bytes)?);
        self.gather(&serde_json::to_vec(&own)?)?.into_iter().map(parsed).collect()
    }

    /// What the first process gives.
    ///
    /// # Errors
    /// As [`all`](#method.all).
    pub fn of_first<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T> {
        let all = self.all(Some(own).filter(|_| self.is_first()))?;
        all.into_iter().flatten().next().ok_or_else(|| Error::invalid("the first process gave nothing"))
    }

    /// The numbers of each process, to the bit, in the order of their numbers.
    ///
    /// # Errors
    /// As [`Processes::gather`].
    pub fn numbers(&self, own: &[f64]) -> Result<Vec<Vec<f64>>> {
        let bytes: Vec<u8> = own.iter().flat_map(|x| x.to_le_bytes()).collect();
        let number = |bytes: &[u8; 8]| f64::from_le_bytes(*bytes);
        let numbers = |bytes: Vec<u8>| bytes.as_chunks().0.iter().map(number).collect();
        Ok(self.gather(&bytes)?.into_iter().map(numbers).collect())
    }

    /// Whether any process says so.
    ///
    /// # Errors
    /// As [`Processes::gather`].
    pub fn any(&self, own: bool) -> Result<bool> {
        Ok(self.gather(&[own.into()])?.iter().any(|said| said.contains(&1)))
    }

    /// Waits until all processes have come here.
    ///
    /// # Errors
    /// As [`Processes::gather`].
    pub fn meet(&self) -> Result<()> {
        self.gather(&[]).map(drop)
    }
}
