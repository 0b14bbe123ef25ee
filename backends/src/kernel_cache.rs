//! Compiled kernels are kept from one start of the program to the next, in the program's cache folder.
//!
//! CubeCL 0.10 can keep what it compiled for CUDA and Vulkan, under the names of kernels: not under what they are compiled for, nor under what
//! they consist of. So each device, compiler and version of the kernels has a folder of its own. It trusts what lies there; so files that
//! are not what they were at the last start are thrown away before.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use burn_cubecl::cubecl::config::cache::CacheConfig;
use burn_cubecl::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

use crate::cache_folder::kernel_folder;

/// What kernels consist of: the exact versions of the crates that they are in, and those of this crate.
const KERNELS: [&str; 16] = [
    include_str!("../Cargo.toml"),
    include_str!("cube.rs"),
    include_str!("cube/append.rs"),
    include_str!("cube/arena.rs"),
    include_str!("cube/attention.rs"),
    include_str!("cube/attention_backward.rs"),
    include_str!("cube/elementwise.rs"),
    include_str!("cube/flat.rs"),
    include_str!("cube/head_norm.rs"),
    include_str!("cube/launch.rs"),
    include_str!("cube/linear.rs"),
    include_str!("cube/linear_kernels.rs"),
    include_str!("cube/matmul.rs"),
    include_str!("cube/reduce.rs"),
    include_str!("cube/rows.rs"),
    include_str!("cube/weight.rs"),
];

/// The file that says what the others were.
const KNOWN: &str = "known";

/// Lets kernels of the device that starts next be kept in the folder for `target`: a device, its architecture, a compiler. Where the user says
/// in `cubecl.toml` where they are kept, that holds.
///
/// # Panics
/// CubeCL does, if `cubecl.toml` cannot be read.
pub(crate) fn keep(target: &str) {
    static USERS: OnceLock<CubeClRuntimeConfig> = OnceLock::new();
    let users = USERS.get_or_init(|| CubeClRuntimeConfig::from_current_dir().override_from_env());
    let mut config = users.clone();
    if config.compilation.cache.is_none() {
        config.compilation.cache = folder(target).map(CacheConfig::File);
    }
    // `set` may be called once; devices, of which a process can start several, read what it sets when they start.
    *CubeClRuntimeConfig::storage().lock() = Some(Arc::new(config));
}

/// The folder for `target`, checked; none, which is noted, where kernels cannot be kept.
fn folder(target: &str) -> Option<PathBuf> {
    let folder = kernel_folder()?.join(file_name(target));
    match check(&folder) {
        Ok(()) => Some(folder),
        Err(e) => {
            tracing::warn!(
                "compiled kernels are not kept, and the next start compiles them again: {}: {e}",
                folder.display()
            );
            None
        }
    }
}

/// `target` and what kernels consist of, as the name of a folder.
fn file_name(target: &str) -> String {
    let mut hasher = DefaultHasher::new();
    KERNELS.hash(&mut hasher);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    format!("{}-{:016x}", target.chars().map(plain).collect::<String>(), hasher.finish())
}

/// Makes sure that files in `folder` can be written, and still begin as they did.
fn check(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut files = BTreeMap::new();
    collect(folder, &mut files)?;
    let known = folder.join(KNOWN);
    let before = fs::read_to_string(&known).unwrap_or_default();
    if !before.lines().all(|line| still_there(folder, &files, line) == Some(true)) {
        tracing::warn!("compiled kernels in {} are damaged, and are compiled again", folder.display());
        fs::remove_dir_all(folder)?;
        fs::create_dir_all(folder)?;
        files.clear();
    }
    for path in files.keys() {
        // To be added to, as CubeCL will.
        fs::File::options().append(true).open(path)?;
    }
    let lines = files.iter().filter_map(|(path, content)| {
        let path = path.strip_prefix(folder).ok()?.to_str()?;
        Some(format!("{:016x} {} {path}\n", hash(content), content.len()))
    });
    // Other processes that start now see the old file or the new one.
    let new = folder.join(format!("{KNOWN}.{}", std::process::id()));
    fs::write(&new, lines.collect::<String>())?;
    fs::rename(new, known)
}

/// Whether a file begins with what a line says: hash, length, path. What was added to it since is not known yet.
fn still_there(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>, line: &str) -> Option<bool> {
    let mut parts = line.splitn(3, ' ');
    let (sum, length, path) = (parts.next()?, parts.next()?.parse::<usize>().ok()?, parts.next()?);
    let content = files.get(&folder.join(path))?;
    Some(format!("{:016x}", hash(content.get(..length)?)) == sum)
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(content);
    hasher.finish()
}

/// The kept files below `dir`, with what is in them.
fn collect(dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "cbor" || end == "log") {
            files.insert(path.clone(), fs::read(path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_since_the_last_start_is_kept_and_what_changed_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("device");
        let file = folder.join("vulkan/0.10.0/spirv/chunk0.cbor");
        let write = |text: &str| {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
            check(&folder).unwrap();
            fs::read_to_string(&file).ok()
        };
        for (text, kept) in [
            ("one", true),
            ("one two", true),
            ("one two", true),
            ("one tvo", false),
            ("three", true),
            ("thr", false),
        ] {
            assert_eq!(write(text).is_some(), kept, "{text}");
        }
        fs::write(folder.join(KNOWN), [0xff, 0xfe]).unwrap();
        assert!(write("four").is_some(), "what is known of it was lost");
        fs::write(folder.join(KNOWN), "1 2").unwrap();
        assert!(write("four").is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check(&file.join("device")).is_err());
    }

    #[test]
    fn every_file_with_kernels_counts() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cube");
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            assert!(KERNELS.contains(&text.as_str()), "{} is not in KERNELS", path.display());
        }
    }

    #[test]
    fn names_of_devices_are_names_of_folders() {
        let name = file_name("cuda NVIDIA H100/80GB: sm_90");
        assert!(name.starts_with("cuda-NVIDIA-H100-80GB--sm-90-"), "{name}");
        assert!(name.len() > "cuda-NVIDIA-H100-80GB--sm-90-".len() + 8, "{name}");
    }
}
