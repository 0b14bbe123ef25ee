//! The methods that answer the questions of a synthetic task, to be compared: bounds, other ways of communicating, a trained team and its controls.

use super::synthetic::{Evidence, TaskConfig};
use crate::agents::{ChannelKind, FeedKind, TeamConfig};
use crate::evaluation::{Control, Part};

/// Which training a team has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Training {
    /// None: the parameters are fresh.
    None,
    /// That of the team that does as much by text, [`text_team`].
    Text,
    /// That of the team that is measured.
    Channel,
}

/// One way of answering with a team: a row of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodConfig {
    /// Its name, as it is shown.
    pub name: String,
    /// What it is in the comparison.
    pub part: Part,
    /// What the final agent receives.
    pub control: Control,
}

/// A team and the ways of answering with it.
#[derive(Clone, Debug, PartialEq)]
pub struct TeamMethods {
    /// The team.
    pub team: TeamConfig,
    /// Which parameters it has.
    pub training: Training,
    /// Its rows of the comparison.
    pub methods: Vec<MethodConfig>,
}

/// All methods that `team`, trained on `task`, is compared with, in the order of the table; the trained team with its controls is the last.
pub fn methods(task: &TaskConfig, team: &TeamConfig) -> Vec<TeamMethods> {
    let one = |name: &str, part, team, training| {
        let method = MethodConfig { name: name.into(), part, control: Control::Real };
        TeamMethods { team, training, methods: vec![method] }
    };
    let message = match team.channel.kind == ChannelKind::TRACE && team.feed == FeedKind::Slots {
        true => "slots".to_string(),
        false => team.channel.to_string(),
    };
    let text = text_team(task, team);
    let latent = TeamConfig { latent_steps: team.latent_steps, feed: FeedKind::Realign, ..task.team() };
    let mut trained = one(&format!("{message}, trained"), Part::Trained, team.clone(), Training::Channel);
    let mut controls =
        vec![Control::None, Control::Zero, Control::Shuffled, Control::Random, Control::SelfRollout];
    let by_text = match task.evidence {
        Evidence::Text => vec![
            one("text, prompted", Part::Baseline, text.clone(), Training::None),
            one("text, trained", Part::Baseline, text, Training::Text),
        ],
        Evidence::Image => {
            controls.insert(3, Control::ShuffledImages);
            vec![one(&format!("{message} of text, trained"), Part::Baseline, text, Training::Text)]
        }
    };
    trained.methods.extend(controls.into_iter().map(|control| MethodConfig {
        name: format!("control {control}"),
        part: Part::Control,
        control,
    }));
    let mut all = vec![
        one("all evidence in one context", Part::Bound, task.all_evidence(), Training::None),
        one("solver alone", Part::Bound, task.alone(), Training::None),
        one("true words in one context", Part::Bound, task.true_words(), Training::None),
    ];
    all.extend(by_text);
    all.extend([
        one("latent, untrained", Part::Baseline, latent, Training::None),
        one(&format!("{message}, untrained"), Part::Baseline, team.clone(), Training::None),
        trained,
    ]);
    all
}

/// What `team`, which solves `task`, is compared with: the same with messages of text, of as many tokens as its own have positions; where its holders
/// see images, the same with their facts in words.
pub fn text_team(task: &TaskConfig, team: &TeamConfig) -> TeamConfig {
    if task.evidence == Evidence::Image {
        let of_text = TaskConfig { evidence: Evidence::Text, ..*task };
        return TeamConfig { agents: of_text.team().agents, ..team.clone() };
    }
    let message_tokens = message_positions(team);
    TeamConfig { channel: ChannelKind::TEXT.into(), message_tokens, ..task.team() }
}

/// Positions of a message of `team`: vectors where it sends nothing else, else latent positions.
pub fn message_positions(team: &TeamConfig) -> usize {
    if team.channel.kind == ChannelKind::VECTORS { team.num_vectors } else { team.latent_steps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_team_is_valid_and_every_row_has_a_name_of_its_own() {
        let task = TaskConfig::default();
        let team = TeamConfig {
            channel: ChannelKind::VECTORS.into(),
            latent_steps: 3,
            num_vectors: 5,
            ..task.team()
        };
        let all = methods(&task, &team);
        all.iter().for_each(|group| group.team.validate().unwrap());
        let rows: Vec<&MethodConfig> = all.iter().flat_map(|group| &group.methods).collect();
        let names: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!((rows.len(), names.len()), (13, 13));
        assert_eq!(rows.iter().filter(|row| row.part == Part::Control).count(), 5);
        let last = all.last().unwrap();
        assert_eq!((&last.team, last.training, last.methods.len()), (&team, Training::Channel, 6));
        assert_eq!(text_team(&task, &team).message_tokens, 5);
        let trace = TeamConfig { channel: ChannelKind::TRACE.into(), ..team };
        assert_eq!(text_team(&task, &trace).message_tokens, 3);
        assert_eq!(methods(&task, &trace).last().unwrap().methods[0].name, "slots, trained");
    }
}
