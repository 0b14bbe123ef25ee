//! The teams that solve the tasks.

use super::{Problem, TaskConfig};
use crate::agents::{AgentConfig, FeedKind, TeamConfig, Topology};
use crate::communication::Transmit;

impl TaskConfig {
    /// Holders that see their own facts and never the question, and a solver that sees the question and nothing of the facts. Holders run
    /// side by side, and pass on their latent positions alone. A latent step's input is a mixture of input embeddings (`soft`): hidden states
    /// as they are lie far from the embeddings of a tiny model, and gradients through several of them explode.
    pub fn team(&self) -> TeamConfig {
        let holder = |i: usize| {
            let name = Problem::holder(i);
            AgentConfig {
                user: Some(format!("{{{{ evidence.{name} }}}} report")),
                ..AgentConfig::named(name)
            }
        };
        let mut agents: Vec<AgentConfig> = (0..self.holders).map(holder).collect();
        let inbox = "{% for message in inbox %}{{ message.text }} {% endfor %}";
        agents.push(solver(format!("{inbox}{{{{ question }}}}")));
        TeamConfig {
            topology: Topology::Hierarchical,
            latent_steps: 8,
            transmit: Transmit::Latent,
            feed: FeedKind::Soft,
            agents,
            ..TeamConfig::default()
        }
    }

    /// One agent that sees everything: the upper bound.
    pub fn all_evidence(&self) -> TeamConfig {
        let facts: String =
            (0..self.holders).map(|i| format!("{{{{ evidence.{} }}}} ", Problem::holder(i))).collect();
        let agents = vec![solver(format!("{facts}{{{{ question }}}}"))];
        TeamConfig { agents, ..TeamConfig::default() }
    }

    /// The solver alone, without any message.
    pub fn alone(&self) -> TeamConfig {
        TeamConfig { agents: vec![solver("{{ question }}".into())], ..TeamConfig::default() }
    }
}

/// The agent that answers, with its prompt.
fn solver(user: String) -> AgentConfig {
    AgentConfig { user: Some(user), ..AgentConfig::named("solver") }
}
