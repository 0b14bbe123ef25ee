//! A column in a process of its own: its first call is the first there is, its memory is its own, and a driver that takes the process down
//! takes no other column with it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use diffmas::bench::{ColumnEvent, ColumnRequest, measure};
use diffmas::{Error, Result};

use super::super::{interrupt, output, verbosity};

/// How often it is looked whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The work of the process: measures what `request` says, and prints events.
pub fn serve(request: &str) -> Result<()> {
    let request: ColumnRequest =
        serde_json::from_str(request).map_err(|e| Error::invalid(format!("--column: {e}")))?;
    // Who started it ends it, and has the words for that.
    interrupt::silence();
    let _heard = interrupt::Heard::start();
    measure(&request, &interrupt::requested, &mut |event| output::print_json(&event))
}

/// Starts the process and shows `on_event` what it tells, until it ends or the user asks to stop. How it ended is told, too, where that is a
/// failure.
///
/// # Errors
/// If it cannot be started.
pub fn run(request: &ColumnRequest, mut on_event: impl FnMut(ColumnEvent)) -> Result<()> {
    let failed =
        |e: std::io::Error| Error::invalid(format!("a process for the bench cannot be started: {e}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(verbosity::quiet().then_some("--quiet")).arg("bench");
    command.arg("--column").arg(serde_json::to_string(request)?);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let events = events(child.stdout.take().expect("it was asked for"));
    let stopped = loop {
        match events.recv_timeout(LOOK) {
            Ok(event) => on_event(event),
            Err(RecvTimeoutError::Timeout) if interrupt::requested() => break true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break interrupt::requested(),
        }
    };
    let status = end(&mut child, stopped)?;
    events.into_iter().for_each(&mut on_event);
    if !stopped && !status.success() {
        on_event(ColumnEvent::Failed { reason: reason(status) });
    }
    Ok(())
}

/// What a process prints, as events; other lines, which a driver may print, go on to standard error.
fn events(from: impl Read + Send + 'static) -> Receiver<ColumnEvent> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(std::io::Result::ok) {
            match serde_json::from_str(&line) {
                // Where nobody waits for it, the process is about to be ended.
                Ok(event) => drop(sender.send(event)),
                Err(_) => verbosity::note(&line),
            }
        }
    });
    receiver
}

/// Waits for the end of the process, which is hastened where it is `stopped`.
fn end(child: &mut Child, stopped: bool) -> Result<ExitStatus> {
    if stopped {
        // It may have ended by itself.
        let _ = child.kill();
    }
    child.wait().map_err(|e| Error::invalid(format!("a process of the bench is lost: {e}")))
}

/// Why a process ended.
fn reason(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let hint = if signal == 9 { ", as the system does where memory is short" } else { "" };
        return format!("its process was ended by signal {signal}{hint}");
    }
    format!("its process ended early ({status})")
}
