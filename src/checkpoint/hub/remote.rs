//! The Hugging Face hub: a repository's list of files, and its files one by one into the hub's cache.

use super::answer::{self, ListedFile, Listing};
use super::download::Download;
use super::fetch::{OnTransfer, Transfer};
use super::http::Client;
use super::layout::HubCache;
use super::name::HubName;
use crate::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// A connection to the hub.
pub(super) struct Hub {
    client: Arc<Client>,
    cache: HubCache,
}

impl Hub {
    /// The hub that the environment names; connects to nothing yet.
    pub fn new(cache: HubCache) -> Result<Self, Failure> {
        Ok(Self { client: Client::from_env()?.into(), cache })
    }

    /// Where the hub is.
    pub fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    /// The repository's commit and files.
    pub fn listing(&self, name: &HubName, on: OnTransfer) -> Result<Listing, Failure> {
        let parts = ["api", "models"].into_iter().chain(name.repository.split('/'));
        let mut url = self.client.url(parts.chain(["revision", name.revision()]));
        url.set_query(Some("blobs=true")); // with sizes
        let client = self.client.clone();
        let text = watched("the list of files", on, move |_| client.text(url))?;
        let listing = Listing::parse(&text).map_err(Failure::Odd)?;
        match answer::commit(name.revision()) {
            Some(asked) if asked != listing.commit => {
                Err(Failure::Odd(format!("gives the commit {} for {asked}", listing.commit)))
            }
            _ => Ok(listing),
        }
    }

    /// The folder of the commit in the cache.
    pub fn snapshot(&self, name: &HubName, commit: &str) -> PathBuf {
        self.cache.repository(name).snapshot(commit)
    }

    /// Notes in the cache that the revision asked for is this commit.
    pub fn refer(&self, name: &HubName, commit: &str) -> Result<(), Failure> {
        Ok(self.cache.repository(name).refer(name.revision(), commit)?)
    }

    /// One file of the commit, as it lies in the cache or downloaded; a download that broke off goes on where it stopped.
    pub fn file(
        &self,
        name: &HubName,
        commit: &str,
        file: &ListedFile,
        on: OnTransfer,
    ) -> Result<PathBuf, Failure> {
        let repository = self.cache.repository(name);
        let place = repository.snapshot(commit).join(&file.name);
        if place.exists() {
            return Ok(place);
        }
        let download = Download {
            client: self.client.clone(),
            repository,
            name: name.clone(),
            commit: commit.into(),
            file: file.clone(),
        };
        watched(&file.name, on, move |progress| download.run(progress))
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
fn watched<T: Send + 'static>(
    file: &str,
    on: OnTransfer,
    work: impl FnOnce(&Progress) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
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
