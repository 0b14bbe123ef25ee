//! The edges of the graph of agents: resolved, ordered and checked.

use super::TeamConfig;
use super::team::Topology;
use crate::error::{Error, Result};

impl TeamConfig {
    /// The agents that agent `j` reads, in reading order.
    ///
    /// Where each message replaces the one before it, that is the one before: its state stands for all earlier ones.
    pub fn reads(&self, j: usize) -> Vec<usize> {
        match self.topology {
            Topology::Sequential if self.channel.kind.replaces => (j.saturating_sub(1)..j).collect(),
            Topology::Sequential => (0..j).collect(),
            Topology::Hierarchical if j + 1 == self.agents.len() => (0..j).collect(),
            Topology::Hierarchical => Vec::new(),
            Topology::Graph => {
                let named = self.agents[j].reads.iter().flatten();
                named.filter_map(|name| self.agents.iter().position(|a| a.name == *name)).collect()
            }
        }
    }

    /// The team with its agents in an order in which each reads only earlier ones, checked.
    ///
    /// # Errors
    /// As [`TeamConfig::validate`].
    pub fn ordered(mut self) -> Result<Self> {
        if self.topology == Topology::Graph {
            self.check_count()?;
            self.check_names()?;
            let reads: Vec<Vec<usize>> = (0..self.agents.len()).map(|j| self.reads(j)).collect();
            let mut order: Vec<usize> = Vec::with_capacity(reads.len());
            while order.len() < reads.len() {
                let ready = |j: &usize| !order.contains(j) && reads[*j].iter().all(|r| order.contains(r));
                match (0..reads.len()).find(ready) {
                    Some(next) => order.push(next),
                    None => return Err(self.cycle(&reads, &order)),
                }
            }
            self.agents = order.into_iter().map(|j| self.agents[j].clone()).collect();
        }
        self.validate()?;
        Ok(self)
    }

    /// Refuses names that are no other agent's.
    fn check_names(&self) -> Result<()> {
        let known: Vec<&str> = self.agents.iter().map(|a| a.name.as_str()).collect();
        for agent in &self.agents {
            let reads = agent.reads.as_deref().unwrap_or_default();
            for (i, name) in reads.iter().enumerate() {
                let what = if !known.contains(&name.as_str()) {
                    format!("there is no agent `{name}` (agents: {})", known.join(", "))
                } else if *name == agent.name {
                    "an agent cannot read itself".to_string()
                } else if reads[..i].contains(name) {
                    format!("`{name}` is named twice")
                } else {
                    continue;
                };
                return Err(Error::invalid(format!("agent `{}`: `reads`: {what}", agent.name)));
            }
        }
        Ok(())
    }

    /// The error that shows a cycle among the agents that are not in `order`.
    fn cycle(&self, reads: &[Vec<usize>], order: &[usize]) -> Error {
        let open = |j: &usize| !order.contains(j);
        let mut path: Vec<usize> = (0..reads.len()).find(open).into_iter().collect();
        // Every open agent reads an open one, so the path comes back to itself.
        while let Some(&next) = path.last().and_then(|&j| reads[j].iter().find(|j| open(j))) {
            if let Some(from) = path.iter().position(|&j| j == next) {
                path.drain(..from);
                path.push(next);
                break;
            }
            path.push(next);
        }
        let names: Vec<&str> = path.iter().map(|&j| self.agents[j].name.as_str()).collect();
        Error::invalid(format!("agents read each other in a circle: {}", names.join(" reads ")))
    }

    /// Refuses a team whose agents cannot be run one after another, or that has not exactly one final agent.
    pub(super) fn check_topology(&self) -> Result<()> {
        if self.topology != Topology::Graph {
            return match self.agents.iter().find(|a| a.reads.is_some()) {
                Some(agent) => Err(Error::invalid(format!(
                    "agent `{}`: `reads` needs `topology = \"graph\"`; this team is `{}`",
                    agent.name, self.topology
                ))),
                None if self.topology == Topology::Hierarchical && self.channel.kind.replaces => {
                    self.not_sequential()
                }
                None => Ok(()),
            };
        }
        if self.channel.kind.replaces {
            return self.not_sequential();
        }
        self.check_names()?;
        let mut read = vec![false; self.agents.len()];
        for j in 0..self.agents.len() {
            for r in self.reads(j) {
                if r >= j {
                    let (reader, sender) = (&self.agents[j].name, &self.agents[r].name);
                    return Err(Error::invalid(format!(
                        "agent `{reader}` reads `{sender}`, which comes later; list agents so that each reads earlier ones"
                    )));
                }
                read[r] = true;
            }
        }
        let unread = self.agents.iter().zip(&read).filter(|(_, read)| !**read);
        let finals: Vec<&str> = unread.map(|(a, _)| a.name.as_str()).collect();
        match finals[..] {
            [_] => Ok(()),
            _ => Err(Error::invalid(format!(
                "a team has one final agent, but nobody reads {}; let one agent read the others",
                finals.join(", ")
            ))),
        }
    }

    fn not_sequential(&self) -> Result<()> {
        Err(Error::invalid(format!(
            "channel `{}` replaces one state agent by agent and needs `topology = \"sequential\"`, not `{}`",
            self.channel, self.topology
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::AgentConfig;
    use super::*;
    use crate::communication::ChannelKind;

    fn graph(agents: &[(&str, &[&str])]) -> TeamConfig {
        let agent = |(name, reads): &(&str, &[&str])| AgentConfig {
            reads: Some(reads.iter().map(|r| r.to_string()).collect()),
            ..AgentConfig::named(*name)
        };
        TeamConfig {
            topology: Topology::Graph,
            agents: agents.iter().map(agent).collect(),
            ..TeamConfig::default()
        }
    }

    #[test]
    fn agents_are_ordered_so_that_each_reads_earlier_ones_and_the_final_one_is_last() {
        let team = graph(&[("end", &["b", "a"]), ("b", &["a"]), ("a", &[])]).ordered().unwrap();
        let names: Vec<&str> = team.agents.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "end"]);
        assert_eq!((team.reads(1), team.reads(2)), (vec![0], vec![1, 0]));
    }

    #[test]
    fn graphs_that_cannot_run_are_refused_in_a_sentence() {
        for (agents, part) in [
            (
                &[("a", &["c"][..]), ("b", &["a"]), ("c", &["b"]), ("d", &[])][..],
                "circle: a reads c reads b reads a",
            ),
            (&[("a", &[]), ("b", &["x"])], "agent `b`: `reads`: there is no agent `x` (agents: a, b)"),
            (&[("a", &[]), ("b", &["b"])], "cannot read itself"),
            (&[("a", &[]), ("b", &["a", "a"])], "`a` is named twice"),
            (&[("a", &[]), ("b", &["a"]), ("c", &["a"])], "nobody reads b, c"),
        ] {
            let error = graph(agents).ordered().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let mut team = graph(&[("a", &[]), ("b", &["a"])]);
        team.channel = ChannelKind::OVERWRITE.into();
        assert!(
            team.clone().ordered().unwrap_err().to_string().contains("needs `topology = \"sequential\"`")
        );
        (team.channel, team.topology) = (ChannelKind::TRACE.into(), Topology::Sequential);
        assert!(team.ordered().unwrap_err().to_string().contains("`reads` needs `topology = \"graph\"`"));
    }

    #[test]
    fn trajectories_read_nobody_and_the_summariser_reads_all() {
        let names = ["x", "y", "z"];
        let agents = names.iter().map(|&n| AgentConfig::named(n)).collect();
        let team = TeamConfig { topology: Topology::Hierarchical, agents, ..TeamConfig::default() };
        assert_eq!((0..3).map(|j| team.reads(j)).collect::<Vec<_>>(), [vec![], vec![], vec![0, 1]]);
    }
}
