//! Where an adapter comes from, beside it in its folder: the team that it learned in, and the weights that it learned on.
//!
//! `team.toml` is a team file like any other; `base.json` names the model. With both, the folder says all that is needed to run it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{AdapterScope, TeamConfig};
use crate::backbone::BackboneConfig;
use crate::checkpoint::peft::{BASE, TEAM};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::settings::Settings;

/// The frozen weights that an adapter learned on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// A published name, or the path where the weights lay.
    pub base_model_name_or_path: String,
    /// SHA-256 of all its tensors, [`ModelFiles::sha256`](crate::backbone::ModelFiles::sha256).
    pub base_model_sha256: String,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Which roles the adapter is active in.
    pub adapter_scope: AdapterScope,
}

impl Base {
    /// A model of the sizes `config`.
    pub fn new(name_or_path: String, sha256: String, config: &BackboneConfig, scope: AdapterScope) -> Self {
        Self {
            base_model_name_or_path: name_or_path,
            base_model_sha256: sha256,
            num_hidden_layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            adapter_scope: scope,
        }
    }

    /// Whether a model of other sizes is meant; a sentence about it.
    pub(crate) fn misfit(&self, config: &BackboneConfig) -> Option<String> {
        let theirs = [self.num_hidden_layers, self.hidden_size, self.vocab_size];
        let ours = [config.num_hidden_layers, config.hidden_size, config.vocab_size];
        let sizes = |[layers, width, vocabulary]: [usize; 3]| {
            format!("{layers} layers of width {width} and {vocabulary} tokens")
        };
        (theirs != ours).then(|| {
            format!(
                "the adapter learned on `{}` ({}), but this model has {}",
                self.base_model_name_or_path,
                sizes(theirs),
                sizes(ours)
            )
        })
    }
}

/// Where an adapter comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The team that it learned in.
    pub team: TeamConfig,
    /// The weights that it learned on.
    pub base: Base,
}

impl Origin {
    /// Writes `team.toml` and `base.json` into `dir`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let team = toml::to_string(&self.team).map_err(|e| Error::file(dir.join(TEAM), e))?;
        write_atomic(&dir.join(TEAM), team.as_bytes())?;
        let base = serde_json::to_string_pretty(&self.base).map_err(|e| Error::file(dir.join(BASE), e))?;
        write_atomic(&dir.join(BASE), base.as_bytes())
    }

    /// Reads what [`Self::write`] left in `dir`; none where neither file is there.
    ///
    /// # Errors
    /// If one of the files is missing or damaged.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let (team, path) = (dir.join(TEAM), dir.join(BASE));
        if !team.exists() && !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
        let base = serde_json::from_str(&text).map_err(|e| Error::file(&path, e))?;
        Ok(Some(Self { team: TeamConfig::read(&team)?, base }))
    }

    /// Every setting in which `team` is not the one that the adapter learned in: its name and a sentence. What only a teacher reads is none:
    /// it changes nothing of what the team computes.
    pub fn differences(&self, team: &TeamConfig) -> Vec<(String, String)> {
        let differences = Settings::of(&self.team).differences(&Settings::of(team));
        let said = |d: crate::settings::Difference| {
            let sentence = format!("`{}` is {}, but the adapter learned with {}", d.name, d.now, d.before);
            (d.name, sentence)
        };
        differences.into_iter().filter(|d| d.name != "teacher_user").map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_as_it_was_written_and_tells_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Origin::read(dir.path()).unwrap(), None);
        let base = Base {
            base_model_name_or_path: "some/model".into(),
            base_model_sha256: "0".repeat(64),
            num_hidden_layers: 2,
            hidden_size: 8,
            vocab_size: 100,
            adapter_scope: AdapterScope::FinalOnly,
        };
        let origin = Origin { team: TeamConfig::preset(), base };
        origin.write(dir.path()).unwrap();
        assert_eq!(Origin::read(dir.path()).unwrap().as_ref(), Some(&origin));
        assert_eq!(origin.differences(&origin.team), []);
        let other = TeamConfig { latent_steps: 3, ..origin.team.clone() };
        assert_eq!(
            origin.differences(&other),
            [(
                "latent_steps".to_string(),
                "`latent_steps` is 3, but the adapter learned with 10".to_string()
            )]
        );
        let taught = TeamConfig { teacher_user: Some("{{ question }}".into()), ..origin.team.clone() };
        assert_eq!(origin.differences(&taught), []);
        fs::remove_file(dir.path().join(BASE)).unwrap();
        assert!(Origin::read(dir.path()).unwrap_err().to_string().contains("base.json"));
    }
}
