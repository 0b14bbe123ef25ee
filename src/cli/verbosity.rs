//! How much the program says on standard error: `--quiet`, `--verbose`, `RUST_LOG`; no colour with `NO_COLOR` or in a file.

use std::io::{self, IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::job;
use super::visible::{except, visible};

static QUIET: AtomicBool = AtomicBool::new(false);

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Verbosity {
    /// Say nothing but errors: no progress, no notes
    #[arg(long, global = true, display_order = 900, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more, for instance which files are read
    #[arg(long, global = true, display_order = 901)]
    verbose: bool,
}

impl Verbosity {
    /// Sets up the log for the whole program; `RUST_LOG` wins over the flags.
    pub fn install(&self) {
        // Of several processes, one tells what all do.
        let silent = self.quiet || !job::is_first();
        QUIET.store(silent, Ordering::Relaxed);
        let level = match (silent && !self.verbose, self.verbose) {
            (true, _) => "error",
            (_, true) => "info,diffmas=debug",
            // What comes of a device that failed is told once, as the error; each kernel that was to follow says so, too.
            _ => "warn,diffmas=info,cubecl_common=error",
        };
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colors = stderr().is_terminal() && !no_color;
        tracing_subscriber::fmt()
            .with_writer(move || Log { colors })
            .log_internal_errors(false)
            .with_ansi(colors)
            .with_target(false)
            .without_time()
            .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level)))
            .init();
    }
}

/// Log lines on standard error. Escape characters are those of colours; the log shows others by itself.
struct Log {
    colors: bool,
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        write!(stderr(), "{}{}", prefix(), except(&text, |c| self.colors && c == '\u{1b}'))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

/// Whether the user wants errors only.
pub fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Prints a note on standard error, unless the user wants errors only.
pub fn note(text: impl std::fmt::Display) {
    if !quiet() {
        say(text);
    }
}

/// Prints a line on standard error. Where nobody reads it any more, the work is still worth finishing.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(stderr(), "{}{}", prefix(), visible(&text.to_string()));
}

/// What stands before a line of one of several processes, unless it is the first.
fn prefix() -> String {
    match job::processes().rank() {
        0 => String::new(),
        rank => format!("[process {rank}] "),
    }
}
