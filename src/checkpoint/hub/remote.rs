//! The Hugging Face hub: a repository's list of files, and its files one by one into the hub's cache.

use super::cache::login_token;
use super::fetch::{OnTransfer, Transfer};
use super::name::HubName;
use crate::checkpoint::hash::{is_sha256, sha256_of};
use crate::error::Error;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::api::{Progress, RepoInfo};
use hf_hub::{Cache, Repo};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How long the hub may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(60);
/// What is waited before each further attempt at a download that broke off; one that brought bytes starts this anew.
const PAUSES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// Why something could not be fetched.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub said no, with this HTTP status.
    Refused(u16),
    /// There was no answer, or not all of it.
    Broken(String),
    /// What came is of no use; a sentence about the repository.
    Useless(String),
    /// The caller wants no more.
    Stopped(Error),
}

/// A connection to the hub.
pub(super) struct Hub {
    api: Api,
    cache: Cache,
    endpoint: String,
}

impl Hub {
    /// Reads `HF_ENDPOINT` and `HF_TOKEN` (else the token that `hf auth login` left); connects to nothing yet.
    pub fn new(cache: Cache) -> Result<Self, Failure> {
        let set = |name| std::env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = endpoint.trim_end_matches('/').to_string();
        let token = set("HF_TOKEN").or_else(login_token);
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_token(token)
            .with_user_agent("diffmas", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(failure)?;
        Ok(Self { api, cache, endpoint })
    }

    /// Where the hub is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The repository's commit and files.
    pub fn info(&self, name: &HubName, on: OnTransfer) -> Result<RepoInfo, Failure> {
        let repo = self.api.repo(name.repo());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(Event::Done(repo.info())));
        let file = Transfer { file: "the list of files", done: 0, total: 0 };
        match wait(&receiver, PATIENCE, file, on)? {
            (Ok(info), _) => Ok(info),
            (Err(error), _) => Err(failure(error)),
        }
    }

    /// One file of the commit `sha`, as it lies in the cache or downloaded; a download that broke off goes on where
    /// it stopped.
    pub fn file(&self, name: &HubName, sha: &str, file: &str, on: OnTransfer) -> Result<PathBuf, Failure> {
        let repo = name.repo();
        let place = self.snapshot(&repo, sha).join(file);
        if place.exists() {
            return Ok(place);
        }
        let mut attempt = 0;
        loop {
            let (outcome, brought) = self.attempt(&repo, file, on)?;
            let broken = match outcome {
                Ok(path) if path == place => return verified(path, file),
                Ok(_) => return Err(Failure::Broken("the repository changed meanwhile".into())),
                Err(failure @ (Failure::Broken(_) | Failure::Refused(429 | 500..))) => failure,
                Err(failure) => return Err(failure),
            };
            attempt = if brought { 0 } else { attempt };
            let Some(pause) = PAUSES.get(attempt) else { return Err(broken) };
            std::thread::sleep(*pause);
            attempt += 1;
        }
    }

    /// The folder of the commit in the cache.
    pub fn snapshot(&self, repo: &Repo, sha: &str) -> PathBuf {
        self.cache.repo(repo.clone()).pointer_path(sha)
    }

    /// One attempt at a download, and whether it brought anything.
    ///
    /// The client's own repetition is not used: where it resumes after a failure before the first byte, it takes the
    /// file's position for its length.
    fn attempt(
        &self,
        repo: &Repo,
        file: &str,
        on: OnTransfer,
    ) -> Result<(Result<PathBuf, Failure>, bool), Failure> {
        let (sender, receiver) = mpsc::channel();
        let (api, cache, repo, name) = (self.api.clone(), self.cache.clone(), repo.clone(), file.to_string());
        // The client has no time limit: a thread that waits for a dead connection ends with the program.
        std::thread::spawn(move || {
            let outcome = download(&api, &cache, &repo, &name, Report(sender.clone()));
            sender.send(Event::Done(outcome))
        });
        let (outcome, brought) = wait(&receiver, STALL, Transfer { file, done: 0, total: 0 }, on)?;
        Ok((outcome.map_err(failure), brought))
    }
}

fn download(api: &Api, cache: &Cache, repo: &Repo, file: &str, report: Report) -> Result<PathBuf, ApiError> {
    let handle = api.repo(repo.clone());
    let metadata = api.metadata(&handle.url(file))?;
    let part = cache.repo(repo.clone()).blob_path(metadata.etag()).with_extension("part");
    // The client would ask for what comes after the end and get an error for ever.
    if part.metadata().is_ok_and(|meta| meta.len() >= metadata.size() as u64) {
        std::fs::remove_file(&part)?;
    }
    handle.download_with_progress(file, report)
}

/// What a downloading thread has to say.
enum Event<T> {
    Size(u64),
    Bytes(u64),
    Done(T),
}

/// Passes the client's progress on.
struct Report(Sender<Event<Result<PathBuf, ApiError>>>);

impl Progress for Report {
    fn init(&mut self, size: usize, _file: &str) {
        let _ = self.0.send(Event::Size(size as u64));
    }

    fn update(&mut self, size: usize) {
        let _ = self.0.send(Event::Bytes(size as u64));
    }

    fn finish(&mut self) {}
}

/// Waits for a thread to be done, telling `on` how far it is at least once a second; also whether new bytes came.
fn wait<T>(
    events: &Receiver<Event<T>>,
    patience: Duration,
    mut transfer: Transfer,
    on: OnTransfer,
) -> Result<(T, bool), Failure> {
    let (mut heard, mut updates) = (Instant::now(), 0);
    loop {
        match events.recv_timeout(Duration::from_secs(1)) {
            Ok(Event::Done(outcome)) => return Ok((outcome, updates > 1)),
            Ok(Event::Size(size)) => (transfer.total, transfer.done, updates) = (size, 0, 0),
            Ok(Event::Bytes(bytes)) => {
                transfer.done += bytes;
                updates += 1; // the first is what lay there already
            }
            Err(RecvTimeoutError::Timeout) if heard.elapsed() < patience => {
                on(&transfer).map_err(Failure::Stopped)?;
                continue;
            }
            Err(_) => return Err(Failure::Broken(format!("no answer for {} seconds", patience.as_secs()))),
        }
        heard = Instant::now();
        on(&transfer).map_err(Failure::Stopped)?;
    }
}

/// The file, if its content is what the cache names it after, as it does with weights.
fn verified(path: PathBuf, file: &str) -> Result<PathBuf, Failure> {
    let broken = |error: std::io::Error| Failure::Broken(format!("`{file}`: {error}"));
    let blob = path.canonicalize().map_err(broken)?;
    let expected = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if is_sha256(&expected) && sha256_of(&blob).map_err(broken)? != expected {
        // Else every later run would take it for good.
        for damaged in [&blob, &path] {
            let _ = std::fs::remove_file(damaged);
        }
        return Err(Failure::Broken(format!("`{file}` arrived damaged: its SHA-256 is not {expected}")));
    }
    Ok(path)
}

fn failure(error: ApiError) -> Failure {
    match (&error, status(&error)) {
        (_, Some(status)) => Failure::Refused(status),
        (ApiError::LockAcquisition(path), _) => Failure::Useless(format!(
            "another program is fetching it right now (it holds {}); wait for that",
            path.display()
        )),
        _ => Failure::Broken(error.to_string()),
    }
}

/// The HTTP status of a refusal. The client hands on the error of the library below it, which says it in words only.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => error.to_string().strip_prefix("http status: ")?.parse().ok(),
        _ => None,
    }
}
