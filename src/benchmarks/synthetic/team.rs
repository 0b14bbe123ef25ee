//! The teams that solve the tasks.

use super::{Problem, TaskConfig};
use crate::agents::{AgentConfig, FeedKind, TeamConfig, Topology};
use crate::communication::Transmit;

impl TaskConfig {
    /// Holders that see their own facts and never the question, and a solver that sees the question and nothing of the facts. Holders run
    /// side by side, and pass on their latent positions alone: learned inputs that are read in one pass (`slots`). A teacher, where there
    /// is one, reads all facts and the question.
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
            feed: FeedKind::Slots,
            teacher_user: Some(self.of_all_holders("evidence")),
            agents,
            ..TeamConfig::default()
        }
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
