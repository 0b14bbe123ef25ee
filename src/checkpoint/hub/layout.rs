//! The hub's cache as its own tools lay it out: `blobs` named after their content, `snapshots` of links to them, `refs`.

use super::answer::Etag;
use super::name::HubName;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The cache of the hub's tools.
#[derive(Debug, Clone)]
pub(super) struct HubCache {
    root: PathBuf,
}

impl HubCache {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it holds of a repository.
    pub fn repository(&self, name: &HubName) -> CachedRepository {
        let folder = format!("{}--{}", name.repo_type.plural(), name.repository.replace('/', "--"));
        CachedRepository { locks: self.root.join(".locks").join(&folder), folder: self.root.join(folder) }
    }
}

/// The places of one repository in the cache.
#[derive(Debug, Clone)]
pub(super) struct CachedRepository {
    folder: PathBuf,
    locks: PathBuf,
}

impl CachedRepository {
    /// The folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where content lies once it is whole.
    pub fn blob(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(etag.hash())
    }

    /// Where content lies while it arrives.
    pub fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.blob(etag).with_extension("incomplete")
    }

    /// The commit that a branch or tag stands for; a commit stands for itself.
    pub fn commit(&self, revision: &str) -> String {
        let text = fs::read_to_string(self.reference(revision)).unwrap_or_else(|_| revision.into());
        text.trim().into()
    }

    /// Notes the commit that a branch or tag stands for.
    pub fn refer(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit { Ok(()) } else { write_atomic(&self.reference(revision), commit.as_bytes()) }
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    /// Keeps everyone else, the hub's own tools included, from fetching this content; `None` while another program does.
    pub fn lock(&self, etag: &Etag) -> Result<Option<File>> {
        let path = self.locks.join(format!("{}.lock", etag.hash()));
        let failed = |error: io::Error| Error::file(&path, format!("the file cannot be locked: {error}"));
        fs::create_dir_all(&self.locks).map_err(failed)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some network file systems have no locks; content there is still checked when it is whole.
            Err(TryLockError::Error(error)) => {
                tracing::warn!("{}: the file cannot be locked: {error}", path.display());
                Ok(Some(file))
            }
        }
    }

    /// Makes the whole content known as `file` of a commit, and gives that path.
    pub fn link(&self, etag: &Etag, commit: &str, file: &str) -> Result<PathBuf> {
        let place = self.snapshot(commit).join(file);
        let failed = |error: io::Error| Error::file(&place, format!("the link cannot be made: {error}"));
        fs::create_dir_all(place.parent().unwrap_or(&self.folder)).map_err(failed)?;
        if place.is_symlink() {
            fs::remove_file(&place).map_err(failed)?; // its target is gone, or it would not be fetched
        }
        // From the file's folder up to the repository's: out of `snapshots`, the commit, and the folders in it.
        let up = "../".repeat(2 + file.matches('/').count());
        let blob = self.blob(etag);
        symlink(Path::new(&format!("{up}blobs/{}", etag.hash())), &blob, &place).map_err(failed)?;
        Ok(place)
    }
}

/// Makes `place` a link to `blob`, which is `relative` from there.
#[cfg(unix)]
fn symlink(relative: &Path, _blob: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, place)
}

/// Windows lets only some users make links; for others, the file moves to its place, as with the hub's own tools.
#[cfg(not(unix))]
fn symlink(relative: &Path, blob: &Path, place: &Path) -> io::Result<()> {
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(relative, place).is_ok() {
        return Ok(());
    }
    let _ = relative;
    fs::rename(blob, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "c0ffee0000000000000000000000000000000000";

    fn repository(dir: &Path) -> (CachedRepository, Etag) {
        let cache = HubCache::new(dir.into());
        (cache.repository(&HubName::parse("o/n").unwrap()), Etag::parse(&"a1".repeat(20)).unwrap())
    }

    #[test]
    fn files_of_a_commit_are_links_to_content_and_a_dead_link_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (repository, etag) = repository(dir.path());
        let blob = repository.blob(&etag);
        for file in ["config.json", "more/of/it.gguf"] {
            repository.link(&etag, COMMIT, file).unwrap(); // dead: there is no content yet
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::write(&blob, "content").unwrap();
            let place = repository.link(&etag, COMMIT, file).unwrap();
            assert_eq!(place, dir.path().join("models--o--n/snapshots").join(COMMIT).join(file));
            assert_eq!(fs::read_to_string(&place).unwrap(), "content");
            assert_eq!(place.canonicalize().unwrap(), blob.canonicalize().unwrap());
            fs::remove_file(&blob).unwrap();
        }
    }

    #[test]
    fn a_branch_stands_for_a_commit_which_stands_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (repository, _) = repository(dir.path());
        repository.refer("refs/pr/1", COMMIT).unwrap();
        repository.refer(COMMIT, COMMIT).unwrap();
        assert_eq!(
            (repository.commit("refs/pr/1"), repository.commit(COMMIT)),
            (COMMIT.into(), COMMIT.into())
        );
        assert!(!dir.path().join("models--o--n/refs").join(COMMIT).exists());
    }

    #[test]
    fn content_is_fetched_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (repository, etag) = repository(dir.path());
        let held = repository.lock(&etag).unwrap().unwrap();
        assert!(repository.lock(&etag).unwrap().is_none());
        drop(held);
        assert!(repository.lock(&etag).unwrap().is_some());
    }
}
