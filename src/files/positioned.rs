//! A file that is read at positions into buffers of the caller. Unlike the pages of a mapping, what has been read does not
//! count as memory of the program, and a file that is cut short meanwhile is an error instead of a signal.

use super::bounded::open_file;
use crate::error::{Error, Result};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// An open file and its length when it was opened.
pub(crate) struct PositionedFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl PositionedFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_file(path).map_err(|error| unreadable(path, &error))?;
        let length = file.metadata().map_err(|error| unreadable(path, &error))?.len();
        Ok(Self { path: path.to_path_buf(), file, length })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file itself, for readers that go through it from the start.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` with the bytes from `offset` on; any number of threads may do so at once.
    ///
    /// # Errors
    /// When the file ends before that or cannot be read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        fill(&self.file, buffer, offset).map_err(|error| unreadable(&self.path, &error))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::file(path, format!("the file cannot be read: {error}"))
}

#[cfg(unix)]
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn fill(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_at_any_position_and_never_beyond_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "0123456789").unwrap();
        let file = PositionedFile::open(&path).unwrap();
        let mut buffer = [0; 3];
        for (offset, expected) in [(7, b"789"), (0, b"012"), (4, b"456")] {
            file.read_at(&mut buffer, offset).unwrap();
            assert_eq!(&buffer, expected);
        }
        let error = file.read_at(&mut buffer, 8).unwrap_err().to_string();
        assert!(error.contains("cannot be read") && error.contains(path.to_str().unwrap()), "{error}");
    }
}
