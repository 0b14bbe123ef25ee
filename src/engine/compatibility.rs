//! Whether an adapter runs in the team and on the weights that it learned with.

use std::path::Path;

use super::EngineConfig;
use super::run_folder::run_of;
use crate::agents::{Base, Origin, TeamConfig};
use crate::backbone::ModelFiles;
use crate::error::{Error, Result};

/// The team that is run, and in what it is not the one that the adapter learned in. That is said; another team file is refused.
pub(super) fn team(
    config: &EngineConfig,
    adapter: Option<&Path>,
    origin: Option<&Origin>,
) -> Result<(TeamConfig, Vec<String>)> {
    let stated = config.stated_team()?;
    let Some((dir, origin)) = adapter.zip(origin) else {
        let team = match (stated, adapter) {
            (Some(team), _) => team,
            (None, Some(dir)) => unnamed_team(dir),
            (None, None) => TeamConfig::preset(),
        };
        return Ok((config.overridden(team)?, Vec::new()));
    };
    let by_flags = origin.differences(&config.overridden(origin.team.clone())?);
    let other = stated.is_some();
    let team = config.overridden(stated.unwrap_or_else(|| origin.team.clone()))?;
    let mut changed = origin.differences(&team);
    if other && config.override_team != Some(true) {
        let by_file = changed.iter().filter(|(name, _)| !by_flags.iter().any(|(flag, _)| flag == name));
        let by_file: Vec<&str> = by_file.map(|(_, sentence)| sentence.as_str()).collect();
        if !by_file.is_empty() {
            let why = format!(
                "the adapter learned in another team: {}; leave --system out to run its own team, or give --override-team",
                by_file.join("; ")
            );
            return Err(Error::file(dir, why));
        }
    }
    let theirs = origin.base.adapter_scope;
    if let Some(scope) = config.adapter_scope.filter(|scope| *scope != theirs) {
        let said = format!("`adapter_scope` is {scope:?}, but the adapter learned with {theirs:?}");
        changed.push(("adapter_scope".into(), said));
    }
    let changed: Vec<String> = changed.into_iter().map(|(_, sentence)| sentence).collect();
    Ok((team, changed))
}

/// The team of an adapter that does not name it: that of the run it lies in, else the paper's.
fn unnamed_team(dir: &Path) -> TeamConfig {
    if let Some((config, Some(team))) = run_of(dir).map(|run| (run.config, run.engine.team)) {
        let (dir, config) = (dir.display(), config.display());
        tracing::warn!("{dir}: the adapter does not say in which team it learned; that of {config} is run");
        return team;
    }
    tracing::warn!(
        "{}: the adapter does not say in which team it learned; the planner, critic, refiner and solver of the DiffMAS paper are \
         run (--system FILE.toml gives another team)",
        dir.display()
    );
    TeamConfig::preset()
}

/// Refuses an adapter that learned on a model of other sizes, and warns where the weights are others: a model in another format is a
/// normal case.
pub fn compare_base(dir: &Path, base: &Base, model: &ModelFiles) -> Result<()> {
    if let Some(why) = base.misfit(&model.config) {
        return Err(Error::file(dir, why));
    }
    let (theirs, ours) = (&base.base_model_sha256, model.sha256()?);
    if *theirs != ours {
        tracing::warn!(
            "{}: the adapter learned on other weights (`{}`, SHA-256 {theirs:.12}…) than those of {} ({ours:.12}…); where these are \
             not the same model in another format, answers may make no sense",
            dir.display(),
            base.base_model_name_or_path,
            model.path.display()
        );
    }
    Ok(())
}

/// Warns where an adapter says that it was trained on a model of another name. Its shapes fit, and folders are renamed and copied,
/// so that this need not be a mistake.
pub(super) fn compare_name(adapter: &Path, model: &ModelFiles, base: Option<&str>) {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let path = model.path.to_string_lossy().to_lowercase();
    let (Some(base), Some(name)) = (base, base.and_then(|base| last(Path::new(base)))) else { return };
    let known = last(&model.path).is_some_and(|model| name.contains(&model));
    if !known && !path.contains(&name) {
        tracing::warn!(
            "{}: the adapter was trained on `{base}`, not on {}; answers may make no sense",
            adapter.display(),
            model.path.display()
        );
    }
}
