//! A team on a device.

use std::sync::Arc;

use diffmas_backends::ModelBackend;

use super::Session;
use crate::agents::{Team, TeamModel};
use crate::backbone::{Backbone, Parameters};
use crate::error::Result;

/// A team with weights, as the worker keeps it.
pub(super) struct LoadedTeam<B: ModelBackend> {
    pub session: Arc<Session>,
    /// The frozen part.
    pub model: TeamModel<B>,
    /// What it has learned.
    pub parameters: Parameters<B>,
    team: Team<B>,
    /// Whether it has an adapter, or was trained.
    learned: bool,
    /// Whether it was said, or need not be, that nothing was trained.
    told_untrained: bool,
}

impl<B: ModelBackend> LoadedTeam<B> {
    /// The team of `session` on `backbone`.
    ///
    /// # Errors
    /// If what the team learned cannot be read, or does not fit.
    pub fn open(session: Arc<Session>, backbone: Backbone<B>) -> Result<Self> {
        let (model, parameters) = session.team_model(backbone)?;
        let team = model.bind(&parameters);
        let learned = session.config.adapter.is_some();
        let told_untrained = learned || parameters.is_empty();
        Ok(Self { session, model, parameters, team, learned, told_untrained })
    }

    /// The same team, whose parameters are known to be fresh where it has no adapter: nothing is said of that.
    pub fn known_fresh(self) -> Self {
        Self { told_untrained: true, ..self }
    }

    /// Takes over what was learned by training.
    pub fn learn(&mut self, model: TeamModel<B>, parameters: Parameters<B>) {
        self.team = model.bind(&parameters);
        (self.model, self.parameters) = (model, parameters);
        (self.learned, self.told_untrained) = (true, true);
    }

    /// Whether it has an adapter, or was trained.
    pub fn has_learned(&self) -> bool {
        self.learned
    }

    /// The team, to be run or scored.
    pub fn team(&mut self) -> &Team<B> {
        if !self.told_untrained {
            tracing::warn!("without --adapter, the channel `{}` is untrained", self.session.team.channel);
            self.told_untrained = true;
        }
        &self.team
    }

    /// SHA-256 of everything learned.
    pub fn learned_sha256(&self) -> String {
        self.team.learned_sha256()
    }
}
