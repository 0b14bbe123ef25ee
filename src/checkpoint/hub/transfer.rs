//! A transfer: how far it is, who is told, and why it may fail.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far the transfer of one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Its path in the repository.
    pub file: &'a str,
    /// Bytes that are here, those of an earlier attempt included.
    pub done: u64,
    /// All bytes; 0 while that is not known.
    pub total: u64,
}

/// Is told about transfers, a few times a second; its error stops them.
pub(super) type OnTransfer<'a> = &'a mut dyn FnMut(&Transfer) -> Result<()>;

/// How often the caller hears about a transfer, and can stop it.
const TICK: Duration = Duration::from_millis(250);

/// Why something could not be fetched.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub said no, with this HTTP status.
    Refused(u16),
    /// There was no answer, or not all of it.
    Broken(String),
    /// All of a file came, but not its content.
    Damaged(String),
    /// An answer that no hub gives; a predicate of the hub.
    Odd(String),
    /// What came is of no use; a sentence about the repository.
    Useless(String),
    /// Something here is in the way.
    Local(Error),
    /// The caller wants no more.
    Stopped(Error),
}

impl Failure {
    /// Something here is in the way.
    pub fn local(message: impl ToString) -> Self {
        Self::Local(Error::invalid(message))
    }

    /// Whether another attempt may go better.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Refused(429 | 500..))
    }

    /// The same, with the file that was asked for.
    pub fn about(self, file: &str) -> Self {
        match self {
            Self::Odd(does) => Self::Odd(format!("{does}, when asked for `{file}`")),
            other => other,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// How far a transfer is, between its thread and the one that waits for it.
#[derive(Debug)]
pub(super) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    stopped: AtomicBool,
    alive: Mutex<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self {
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            alive: Mutex::new(Instant::now()),
        }
    }

    /// Says that `done` of `total` bytes are here.
    pub fn begin(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Says that so many more bytes are here.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that are here, and all.
    pub fn bytes(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Says that the transfer does not stand still.
    pub fn alive(&self) {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long it has stood still.
    pub fn idle(&self) -> Duration {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whether nobody waits any more.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Waits, unless nobody waits any more; whether somebody does.
    pub fn wait(&self, pause: Duration) -> bool {
        let begun = Instant::now();
        while !self.stopped() {
            let left = pause.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(TICK));
        }
        false
    }
}

/// Runs `work` on a thread and tells `on` a few times a second how far it is, whose error ends the waiting at once: a connection that
/// hangs keeps nobody here.
pub(super) fn watched<T: Send + 'static>(
    file: &str,
    on: OnTransfer,
    work: impl FnOnce(&Progress) -> std::result::Result<T, Failure> + Send + 'static,
) -> std::result::Result<T, Failure> {
    let progress = Arc::new(Progress::new());
    let (sender, receiver) = mpsc::channel();
    let theirs = progress.clone();
    let thread = std::thread::Builder::new().spawn(move || sender.send(work(&theirs)));
    thread
        .map_err(|error| Failure::local(format!("`{file}` cannot be fetched without a thread: {error}")))?;
    loop {
        let outcome = receiver.recv_timeout(TICK);
        let (done, total) = progress.bytes();
        if let Err(error) = on(&Transfer { file, done, total }) {
            progress.stopped.store(true, Ordering::Relaxed);
            return Err(Failure::Stopped(error));
        }
        match outcome {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::local(format!(
                    "fetching `{file}` failed through a fault of this program, which is told above; please report it"
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_thread_is_an_error() {
        let failure = watched::<()>("a.gguf", &mut |_| Ok(()), |_| panic!("on purpose")).unwrap_err();
        let Failure::Local(error) = failure else { panic!("{failure:?}") };
        assert!(error.to_string().contains("`a.gguf` failed"), "{error}");
    }

    #[test]
    fn a_caller_that_wants_no_more_is_let_go_and_the_thread_ends() {
        let (ended, end) = mpsc::channel();
        let work = move |progress: &Progress| {
            let waited = progress.wait(Duration::from_secs(60));
            ended.send(waited).map_err(Failure::local)
        };
        let failure = watched("a", &mut |_| Err(Error::invalid("enough")), work).unwrap_err();
        assert!(matches!(failure, Failure::Stopped(_)));
        assert_eq!(end.recv_timeout(Duration::from_secs(10)), Ok(false));
    }
}
