//! Files and folders that appear under their name only when they are complete.

use super::target::{follow, open_stream, parent};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What temporary names have between the final name and random letters.
const TEMPORARY: &str = ".tmp-";
/// The same of folders that are moved aside while another takes their name.
const ASIDE: &str = ".old-";

/// The temporary files and folders of this process.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Writes `bytes` to `path`: a temporary file in the same folder, flushed to the disk, then renamed.
///
/// A reader sees the old file or the new one, never a part. Missing parent folders are made. A link is replaced, not followed
/// ([`follow`] does that); devices and pipes are written to as they are.
///
/// # Errors
/// When the folder cannot be made or written to, or `path` is a folder, a disk or a socket.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write_atomic`], with the content written by `fill`.
///
/// # Errors
/// When the folder cannot be made or written to, or `fill` fails.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let failed = |error: io::Error| Error::file(path, format!("the file cannot be written: {error}"));
    if let Some(mut stream) = open_stream(path)? {
        return fill(&mut stream).map_err(failed);
    }
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(failed)?;
    let _ = sweep(folder, Some(path), Owner::Anybody);
    let mut temporary = builder(&prefix(path, TEMPORARY), 0o666).tempfile_in(folder).map_err(failed)?;
    let _live = Live::new(temporary.path());
    // Locked while it is written, so that others can tell it from a leftover. Where there are no locks, leftovers stay.
    let _ = temporary.as_file().try_lock();
    fill(temporary.as_file_mut()).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder);
    Ok(())
}

/// Builds a folder beside `dir` through `build`, then puts it in the place of `dir`; what was there before goes last.
///
/// When `build` fails, or the program dies in it, `dir` is as it was. On Linux the two folders change places in one step. Where
/// the system cannot do that, the old one is moved aside for the moment between two renames; the next writer puts it back if
/// the program dies then.
///
/// # Errors
/// What `build` returns, or that the folder cannot be written; `dir` may not be an existing file.
pub fn write_folder_atomic(dir: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    // A link to a folder keeps being one: its target is replaced.
    let target = follow(dir)?;
    let failed = |error: io::Error| Error::file(dir, format!("the folder cannot be written: {error}"));
    if target.exists() && !target.is_dir() {
        return Err(Error::file(dir, "a folder is to be written here, but there is a file of that name"));
    }
    let folder = parent(&target);
    fs::create_dir_all(folder).map_err(failed)?;
    let _ = recover(&target);
    let temporary = builder(&prefix(&target, TEMPORARY), 0o777).tempdir_in(folder).map_err(failed)?;
    let _live = Live::new(temporary.path());
    let lock = File::open(temporary.path());
    let _ = lock.as_ref().map(File::try_lock);
    build(temporary.path())?;
    sync_tree(temporary.path()).map_err(failed)?;
    replace(temporary.path(), &target).map_err(failed)?;
    sync_folder(folder);
    Ok(()) // what the temporary name now stands for, if anything, is the old folder, which goes
}

/// Gives the folder `new` the name `target`; a folder of that name ends under the temporary one or is removed.
fn replace(new: &Path, target: &Path) -> io::Result<()> {
    // The process does not end between two renames.
    let _live = live();
    if !target.exists() {
        return fs::rename(new, target);
    }
    exchange(new, target).or_else(|_| replace_in_two_steps(new, target))
}

/// Lets two folders change places.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// Lets two folders change places, which this system cannot do.
#[cfg(not(target_os = "linux"))]
fn exchange(_a: &Path, _b: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// As [`exchange`], with a moment in which `target` is missing.
fn replace_in_two_steps(new: &Path, target: &Path) -> io::Result<()> {
    let aside = builder(&prefix(target, ASIDE), 0o777).tempdir_in(parent(target))?;
    fs::rename(target, aside.path())?;
    let Err(error) = fs::rename(new, target) else { return Ok(()) };
    // Should this fail too, the old content stays where the message says.
    let kept = aside.keep();
    let Err(second) = fs::rename(&kept, target) else { return Err(error) };
    Err(io::Error::other(format!("{error}; {second}; the old one is now {}", kept.display())))
}

/// A temporary file or folder of this process, until dropped.
struct Live(PathBuf);

impl Live {
    fn new(path: &Path) -> Self {
        live().insert(path.to_path_buf());
        Self(path.to_path_buf())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        live().remove(&self.0);
    }
}

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process at once, whatever its threads are doing, with exit code `code`; temporary files and folders go before.
pub fn end_process(code: i32) -> ! {
    // Held to the end: no thread gets to see that its file is gone.
    let live = live();
    for path in &*live {
        let _ = remove(path);
    }
    std::process::exit(code)
}

/// Removes what writers that were killed in the act left below `dir`: files and folders under temporary names. What they had moved
/// aside comes back if nothing has taken its place.
///
/// Only for a folder that nobody else writes to.
///
/// # Errors
/// When a folder cannot be read or a leftover not be removed.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    sweep(dir, None, Owner::Caller)?;
    for entry in fs::read_dir(dir).map_err(|error| uncleared(dir, &error))? {
        let entry = entry.map_err(|error| uncleared(dir, &error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_leftovers(&entry.path())?;
        }
    }
    Ok(())
}

/// Puts back what a writer of whole folders that was killed had moved aside from `dir`, and removes what else it left.
///
/// # Errors
/// When the folder around it cannot be read, or a leftover not be moved.
pub fn recover(dir: &Path) -> Result<()> {
    let target = follow(dir)?;
    let folder = parent(&target);
    if folder.is_dir() { sweep(folder, Some(&target), Owner::Anybody) } else { Ok(()) }
}

/// Who may write to a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The caller alone: nobody is writing what has a temporary name.
    Caller,
    /// Other processes, too, which lock what they write.
    Anybody,
}

/// Removes leftovers in `folder`, those of `path` alone where it is given.
fn sweep(folder: &Path, path: Option<&Path>, owner: Owner) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| uncleared(folder, &error))? {
        let left = entry.map_err(|error| uncleared(folder, &error))?.path();
        let name = left.file_name().unwrap_or_default().to_string_lossy();
        let Some((name, mark)) = split_temporary(&name) else { continue };
        let place = folder.join(name);
        if path.is_some_and(|path| path.file_name() != Some(OsStr::new(name)))
            || (owner == Owner::Anybody && !is_abandoned(&left))
        {
            continue;
        }
        let done = if mark == ASIDE && !place.exists() { fs::rename(&left, &place) } else { remove(&left) };
        done.map_err(|error| uncleared(&left, &error))?;
    }
    Ok(())
}

fn uncleared(path: &Path, error: &io::Error) -> Error {
    Error::file(path, format!("what a killed run left cannot be removed: {error}"))
}

/// The final name in a temporary one, and what marks it.
fn split_temporary(name: &str) -> Option<(&str, &'static str)> {
    let name = name.strip_prefix('.')?;
    [TEMPORARY, ASIDE].into_iter().find_map(|mark| Some((name.rsplit_once(mark)?.0, mark)))
}

/// Whether no process holds the lock of the temporary file or folder at `path`.
fn is_abandoned(path: &Path) -> bool {
    let plain = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() || meta.is_dir());
    plain && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Removes a file, a link or a folder with all it holds.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// The start of the temporary names with `mark`, `.NAME.tmp-`.
fn prefix(path: &Path, mark: &str) -> String {
    format!(".{}{mark}", path.file_name().unwrap_or_default().to_string_lossy())
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
    fn the_old_folder_comes_back_if_the_program_died_between_two_renames() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, new) = (parent.path().join("mg"), parent.path().join("new"));
        for path in [&dir, &new] {
            write_folder_atomic(path, |tmp| write_atomic(&tmp.join("a"), path.to_str().unwrap().as_bytes()))
                .unwrap();
        }
        replace_in_two_steps(&new, &dir).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), new.to_str().unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        fs::rename(&dir, parent.path().join(".mg.old-Ab12")).unwrap();
        fs::create_dir(parent.path().join(".mg.tmp-Cd34")).unwrap();
        recover(&dir).unwrap();
        assert!(dir.join("a").exists());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_leftover_goes_with_the_next_writer_unless_another_is_writing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let (dead, other) = (dir.path().join(".a.bin.tmp-Ab12"), dir.path().join(".b.bin.tmp-Ab12"));
        let alive = dir.path().join(".a.bin.tmp-Cd34");
        for path in [&dead, &other, &alive] {
            fs::write(path, "half").unwrap();
        }
        let writer = File::open(&alive).unwrap();
        writer.try_lock().unwrap();
        write_atomic(&path, b"whole").unwrap();
        assert!(!dead.exists() && other.exists() && alive.exists());
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
