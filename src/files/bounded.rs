//! What users name to be read, within bounds: a device that never ends, or a file of another kind, is told and not believed.

use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Most bytes of settings, of a description, or of another text that people or programs write in one piece.
pub const MAX_TEXT: u64 = 64 << 20;
/// Most bytes of a tokenizer, or of a log that grows with a run.
pub const MAX_LONG_TEXT: u64 = 512 << 20;
/// Most bytes of one line.
pub const MAX_LINE: u64 = 64 << 20;

/// The content of the file, device or pipe at `path`, which may have `most` bytes.
///
/// # Errors
/// When it cannot be read or has more.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bounded(path, most)?.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_long("it", most)) } else { Ok(bytes) }
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, most)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text (UTF-8)"))
}

/// The file and one byte more than it may have, if it has so many.
fn bounded(path: &Path, most: u64) -> io::Result<io::Take<File>> {
    let file = File::open(path)?;
    // A file says how long it is; devices and pipes do not.
    if file.metadata()?.len() > most { Err(too_long("it", most)) } else { Ok(file.take(most + 1)) }
}

/// Adds the next line to `line`, its end included; whether there was one.
///
/// # Errors
/// When it cannot be read or is longer than 64 MiB.
pub fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let count = from.take(MAX_LINE + 1).read_until(b'\n', line)?;
    if count as u64 > MAX_LINE { Err(too_long("the line", MAX_LINE)) } else { Ok(count > 0) }
}

fn too_long(what: &str, most: u64) -> io::Error {
    io::Error::other(format!("{what} has more than {} MiB, which is no use here", most >> 20))
}

/// Opens a file whose bytes are read at positions, which a device or a pipe has not.
///
/// # Errors
/// When it cannot be read or is no file.
pub fn open_file(path: &Path) -> io::Result<File> {
    // Asked before it is opened: a pipe without a writer would be waited for.
    match fs::metadata(path)?.file_type() {
        kind if kind.is_file() || kind.is_dir() => File::open(path),
        _ => Err(io::Error::other("it is a device or a pipe, but must be a file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "four");
        assert!(read(&path, 3).unwrap_err().to_string().contains("more than 0 MiB"));
        fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path, 4).unwrap_err().to_string().contains("UTF-8"));
        assert_eq!(read(&dir.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(unix)]
    fn a_device_without_end_has_too_much_and_no_positions() {
        let zero = Path::new("/dev/zero");
        assert!(read(zero, 1 << 20).unwrap_err().to_string().contains("more than 1 MiB"));
        let mut endless = io::BufReader::new(File::open(zero).unwrap());
        assert!(read_line(&mut endless, &mut Vec::new()).unwrap_err().to_string().contains("the line"));
        assert!(open_file(zero).unwrap_err().to_string().contains("a device or a pipe"));
    }
}
