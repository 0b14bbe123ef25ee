//! The time of a piece of work on a device.

use std::time::Instant;

use diffmas_backends::{ModelBackend, settle};

/// One run of a work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Wall-clock seconds, up to when the device had done everything.
    pub seconds: f64,
    /// What it did: tokens read or written, steps.
    pub count: usize,
}

/// What `work` returns, and the seconds from when `device` was idle until it is again.
///
/// # Panics
/// If the device has failed; see [`settle`].
pub(super) fn clocked<B: ModelBackend, T>(device: &B::Device, work: impl FnOnce() -> T) -> (T, f64) {
    settle::<B>(device);
    let clock = Instant::now();
    let out = work();
    settle::<B>(device);
    (out, clock.elapsed().as_secs_f64())
}
