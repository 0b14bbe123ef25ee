//! A device that fails at its work: an allocation that is too large, a kernel that does not compile, a card that is lost.
//!
//! CubeCL 0.10 serves a device on a thread of its own. Where that panics, Burn 0.21 hands out tensors all the same; where a launch fails, an
//! error lies in the queue until somebody asks. What is read of such tensors later is anything: a program would go on, and print a wrong
//! answer. So what a panic or the queue says is kept here, and nothing that was computed comes to the host afterwards ([`crate::host_data`]).

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Once, OnceLock};

use super::{DeviceError, human_bytes};

/// How the names of threads begin on which CubeCL serves devices.
const SERVERS: &str = "DSD-";

/// What the first failure said.
static FIRST: OnceLock<String> = OnceLock::new();

thread_local! {
    /// Whether this thread waits for a device: it panics only because that has failed.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic because of a device is kept for [`check_device`]. It is not printed, nor is what panics because of it.
pub(crate) fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let serves = std::thread::current().name().is_some_and(|name| name.starts_with(SERVERS));
            if serves || WAITS.get() {
                keep(info.payload_as_str().unwrap_or_default());
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

/// What `wait` brings from a device that has not failed, up to now.
///
/// # Panics
/// Without a word where it has, with the sentence of [`DeviceError::Failed`].
pub(crate) fn waited<T, E: ToString>(wait: impl FnOnce() -> Result<T, E>) -> T {
    let outer = WAITS.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(wait));
    WAITS.set(outer);
    let came = match outcome {
        Ok(Ok(came)) => Some(came),
        Ok(Err(error)) => {
            keep(&error.to_string());
            None
        }
        // The hook has kept it, where there is one.
        Err(panic) => {
            keep(panic.downcast_ref::<String>().map_or("", String::as_str));
            None
        }
    };
    match (check_device(), came) {
        (Ok(()), Some(came)) => came,
        (failed, _) => {
            let failed = failed.expect_err("what brings nothing is kept");
            panic::resume_unwind(Box::new(failed.to_string()))
        }
    }
}

/// Keeps the first failure that is told.
fn keep(text: &str) {
    FIRST.get_or_init(|| sentence(text));
}

/// What to do about a device that has too little memory.
const LESS: &str = "less is needed with a smaller batch_size, fewer latent_steps, shorter prompts and answers, or weights in a narrower dtype";

/// What a panic or an error says, in one line: without the names of types, backtraces and sources of kernels around it.
fn sentence(text: &str) -> String {
    if let Some(size) = number_after(text, "can't allocate buffer of size: ") {
        return format!("there is no memory for another {}; {LESS}", human_bytes(size));
    }
    if text.contains("Out of Memory") || text.contains("OUT_OF_MEMORY") {
        return format!("its memory is full; {LESS}");
    }
    if let (Some(size), Some(most)) = (
        number_after(text, "Buffer size "),
        number_after(text, "maximum buffer size (")
            .or_else(|| number_after(text, "max_buffer_size` limit (")),
    ) {
        return format!(
            "a tensor of {} is larger than the {} that it can keep in one; {LESS}",
            human_bytes(size),
            human_bytes(most)
        );
    }
    if let Some((_, log)) = text.split_once("[Compilation Error]") {
        let line = log.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("[Source]"));
        return format!("a kernel does not compile: {}", line.unwrap_or("its compiler gives no reason"));
    }
    let cause = text.rsplit("value: ").next().unwrap_or(text);
    let cause = cause.rsplit("Caused by:").next().unwrap_or(cause);
    let line =
        cause.lines().map(|line| line.trim().trim_matches(['"', '[', ']'])).find(|line| !line.is_empty());
    line.unwrap_or("its driver gives no reason").to_string()
}

/// The number that stands behind `words`.
fn number_after(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_becomes_one_line() {
        let memory = "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 146591744\n<disabled>";
        assert!(
            sentence(memory).starts_with("there is no memory for another 139.80 MiB; less is needed with")
        );
        let compiler = "The server is in an invalid state\nCaused by:\n  [An execution error happened during profiling\nCaused by:\n  A \
            compilation error happened during launch\nCaused by:\n  An error caused the compilation to fail\nCaused by:\n  [Compilation \
            Error] \n    default_program(3): error: no such thing\n[Source]  \nextern \"C\" ...\nBacktrace:\nNo backtrace available]";
        assert_eq!(sentence(compiler), "a kernel does not compile: default_program(3): error: no such thing");
        let lost = "The server is in an invalid state\nCaused by:\n  [A launch error happened during profiling\nCaused by:\n  An unknown \
            error happened during launch\nCaused by:\n  DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch \
            failure\")\nBacktrace\nNo backtrace available]";
        assert_eq!(sentence(lost), "DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch failure\")");
        assert_eq!(sentence(""), "its driver gives no reason");
    }
}
