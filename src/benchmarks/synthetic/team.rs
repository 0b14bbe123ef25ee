//! The teams that solve the tasks.

use super::{Evidence, Problem, TaskConfig};
use crate::agents::{AgentConfig, ChannelKind, FeedKind, TeamConfig, Topology};
use crate::backbone::ParameterGroup;
use crate::communication::Transmit;

/// Numbers of a vector.
const VECTOR_DIM: usize = 128;

/// How many vectors take as many bytes as the keys and values of so many positions: four layers, two heads, 32 numbers each.
pub fn vectors_of(positions: usize) -> usize {
    positions.saturating_mul(4 * 2 * 2 * 32 / VECTOR_DIM)
}

impl TaskConfig {
    /// Holders that see their own facts and never the question, and a solver that sees the question and nothing of the facts. Holders run
    /// side by side, and pass on their latent positions alone: learned inputs that are read in one pass (`slots`). A teacher, where there
    /// is one, reads all facts and the question.
    pub fn team(&self) -> TeamConfig {
        let holder = |i: usize| {
            let name = Problem::holder(i);
            match self.evidence {
                Evidence::Text => AgentConfig {
                    user: Some(format!("{{{{ evidence.{name} }}}} report")),
                    ..AgentConfig::named(name)
                },
                Evidence::Image => AgentConfig {
                    encoder: Some("text-line".into()),
                    image: Some(format!("{{{{ images.{name} }}}}")),
                    user: Some("report".into()),
                    ..AgentConfig::named(name)
                },
            }
        };
        let mut agents: Vec<AgentConfig> = (0..self.holders).map(holder).collect();
        let inbox = "{% for message in inbox %}{{ message.text }} {% endfor %}";
        agents.push(solver(format!("{inbox}{{{{ question }}}}")));
        TeamConfig {
            topology: Topology::Hierarchical,
            latent_steps: 8,
            transmit: Transmit::Latent,
            feed: FeedKind::Slots,
            teacher_user: Some(self.of_all_holders("evidence")),
            agents,
            ..TeamConfig::default()
        }
    }

    /// The same team on `channel`. Where only vectors pass, the encoder reads all that a holder does, its prompt, too, and what it begins with
    /// are thoughts that are mixtures of words (`soft`): from them readers learn to look things up, from slots, which mean nothing yet, they
    /// do not. There are as many vectors as take the bytes of the latent positions' keys and values in the tiny model.
    pub fn team_on(&self, channel: ChannelKind) -> TeamConfig {
        let team = TeamConfig { channel: channel.into(), ..self.team() };
        if !team.channel.kind.groups.contains(&ParameterGroup::CROSS_ATTENTION) {
            return team;
        }
        let team = TeamConfig { vector_dim: VECTOR_DIM, cross_attention_layers: Some(vec![1, 2, 3]), ..team };
        if channel != ChannelKind::VECTORS {
            return team;
        }
        let num_vectors = vectors_of(team.latent_steps);
        TeamConfig { feed: FeedKind::Soft, transmit: Transmit::All, num_vectors, ..team }
    }

    /// One agent that sees everything: the upper bound.
    pub fn all_evidence(&self) -> TeamConfig {
        TeamConfig { agents: vec![solver(self.of_all_holders("evidence"))], ..TeamConfig::default() }
    }

    /// One agent that sees what the holders would write who knew which facts matter: the bound of as many words.
    pub fn true_words(&self) -> TeamConfig {
        TeamConfig { agents: vec![solver(self.of_all_holders("reports"))], ..TeamConfig::default() }
    }

    /// The solver alone, without any message.
    pub fn alone(&self) -> TeamConfig {
        TeamConfig { agents: vec![solver("{{ question }}".into())], ..TeamConfig::default() }
    }

    /// A prompt with what all holders have in a field, and the question.
    fn of_all_holders(&self, field: &str) -> String {
        let all: String =
            (0..self.holders).map(|i| format!("{{{{ {field}.{} }}}} ", Problem::holder(i))).collect();
        format!("{all}{{{{ question }}}}")
    }
}

/// The agent that answers, with its prompt.
fn solver(user: String) -> AgentConfig {
    AgentConfig { user: Some(user), ..AgentConfig::named("solver") }
}
