//! Ctrl-C: the first asks the work to stop at the next good point, the second stops at once.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Starts listening.
pub fn install() {
    let result = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after the step in progress; press Ctrl-C again to stop at once");
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
