//! Training in phases: what learns when, and on which loss.

use std::collections::BTreeSet;

use diffmas_backends::{Autodiff, ModelBackend, host_data};

use super::phase_config::check_groups;
use super::{PhaseConfig, PhasePreset, TraceGradient, TrainConfig};
use crate::agents::TeamConfig;
use crate::backbone::{ParameterGroup, ParameterSpec, ParameterSpecs, Parameters};
use crate::error::{Error, Result};
use crate::text::TokenizedSample;

/// A phase with everything resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Its name in logs.
    pub name: String,
    /// Its updates.
    pub steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// The groups that learn; all where absent.
    pub train: Option<Vec<ParameterGroup>>,
    /// Whether agents read each other.
    pub channel: bool,
    /// The weight λ of trajectories.
    pub trajectory_weight: f64,
}

impl Phase {
    /// Whether this matrix learns in this phase.
    pub fn trains(&self, parameter: &ParameterSpec) -> bool {
        (self.channel || !parameter.needs_channel)
            && self.train.as_ref().is_none_or(|groups| groups.contains(&parameter.group))
    }

    /// The parameters, which `specs` describe, for an autodiff graph: those that learn in this phase as leaves.
    pub(super) fn leaves<B: ModelBackend>(
        &self,
        parameters: &Parameters<B>,
        specs: &ParameterSpecs,
    ) -> Parameters<Autodiff<B>> {
        parameters.leaves(|name| specs.get(name).is_some_and(|spec| self.trains(spec)))
    }
}

impl TrainConfig {
    /// The phases of the run, given the updates of one epoch.
    pub fn phases(&self, updates_per_epoch: usize) -> Vec<Phase> {
        let preset = match self.phase_preset {
            _ if !self.phases.is_empty() => self.phases.clone(),
            PhasePreset::Joint => vec![PhaseConfig { name: "joint".into(), ..PhaseConfig::default() }],
            PhasePreset::IndividualThenJoint => {
                let half = |name: &str| PhaseConfig {
                    name: name.into(),
                    max_steps: self.max_steps.map(|n| if name == "joint" { n.div_ceil(2) } else { n / 2 }),
                    ..PhaseConfig::default()
                };
                let lambda = if self.trajectory_weight > 0.0 { self.trajectory_weight } else { 1.0 };
                let individual = PhaseConfig {
                    channel: Some(false),
                    trajectory_weight: Some(lambda),
                    ..half("individual")
                };
                vec![individual, half("joint")]
            }
        };
        preset
            .into_iter()
            .map(|p| {
                let epochs = p.num_train_epochs.unwrap_or(self.num_train_epochs);
                let max_steps =
                    p.max_steps.or(if p.num_train_epochs.is_some() { None } else { self.max_steps });
                Phase {
                    name: p.name,
                    steps: max_steps.unwrap_or_else(|| (epochs * updates_per_epoch as f64).ceil() as usize),
                    learning_rate: p.learning_rate.unwrap_or(self.learning_rate),
                    train: p.train,
                    channel: p.channel.unwrap_or(true),
                    trajectory_weight: p.trajectory_weight.unwrap_or(self.trajectory_weight),
                }
            })
            .collect()
    }

    /// Updates of the whole run, given those of one epoch.
    pub fn total_steps(&self, updates_per_epoch: usize) -> usize {
        self.phases(updates_per_epoch).iter().map(|p| p.steps).sum()
    }

    /// Refuses training data that lacks what the settings ask of it; returns the difficulty of each line, where there is a curriculum.
    ///
    /// # Errors
    /// Names the phase that weighs trajectories where no sample has any, or the line whose difficulty is missing.
    pub fn check_data(&self, samples: &[TokenizedSample]) -> Result<Option<Vec<f64>>> {
        let has_trajectories = samples.iter().any(|s| s.trajectories.iter().any(Option::is_some));
        if let Some(phase) = self.phases(1).iter().find(|p| p.trajectory_weight > 0.0 && !has_trajectories) {
            return Err(Error::invalid(format!(
                "phase `{}` gives trajectories a weight, but no line has `trajectories`; set trajectory_weight to 0 or add them",
                phase.name
            )));
        }
        self.curriculum.difficulties(samples)
    }
}

/// Refuses phases in which nothing could learn.
///
/// # Errors
/// Names the phase and what is wrong: it names a group that no team has, the team has none of those that it names, or it trains what lies
/// behind gates that are all 0 and stay so.
pub(super) fn check<B: burn::prelude::Backend>(
    phases: &[Phase],
    specs: &ParameterSpecs,
    parameters: &Parameters<B>,
) -> Result<()> {
    let gates: Vec<&ParameterSpec> = specs.iter().filter(|spec| spec.gate).collect();
    let is_open =
        |gate: &&ParameterSpec| host_data(parameters.get(&gate.name).clone()).iter::<f64>().any(|g| g != 0.0);
    let mut open = gates.is_empty() || gates.iter().any(is_open);
    for phase in phases {
        let wrong = |what: String| Err(Error::invalid(format!("phase `{}` {what}", phase.name)));
        if let Err(e) = check_groups(phase.train.iter().flatten(), specs.groups()) {
            return wrong(format!("cannot train: {e}"));
        }
        let trained: Vec<&ParameterSpec> = specs.iter().filter(|spec| phase.trains(spec)).collect();
        if trained.is_empty() {
            return wrong(format!(
                "trains nothing: the team has none of the parts that it names, or they need the channel, which is off (its parts: {})",
                names(specs.groups())
            ));
        }
        open |= trained.iter().any(|spec| spec.gate);
        let behind: BTreeSet<_> =
            trained.iter().filter(|spec| spec.needs_channel).map(|spec| &spec.group).collect();
        if !behind.is_empty() && !open {
            let of = names(gates.iter().map(|gate| &gate.group).collect());
            return wrong(format!(
                "trains the {} while all gates of {of} are 0 and frozen: no gradient would reach it; add \"{of}\" to its `train`",
                names(behind)
            ));
        }
    }
    Ok(())
}

/// Refuses slots and projectors that are to learn, but that no gradient reaches.
///
/// # Errors
/// Names the agent.
pub(super) fn check_inputs(
    phases: &[Phase],
    specs: &ParameterSpecs,
    team: &TeamConfig,
    gradient: TraceGradient,
) -> Result<()> {
    let upstream = team.upstream();
    let inputs: [(_, _, &dyn Fn(usize) -> bool); 2] = [
        (ParameterGroup::SLOTS, "its slots are", &|j| team.slots(j) > 0),
        (ParameterGroup::PROJECTOR, "its projector is", &|j| team.encoder(j).is_some()),
    ];
    for (group, what, has) in inputs {
        let learn = specs.iter().any(|spec| spec.group == group && phases.iter().any(|p| p.trains(spec)));
        let unreached = |j: &usize| has(*j) && !gradient.reaches(*j, upstream.len());
        if let Some(j) = (0..upstream.len()).find(unreached).filter(|_| learn) {
            return Err(Error::invalid(format!(
                "agent `{}`: {what} to learn, but trace_gradient = \"{gradient}\" lets no gradient through; use \"full\", or \
                 phases that do not train \"{group}\"",
                upstream[j].name
            )));
        }
    }
    Ok(())
}

/// Groups, as a sentence lists them.
fn names(groups: BTreeSet<&ParameterGroup>) -> String {
    groups.into_iter().map(ParameterGroup::name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(group: ParameterGroup) -> ParameterSpec {
        ParameterSpec::new("x", [1, 1], group)
    }

    #[test]
    fn presets_and_tables_resolve_to_phases() {
        let mut config = TrainConfig { max_steps: Some(5), ..TrainConfig::default() };
        assert_eq!(config.total_steps(7), 5);
        config.phase_preset = PhasePreset::IndividualThenJoint;
        let phases = config.phases(7);
        assert_eq!(phases.iter().map(|p| (p.steps, p.channel)).collect::<Vec<_>>(), [(2, false), (3, true)]);
        assert_eq!((phases[0].trajectory_weight, phases[1].trajectory_weight), (1.0, 0.0));
        config.phases = vec![
            PhaseConfig {
                name: "a".into(),
                train: Some(vec![ParameterGroup::FEED]),
                ..PhaseConfig::default()
            },
            PhaseConfig { name: "b".into(), num_train_epochs: Some(0.5), ..PhaseConfig::default() },
        ];
        assert_eq!(config.phases(7).iter().map(|p| p.steps).collect::<Vec<_>>(), [5, 4]);
        let a = &config.phases(7)[0];
        assert!(a.trains(&spec(ParameterGroup::FEED)) && !a.trains(&spec(ParameterGroup::LORA)));
    }

    #[test]
    fn the_channels_parts_do_not_learn_while_it_is_off() {
        let config = TrainConfig { phase_preset: PhasePreset::IndividualThenJoint, ..TrainConfig::default() };
        let phases = config.phases(1);
        let of_channel = |group| ParameterSpec { needs_channel: true, ..spec(group) };
        for group in [ParameterGroup::ENCODER, ParameterGroup::named("my_part")] {
            assert!(!phases[0].trains(&of_channel(group.clone())) && phases[1].trains(&of_channel(group)));
        }
        assert!(phases[0].trains(&spec(ParameterGroup::LORA)));
    }
}
