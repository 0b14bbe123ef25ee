//! A device that fails at its work: an allocation that is too large, a card that is lost.
//!
//! CubeCL 0.10 serves a device on a thread of its own. Where that panics, Burn 0.21 hands out tensors all the same, and what is read of them
//! later is anything: a program would go on, and print a wrong answer.

use std::panic;
use std::sync::{Once, OnceLock};

use super::DeviceError;

/// How the names of threads begin on which CubeCL serves devices.
const SERVERS: &str = "DSD-";

/// What the first of them said.
static FIRST: OnceLock<String> = OnceLock::new();

/// From now on a panic of such a thread is kept for [`check_device`]. It is not printed, nor is what panics because of it.
pub(crate) fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with(SERVERS)) {
                let text = info.payload_as_str().unwrap_or("its driver gave no reason");
                let reason = text.rsplit("value: ").next().unwrap_or(text).lines().next().unwrap_or_default();
                FIRST.get_or_init(|| reason.trim().trim_matches('"').to_string());
            } else if FIRST.get().is_none() {
                before(info);
            }
        }));
    });
}

/// Whether everything that was computed so far can be trusted.
///
/// # Errors
/// [`DeviceError::Failed`] once a device of this process has failed, for good.
pub fn check_device() -> Result<(), DeviceError> {
    FIRST.get().map_or(Ok(()), |reason| Err(DeviceError::Failed { reason: reason.clone() }))
}
