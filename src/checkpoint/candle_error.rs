//! What candle's errors say, without the backtraces that they carry along when `RUST_BACKTRACE` is set.

use candle_core::Error;

/// The message alone, on one line.
pub fn candle_message(error: &Error) -> String {
    match error {
        Error::WithBacktrace { inner, .. } => candle_message(inner),
        other => other.to_string().lines().collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::backtrace::Backtrace;

    #[test]
    fn a_backtrace_is_left_out_and_a_message_is_one_line() {
        let inner = Box::new(Error::Msg("unknown dtype\nfor tensor 7".into()));
        let error = Error::WithBacktrace { inner, backtrace: Box::new(Backtrace::force_capture()) };
        assert!(error.to_string().lines().count() > 3);
        assert_eq!(candle_message(&error), "unknown dtype for tensor 7");
    }
}
