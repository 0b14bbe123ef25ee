//! Ctrl-C: the first asks the work to stop at the next good point, the second stops at once.

use std::sync::atomic::{AtomicBool, Ordering};

use super::verbosity;

static STOP: AtomicBool = AtomicBool::new(false);
static SILENT: AtomicBool = AtomicBool::new(false);

/// Starts listening.
pub fn install() {
    let result = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        if !SILENT.load(Ordering::SeqCst) {
            verbosity::note("\nstopping after the step in progress; press Ctrl-C again to stop at once");
        }
    });
    if let Err(e) = result {
        tracing::warn!("Ctrl-C will stop the program at once: {e}");
    }
}

/// Set once the user asked to stop.
pub fn stop() -> &'static AtomicBool {
    &STOP
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Says nothing at Ctrl-C from now on: in a chat, one sees the answer end.
pub fn silence() {
    SILENT.store(true, Ordering::SeqCst);
}

/// Whether the user asked to stop; the next answer starts afresh.
pub fn take() -> bool {
    STOP.swap(false, Ordering::SeqCst)
}
