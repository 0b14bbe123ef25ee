//! What a path leads to that is written to: links are followed, devices and pipes are written to as they are.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Most links that are followed to a file, as on Linux.
const MOST_LINKS: usize = 40;

/// `path` from the root, so that it means the same in another folder; what does not exist, such as a name on a hub, as it is.
pub fn from_root(path: &Path) -> PathBuf {
    let absolute = path.exists().then(|| std::path::absolute(path).ok()).flatten();
    absolute.unwrap_or_else(|| path.to_path_buf())
}

/// Where the file lies that a user calls `path`: links are followed, to a target that need not exist yet. Links of the system to
/// open files, such as `/dev/stdout`, stay what they are.
///
/// # Errors
/// When links lead in a circle.
pub fn follow(path: &Path) -> Result<PathBuf> {
    let mut found = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&found) {
            Ok(target) if !is_descriptor(&found) => found = parent(&found).join(target),
            _ => return Ok(found),
        }
    }
    Err(Error::file(path, "the link leads through too many others, or in a circle; give the file itself"))
}

/// Whether `path` is the system's name of an open file of this process.
fn is_descriptor(path: &Path) -> bool {
    let folder = parent(path);
    folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
}

/// Whether `path` is a device or pipe, which takes what is written to it and is never replaced; `false` where there is a file,
/// a link or nothing.
///
/// # Errors
/// When it is a folder, a disk or a socket.
pub fn is_stream(path: &Path) -> Result<bool> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(is_descriptor(path)) };
    let kind = meta.file_type();
    if is_descriptor(path) || takes_bytes(kind) {
        return Ok(true);
    }
    if kind.is_file() || kind.is_symlink() {
        return Ok(false);
    }
    let what = if kind.is_dir() { "a folder" } else { "a disk or a socket" };
    Err(Error::file(path, format!("the output must be a file, but this is {what}")))
}

#[cfg(unix)]
fn takes_bytes(kind: fs::FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_char_device() || kind.is_fifo()
}

#[cfg(not(unix))]
fn takes_bytes(_kind: fs::FileType) -> bool {
    false
}

/// Opens `path` to be written to as it is, if it is a device or a pipe ([`is_stream`]).
///
/// # Errors
/// When it is nothing that can be written to.
pub fn open_stream(path: &Path) -> Result<Option<File>> {
    if !is_stream(path)? {
        return Ok(None);
    }
    // What standard output was redirected to may be a file that holds something already.
    let opened = fs::OpenOptions::new().append(true).open(path);
    opened.map(Some).map_err(|error| Error::file(path, format!("it cannot be written to: {error}")))
}

/// The folder that `path` lies in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::super::{write_atomic, write_folder_atomic};
    use super::*;

    #[test]
    #[cfg(unix)]
    fn links_are_followed_by_who_asks_and_devices_and_pipes_stay() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("second", path("first")).unwrap();
        symlink("made/for/it", path("second")).unwrap();
        assert_eq!(follow(&path("first")).unwrap(), path("made/for/it"));
        assert_eq!(follow(&path("none")).unwrap(), path("none"));
        symlink("circle", path("circle")).unwrap();
        assert!(follow(&path("circle")).unwrap_err().to_string().contains("in a circle"));
        assert!(is_stream(&follow(Path::new("/dev/stdout")).unwrap()).unwrap());
        write_atomic(Path::new("/dev/null"), b"nothing").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        assert!(write_atomic(&path("socket"), b"x").unwrap_err().to_string().contains("socket"));
        drop(socket);
        assert!(write_atomic(dir.path(), b"x").unwrap_err().to_string().contains("a folder"));
        write_folder_atomic(&path("first"), |tmp| write_atomic(&tmp.join("a"), b"x")).unwrap();
        assert!(path("first").is_symlink() && path("made/for/it/a").exists());
    }
}
