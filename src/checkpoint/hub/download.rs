//! One file of a commit into the cache: resumed where it broke off, never longer than announced, named only once its hash is right.

use super::answer::{ContentRange, Etag, ListedFile};
use super::http::{Answer, Client};
use super::layout::CachedRepository;
use super::name::HubName;
use super::transfer::{Failure, Progress};
use crate::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is waited before each further attempt at a download that broke off; one that brought enough starts this anew.
const PAUSES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
/// The most attempts in all, whatever they brought.
const ATTEMPTS: usize = 100;
/// What is enough: a hundredth of the file, within these bounds.
const ENOUGH: [u64; 2] = [64 << 10, 8 << 20];
/// A download that brings less than this in the client's patience stands still.
const TRICKLE: u64 = 16 << 10;
/// The largest file whose size the hub does not tell.
const UNTOLD: u64 = 64 << 20;

/// A file to be fetched.
pub(super) struct Download {
    pub client: Arc<Client>,
    pub repository: CachedRepository,
    pub name: HubName,
    pub commit: String,
    pub file: ListedFile,
}

/// What is known of the file before its content comes.
struct Announced {
    etag: Etag,
    /// Its size; `None` when no one told.
    bytes: Option<u64>,
}

impl Announced {
    /// The bytes that may come.
    fn limit(&self) -> u64 {
        self.bytes.unwrap_or(UNTOLD)
    }

    /// What a hub does that sends more.
    fn exceeded(&self) -> String {
        match self.bytes {
            Some(bytes) => format!("sends more than the {bytes} bytes that it announces"),
            None => format!("sends more than {UNTOLD} bytes and announces no size"),
        }
    }
}

impl Download {
    /// Fetches the file; gives its place.
    pub fn run(&self, progress: &Progress) -> Result<PathBuf, Failure> {
        let (mut failures, mut gained) = (0, 0);
        for _ in 0..ATTEMPTS {
            let failure = match self.attempt(progress) {
                Err(failure) if failure.may_pass() => failure,
                outcome => return outcome.map_err(|failure| failure.about(&self.file.name)),
            };
            let (done, total) = progress.bytes();
            if done >= gained + (total / 100).clamp(ENOUGH[0], ENOUGH[1]) {
                (failures, gained) = (0, done);
            }
            let Some(&pause) = PAUSES.get(failures) else { return Err(failure) };
            if progress.idle() > self.client.patience() || !progress.wait(pause) {
                return Err(failure);
            }
            failures += 1;
        }
        Err(Failure::Broken(format!("`{}` broke off {ATTEMPTS} times", self.file.name)))
    }

    fn attempt(&self, progress: &Progress) -> Result<PathBuf, Failure> {
        let announced = self.announced()?;
        let _lock = self.lock(&announced.etag, progress)?;
        let blob = self.repository.blob(&announced.etag);
        if !blob.exists() || !announced.etag.is_of(&blob).map_err(disk(&blob))? {
            self.fill(&announced, progress)?;
            self.keep(&announced)?;
        }
        Ok(self.repository.link(&announced.etag, &self.commit, &self.file.name)?)
    }

    /// Asks for the first byte, for what comes along with it.
    fn announced(&self) -> Result<Announced, Failure> {
        // An empty file has no first byte.
        let range = if self.file.bytes == Some(0) { None } else { Some("bytes=0-0") };
        let Answer { response, headers, .. } = self.ask(range)?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let etag = headers.etag(&self.commit).map_err(Failure::Odd)?;
        let length = if response.status() == 200 { response.body().content_length() } else { None };
        let bytes = headers.bytes(self.file.bytes, header("content-range"), length).map_err(Failure::Odd)?;
        Ok(Announced { etag, bytes })
    }

    fn ask(&self, range: Option<&str>) -> Result<Answer, Failure> {
        let repository = self.name.repo_type.prefix().into_iter().chain(self.name.repository.split('/'));
        let parts = repository.chain(["resolve", &self.commit]);
        self.client.get(self.client.url(parts.chain(self.file.name.split('/'))), range)
    }

    /// Waits a little while another program fetches the same.
    fn lock(&self, etag: &Etag, progress: &Progress) -> Result<File, Failure> {
        const TRIES: usize = 20;
        for _ in 0..TRIES {
            if let Some(lock) = self.repository.lock(etag)? {
                return Ok(lock);
            }
            if !progress.wait(Duration::from_millis(250)) {
                break;
            }
        }
        Err(Failure::local(format!(
            "`{}` of `{}` is being fetched by another program right now; wait for that",
            self.file.name, self.name
        )))
    }

    /// Fetches what is lacking of the content.
    fn fill(&self, announced: &Announced, progress: &Progress) -> Result<(), Failure> {
        let path = self.repository.incomplete(&announced.etag);
        let failed = disk(&path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let start = if length > announced.limit() { 0 } else { length };
        progress.begin(start, announced.bytes.unwrap_or(0));
        if announced.bytes != Some(start) {
            let answer = self.ask(Some(&format!("bytes={start}-")))?;
            let start = begin_of(&answer, start)?;
            file.set_len(start).map_err(failed)?;
            progress.begin(start, announced.bytes.unwrap_or(0));
            self.copy(answer, &mut file, announced, start, progress)?;
        }
        file.sync_all().map_err(failed)
    }

    /// Adds what comes to `file`, which holds what comes before `start`, and takes no more than was announced.
    fn copy(
        &self,
        answer: Answer,
        file: &mut File,
        announced: &Announced,
        start: u64,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let path = self.repository.incomplete(&announced.etag);
        let mut room = announced.limit() - start;
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        let (mut since, mut trickle) = (Instant::now(), 0);
        loop {
            let count = body.read(&mut buffer);
            let count = count.map_err(|error| self.client.broken(&answer.url, error.into()))? as u64;
            if count == 0 {
                return Ok(());
            }
            let Some(left) = room.checked_sub(count) else {
                fs::remove_file(&path).map_err(disk(&path))?; // it is something else
                return Err(Failure::Odd(announced.exceeded()));
            };
            room = left;
            file.write_all(&buffer[..count as usize]).map_err(disk(&path))?;
            progress.add(count);
            trickle += count;
            if trickle >= TRICKLE {
                progress.alive();
                (since, trickle) = (Instant::now(), 0);
            }
            if progress.stopped() || since.elapsed() > self.client.patience() {
                return Err(self.client.too_slow(&answer.url));
            }
        }
    }

    /// Gives the content its name if it is the content of that name, and else keeps nothing.
    fn keep(&self, announced: &Announced) -> Result<(), Failure> {
        let path = self.repository.incomplete(&announced.etag);
        let failed = disk(&path);
        let length = path.metadata().map_err(failed)?.len();
        if announced.bytes.is_some_and(|bytes| length < bytes) {
            return Err(Failure::Broken(format!("`{}` ended after {length} bytes", self.file.name)));
        }
        if announced.etag.is_of(&path).map_err(failed)? {
            return fs::rename(&path, self.repository.blob(&announced.etag)).map_err(failed);
        }
        fs::remove_file(&path).map_err(failed)?;
        Err(Failure::Damaged(format!(
            "`{}` arrived damaged: its hash is not {}",
            self.file.name,
            announced.etag.hash()
        )))
    }
}

/// Where the content in an answer begins: where it was asked to, or at the start by a server that knows no ranges.
fn begin_of(answer: &Answer, asked: u64) -> Result<u64, Failure> {
    if answer.response.status() == 200 {
        return Ok(0);
    }
    let range = answer.response.headers().get("content-range").and_then(|value| value.to_str().ok());
    let range = range.ok_or_else(|| Failure::Odd("sends a part without saying which".into()))?;
    let from = ContentRange::parse(range).map_err(Failure::Odd)?.from;
    if from == asked || from == 0 {
        return Ok(from);
    }
    Err(Failure::Odd(format!("sends what comes after {from} bytes, not after {asked}")))
}

/// What went wrong with the file at `path` in the cache.
fn disk(path: &Path) -> impl Fn(io::Error) -> Failure + Copy + '_ {
    move |error| Failure::Local(Error::file(path, format!("the file cannot be kept: {error}")))
}
