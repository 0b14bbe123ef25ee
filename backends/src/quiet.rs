//! Drivers that panic.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;

/// The reason, where none is given.
const UNKNOWN: &str = "the driver could not be started";

/// Runs `f` with panics of any thread kept off the terminal, and returns the first panic's message as the error: GPU runtimes
/// panic on a worker thread when there is no driver, and then again, without a reason, on the caller's.
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static FIRST: Mutex<Option<String>> = Mutex::new(None);
    // The hook is the process's: who starts a device waits for who does.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let lock = || FIRST.lock().unwrap_or_else(|e| e.into_inner());
    *lock() = None;
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or(UNKNOWN);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(UNKNOWN).to_string();
        FIRST.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(line);
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(hook);
    result.map_err(|_| lock().take().unwrap_or_else(|| UNKNOWN.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_driver_becomes_the_first_line_of_its_message() {
        assert_eq!(quietly(|| panic!("no libcuda\nbacktrace")).unwrap_err(), "no libcuda");
        assert_eq!(quietly(|| panic!("\n  CUDA not found.\n")).unwrap_err(), "CUDA not found.");
        assert_eq!(quietly(|| panic!(" \n")).unwrap_err(), UNKNOWN);
        assert_eq!(quietly(|| 3), Ok(3));
    }
}
