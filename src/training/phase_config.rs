//! Phases of training as a file states them.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};

use crate::backbone::ParameterGroup;
use crate::communication::ChannelKind;
use crate::error::{Error, Result};
use crate::files::unknown_name;

named_enum! {
    /// A ready-made list of phases.
    PhasePreset, "phase preset" {
        /// One phase, end to end.
        #[default]
        Joint = "joint",
        /// First each role learns its own trajectory with the channel off, then the team learns end to end.
        IndividualThenJoint = "individual-then-joint",
    }
}

/// One `[[phases]]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    /// Its name in logs.
    pub name: String,
    /// Updates; where it is absent, `num_train_epochs` decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Passes over the data, in place of the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_train_epochs: Option<f64>,
    /// Peak learning rate, in place of the run's; each phase has a schedule of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The groups that learn; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_groups")]
    pub train: Option<Vec<ParameterGroup>>,
    /// Whether agents read each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<bool>,
    /// The weight λ of trajectories, in place of the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trajectory_weight: Option<f64>,
}

/// Groups as a file names them: those of any team, and those of every channel that is known.
fn known_groups<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<ParameterGroup>>, D::Error> {
    let groups = Option::<Vec<ParameterGroup>>::deserialize(deserializer)?;
    let channels = ChannelKind::all();
    let known = channels.iter().flat_map(|kind| kind.groups);
    check_groups(groups.iter().flatten(), known).map_err(serde::de::Error::custom)?;
    Ok(groups)
}

/// Refuses groups that are neither among `known` nor among those that every file may name.
pub(super) fn check_groups<'a>(
    groups: impl IntoIterator<Item = &'a ParameterGroup>,
    known: impl IntoIterator<Item = &'a ParameterGroup>,
) -> Result<()> {
    let mut names: Vec<&str> = ParameterGroup::ALWAYS.iter().map(ParameterGroup::name).collect();
    let more: BTreeSet<&str> = known.into_iter().map(ParameterGroup::name).collect();
    names.extend(more.into_iter().filter(|name| !ParameterGroup::ALWAYS.iter().any(|g| g.name() == *name)));
    match groups.into_iter().find(|group| !names.contains(&group.name())) {
        Some(group) => Err(unknown_name("part", group.name(), &names)),
        None => Ok(()),
    }
}

/// Checks what the phases' own settings say.
pub(super) fn check_phases(phases: &[PhaseConfig]) -> Result<()> {
    for (i, p) in phases.iter().enumerate() {
        let wrong = |what: String| Err(Error::invalid(format!("phase `{}`: {what}", p.name)));
        if p.name.is_empty() || phases[..i].iter().any(|q| q.name == p.name) {
            return wrong("phases need names that differ".into());
        }
        if p.max_steps == Some(0) {
            return wrong("max_steps must be at least 1".into());
        }
        if p.num_train_epochs.is_some_and(|n| !n.is_finite() || n <= 0.0) {
            return wrong("num_train_epochs must be a positive number".into());
        }
        for (name, value) in [("learning_rate", p.learning_rate), ("trajectory_weight", p.trajectory_weight)]
        {
            if let Some(x) = value.filter(|x| !x.is_finite() || *x < 0.0) {
                return wrong(format!("{name} must be a number of at least 0, not {x}"));
            }
        }
    }
    Ok(())
}
