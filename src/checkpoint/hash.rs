//! Hashes by which the hub names its files (SHA-256, or git's SHA-1 of small ones), and this program the content of wheels and of
//! checkpoints.

use crate::files::open_file;
use sha1::Sha1;
use sha2::digest::Output;
use sha2::{Digest, Sha256};
use std::fmt::LowerHex;
use std::io::{self, Read, Write};
use std::path::Path;

/// The SHA-256 of all that `from` gives, copied to `to` on the way.
pub(crate) fn sha256(from: impl Read, to: impl Write) -> io::Result<String> {
    hashed(Sha256::new(), from, to)
}

/// The SHA-256 of a file.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    sha256(open_file(path)?, io::sink())
}

/// The SHA-1 by which git names a file's content.
pub(crate) fn git_sha1_of(path: &Path) -> io::Result<String> {
    let file = open_file(path)?;
    let head = format!("blob {}\0", file.metadata()?.len());
    hashed(Sha1::new().chain_update(head), file, io::sink())
}

/// What `hasher` makes of all that `from` gives, copied to `to` on the way.
fn hashed<D: Digest>(mut hasher: D, mut from: impl Read, mut to: impl Write) -> io::Result<String>
where
    Output<D>: LowerHex,
{
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(format!("{:x}", hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let hash = sha256(&b"abc"[..], io::sink()).unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn small_files_have_the_hash_of_git() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for (content, hash) in [
            ("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            ("hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(git_sha1_of(&path).unwrap(), hash);
        }
    }
}
