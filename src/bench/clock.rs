//! The time of a piece of work on a device.

use std::time::Instant;

use diffmas_backends::{ModelBackend, check_device};

use crate::error::{Error, Result};

/// One run of a work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Wall-clock seconds, up to when the device had done everything.
    pub seconds: f64,
    /// What it did: tokens read or written, steps.
    pub count: usize,
}

/// Waits until `device` has done everything that it was given.
///
/// # Errors
/// If it has failed.
pub(super) fn synced<B: ModelBackend>(device: &B::Device) -> Result<()> {
    let synced = B::sync(device);
    check_device()?;
    synced.map_err(|e| Error::invalid(format!("the device failed at its work: {e:?}")))
}

/// What `work` returns, and the seconds from when `device` was idle until it is again.
///
/// # Errors
/// What `work` returns; if the device has failed.
pub(super) fn clocked<B: ModelBackend, T>(
    device: &B::Device,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    synced::<B>(device)?;
    let clock = Instant::now();
    let out = work()?;
    synced::<B>(device)?;
    Ok((out, clock.elapsed().as_secs_f64()))
}
