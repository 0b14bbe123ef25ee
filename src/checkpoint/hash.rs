//! SHA-256, by which the hub names weights, and this program knows the content of wheels and of checkpoints.

use crate::input::open_file;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::path::Path;

/// The SHA-256 of all that `from` gives, copied to `to` on the way.
pub(crate) fn sha256(mut from: impl Read, mut to: impl Write) -> io::Result<String> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(format!("{:x}", hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

/// The SHA-256 of a file.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    sha256(open_file(path)?, io::sink())
}

/// Whether `name` is a SHA-256, as the hub's cache names what it keeps of large files.
pub(crate) fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let hash = sha256(&b"abc"[..], io::sink()).unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(is_sha256(&hash) && !is_sha256("abc") && !is_sha256(&"x".repeat(64)));
    }
}
