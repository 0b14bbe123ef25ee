//! Files and folders that appear under their name only when they are complete.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What temporary names have between the final name and random letters.
const TEMPORARY: &str = ".tmp-";

/// Writes `bytes` to `path`: a temporary file in the same folder, flushed to the disk, then renamed.
///
/// A reader sees the old file or the new one, never a part. Missing parent folders are made.
///
/// # Errors
/// When the folder cannot be made or written to.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write_atomic`], with the content written by `fill`.
///
/// # Errors
/// When the folder cannot be made or written to, or `fill` fails.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let failed = |error: io::Error| Error::file(path, format!("the file cannot be written: {error}"));
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(failed)?;
    let mut temporary = builder(&prefix(path), 0o666).tempfile_in(folder).map_err(failed)?;
    fill(temporary.as_file_mut()).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder);
    Ok(())
}

/// Builds a folder beside `dir` through `build`, then renames it to `dir`; what was there before goes last.
///
/// When `build` fails, or the program dies in it, `dir` is as it was. An existing folder is moved aside for
/// the moment between two renames and put back when the second one fails.
///
/// # Errors
/// What `build` returns, or that the folder cannot be written; `dir` may not be an existing file.
pub fn write_folder_atomic(dir: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    // A link to a folder keeps being one: its target is replaced.
    let target: PathBuf =
        if dir.is_symlink() { fs::canonicalize(dir).unwrap_or(dir.into()) } else { dir.into() };
    let failed = |error: io::Error| Error::file(dir, format!("the folder cannot be written: {error}"));
    if target.exists() && !target.is_dir() {
        return Err(Error::file(dir, "a folder is to be written here, but there is a file of that name"));
    }
    let (folder, prefix) = (parent(&target), prefix(&target));
    fs::create_dir_all(folder).map_err(failed)?;
    let temporary = builder(&prefix, 0o777).tempdir_in(folder).map_err(failed)?;
    build(temporary.path())?;
    sync_tree(temporary.path()).map_err(failed)?;
    let replaced = if target.exists() {
        let aside = builder(&prefix, 0o777).tempdir_in(folder).map_err(failed)?;
        fs::rename(&target, aside.path()).map_err(failed)?;
        Some(aside)
    } else {
        None
    };
    if let Err(error) = fs::rename(temporary.path(), &target) {
        if let Some(aside) = replaced {
            // Should this fail too, the old content stays where the message says.
            let kept = aside.keep();
            if let Err(second) = fs::rename(&kept, &target) {
                let place = kept.display();
                return Err(failed(io::Error::other(format!(
                    "{error}; {second}; the old one is now {place}"
                ))));
            }
        }
        return Err(failed(error));
    }
    let _ = temporary.keep(); // the name is gone: nothing is left to remove
    sync_folder(folder);
    Ok(())
}

/// Removes what writers that were killed in the act left below `dir`: files and folders under temporary names.
///
/// Only for a folder that nobody else writes to.
///
/// # Errors
/// When a folder cannot be read or a leftover not be removed.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |error: io::Error| {
            Error::file(path, format!("what a killed run left cannot be removed: {error}"))
        }
    };
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.is_dir() && !path.is_symlink();
        match (name.starts_with('.') && name.contains(TEMPORARY), folder) {
            (true, true) => fs::remove_dir_all(&path).map_err(failed(&path))?,
            (true, false) => fs::remove_file(&path).map_err(failed(&path))?,
            (false, true) => remove_leftovers(&path)?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// The folder that `path` lies in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The start of the temporary names, `.NAME.tmp-`.
fn prefix(path: &Path) -> String {
    format!(".{}{TEMPORARY}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Temporary names that start with `prefix`, with the permissions that an ordinary new file or folder has.
fn builder(prefix: &str, mode: u32) -> tempfile::Builder<'_, '_> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// Flushes every file under `dir`.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            // Windows flushes only through a handle that may write.
            fs::OpenOptions::new().read(true).write(cfg!(windows)).open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(dir);
    Ok(())
}

/// Flushes a folder's list of names where the system can do that; a failure loses no data already named.
fn sync_folder(dir: &Path) {
    #[cfg(unix)]
    let _ = File::open(dir).and_then(|folder| folder.sync_all());
    #[cfg(not(unix))]
    let _ = dir;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_temporary_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/for/it/a.bin");
        write_atomic(&path, b"first").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write_atomic(&path, b"old").unwrap();
        let error = write_with(&path, |file| file.write_all(b"ne").and(Err(io::Error::other("disk full"))));
        assert!(error.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_appears_complete_and_replaces_the_old_one() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("step-1");
        for text in ["one", "two"] {
            write_folder_atomic(&dir, |tmp| {
                assert!(!tmp.join("a").exists());
                fs::create_dir(tmp.join("sub")).unwrap();
                fs::write(tmp.join(format!("sub/{text}")), text).unwrap();
                Ok(())
            })
            .unwrap();
        }
        assert!(!dir.join("sub/one").exists());
        assert_eq!(fs::read_to_string(dir.join("sub/two")).unwrap(), "two");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_whose_building_fails_leaves_the_old_one() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("step-1");
        write_folder_atomic(&dir, |tmp| write_atomic(&tmp.join("a"), b"old")).unwrap();
        let error = write_folder_atomic(&dir, |tmp| {
            write_atomic(&tmp.join("a"), b"new")?;
            Err(Error::invalid("stopped"))
        });
        assert_eq!(error.unwrap_err().to_string(), "stopped");
        assert_eq!(fs::read(dir.join("a")).unwrap(), b"old");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_of_killed_writers_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("checkpoints/.step-2.tmp-Ab12/adapter")).unwrap();
        fs::create_dir_all(path("checkpoints/step-1")).unwrap();
        for name in [".config.toml.tmp-x", "checkpoints/step-1/state.json", "notes.tmp-1", ".lock"] {
            fs::write(path(name), "").unwrap();
        }
        remove_leftovers(dir.path()).unwrap();
        assert!(!path(".config.toml.tmp-x").exists() && !path("checkpoints/.step-2.tmp-Ab12").exists());
        for name in ["checkpoints/step-1/state.json", "notes.tmp-1", ".lock"] {
            assert!(path(name).exists(), "{name}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn written_files_have_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (ours, plain) = (dir.path().join("a"), dir.path().join("b"));
        write_atomic(&ours, b"").unwrap();
        fs::write(&plain, b"").unwrap();
        assert_eq!(
            ours.metadata().unwrap().permissions().mode(),
            plain.metadata().unwrap().permissions().mode()
        );
    }
}
