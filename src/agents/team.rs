//! The team: who takes part, in which order, and how they communicate. One TOML file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::text::toml_file::{nearest, read_toml};

/// Defines an enum whose variants are written as lower-case names in files and on the command line.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// The names, in the order of declaration.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name as it is written in files and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(unknown_name($what, text, Self::NAMES)),
                }
            }
        }
    };
}

fn unknown_name(what: &str, text: &str, names: &[&str]) -> Error {
    let known = names.join(", ");
    Error::invalid(match nearest(text, names) {
        Some(right) => format!("unknown {what} `{text}`; did you mean `{right}`? (known: {known})"),
        None => format!("unknown {what} `{text}`; known: {known}"),
    })
}

named_enum! {
    /// What agents pass to each other.
    Channel, "channel" {
        /// Keys and values of the shared model.
        #[default]
        Trace = "trace",
        /// A fixed number of learned vectors per agent.
        Vectors = "vectors",
        /// Trace and vectors.
        Hybrid = "hybrid",
        /// A state of fixed size that every agent replaces.
        Overwrite = "overwrite",
        /// Text, as in the classical system.
        Text = "text",
    }
}

named_enum! {
    /// Who reads whom.
    Topology, "topology" {
        /// Every agent reads all earlier ones.
        #[default]
        Sequential = "sequential",
        /// Independent experts, then a summariser that reads them all.
        Hierarchical = "hierarchical",
        /// Any directed acyclic graph with one final agent.
        Graph = "graph",
    }
}

named_enum! {
    /// Which of its positions an upstream agent leaves in the trace.
    Transmit, "transmit" {
        /// Prompt and latent positions.
        #[default]
        All = "all",
        /// Latent positions only.
        Latent = "latent",
        /// Prompt positions only.
        Prompt = "prompt",
    }
}

named_enum! {
    /// How a hidden state becomes the next input embedding of a latent step.
    FeedKind, "feed" {
        /// The hidden state itself, rescaled.
        #[default]
        Identity = "identity",
        /// Through the ridge solution from output to input embeddings.
        Realign = "realign",
        /// The mean input embedding under the model's next-token distribution.
        Soft = "soft",
        /// Through a trainable matrix.
        Learned = "learned",
    }
}

/// The team file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeamConfig {
    /// What agents pass to each other.
    pub channel: Channel,
    /// Who reads whom.
    pub topology: Topology,
    /// Latent steps of every upstream agent that does not set its own.
    pub latent_steps: usize,
    /// What every upstream agent that does not set its own leaves in the trace.
    pub transmit: Transmit,
    /// The feed of every upstream agent that does not set its own.
    pub feed: FeedKind,
    /// The agents in order; the last one answers.
    pub agents: Vec<AgentConfig>,
}

/// One agent of the team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The role's name, unique in the team; also the name of its folder in a run's output.
    pub name: String,
    /// The system prompt, a template over the fields of a data line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The user prompt, a template over the fields of a data line. Only pre-tokenised data does without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Latent steps of this agent in place of the team's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent_steps: Option<usize>,
    /// What this agent leaves in the trace, in place of the team's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit: Option<Transmit>,
    /// The feed of this agent in place of the team's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedKind>,
}

impl AgentConfig {
    /// An agent with a name and nothing else set.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), system: None, user: None, latent_steps: None, transmit: None, feed: None }
    }
}

impl Default for TeamConfig {
    /// The defaults of the team file, without any agent.
    fn default() -> Self {
        Self {
            channel: Channel::default(),
            topology: Topology::default(),
            latent_steps: 10,
            transmit: Transmit::default(),
            feed: FeedKind::default(),
            agents: Vec::new(),
        }
    }
}

impl TeamConfig {
    /// Reads and validates the team file at `path`.
    ///
    /// # Errors
    /// As [`read_toml`] and [`TeamConfig::validate`], naming the file.
    pub fn read(path: &Path) -> Result<Self> {
        let team: Self = read_toml(path)?;
        team.validate().map_err(|e| Error::file(path, e))?;
        Ok(team)
    }

    /// The paper's team, see [`paper_team`](super::preset::paper_team).
    pub fn preset() -> Self {
        super::preset::paper_team()
    }

    /// Refuses what does not make sense or is not supported yet. To be called again when settings have
    /// changed.
    ///
    /// # Errors
    /// One sentence that names the setting and the agent.
    pub fn validate(&self) -> Result<()> {
        if self.channel != Channel::Trace {
            return Err(Error::invalid(format!(
                "channel `{}` is not supported yet; use `trace`",
                self.channel
            )));
        }
        if self.topology != Topology::Sequential {
            let topology = self.topology;
            return Err(Error::invalid(format!(
                "topology `{topology}` is not supported yet; use `sequential`"
            )));
        }
        let Some(last) = self.agents.last() else {
            return Err(Error::invalid(
                "a team needs at least one agent: add an [[agents]] table with a `name`",
            ));
        };
        for (index, agent) in self.agents.iter().enumerate() {
            check_name(index, &agent.name)?;
            // Names become folder names, and some file systems do not tell cases apart.
            if let Some(twin) = self.agents[..index].iter().find(|a| a.name.eq_ignore_ascii_case(&agent.name))
            {
                return Err(Error::invalid(format!(
                    "two agents are called `{}` and `{}`; names must differ, and not only in case",
                    twin.name, agent.name
                )));
            }
        }
        for (set, field) in [
            (last.latent_steps.is_some(), "latent_steps"),
            (last.transmit.is_some(), "transmit"),
            (last.feed.is_some(), "feed"),
        ] {
            if set {
                return Err(Error::invalid(format!(
                    "agent `{}`: `{field}` has no effect on the final agent, which answers; remove it",
                    last.name
                )));
            }
        }
        for (index, agent) in self.upstream().iter().enumerate() {
            if self.transmit(index) == Transmit::Latent && self.steps(index) == 0 {
                return Err(Error::invalid(format!(
                    "agent `{}`: `transmit = \"latent\"` with `latent_steps = 0` would transmit nothing",
                    agent.name
                )));
            }
        }
        Ok(())
    }

    /// All agents but the final one.
    pub fn upstream(&self) -> &[AgentConfig] {
        self.agents.split_last().map_or(&[], |(_, upstream)| upstream)
    }

    /// Latent steps of agent `j`: its own or the team's; 0 for the final agent.
    pub fn steps(&self, j: usize) -> usize {
        self.upstream().get(j).map_or(0, |agent| agent.latent_steps.unwrap_or(self.latent_steps))
    }

    /// What agent `j` leaves in the trace: its own setting or the team's.
    pub fn transmit(&self, j: usize) -> Transmit {
        self.agents.get(j).and_then(|agent| agent.transmit).unwrap_or(self.transmit)
    }

    /// The feed of agent `j`: its own or the team's.
    pub fn feed(&self, j: usize) -> FeedKind {
        self.agents.get(j).and_then(|agent| agent.feed).unwrap_or(self.feed)
    }
}

fn check_name(index: usize, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid(format!("agent {} has an empty `name`", index + 1)));
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return Err(Error::invalid(format!(
            "agent name `{name}`: names become folder names and may hold ASCII letters, digits, `_` and \
             `-` only"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<TeamConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("team.toml");
        std::fs::write(&path, text).unwrap();
        TeamConfig::read(&path)
            .map_err(|e| e.to_string().replace(&format!("{}", path.display()), "team.toml"))
    }

    fn team(names: &[&str]) -> TeamConfig {
        TeamConfig { agents: names.iter().map(|&n| AgentConfig::named(n)).collect(), ..TeamConfig::default() }
    }

    #[test]
    fn defaults_and_settings_per_agent_are_resolved() {
        let team = read(
            "transmit = \"prompt\"\n[[agents]]\nname = \"a\"\nlatent_steps = 3\nfeed = \"soft\"\n\
             [[agents]]\nname = \"b\"\ntransmit = \"latent\"\n[[agents]]\nname = \"c\"\n\
             user = \"{{ question }}\"\n",
        )
        .unwrap();
        assert_eq!((team.channel, team.topology), (Channel::Trace, Topology::Sequential));
        assert_eq!((0..3).map(|j| team.steps(j)).collect::<Vec<_>>(), [3, 10, 0]);
        assert_eq!((team.transmit(0), team.transmit(1)), (Transmit::Prompt, Transmit::Latent));
        assert_eq!((team.feed(0), team.feed(1)), (FeedKind::Soft, FeedKind::Identity));
        assert_eq!(team.upstream().len(), 2);
    }

    #[test]
    fn a_team_written_and_read_again_is_the_same() {
        let mut team = TeamConfig::preset();
        team.agents[1].transmit = Some(Transmit::Latent);
        assert_eq!(read(&toml::to_string(&team).unwrap()).unwrap(), team);
    }

    #[test]
    fn a_misspelt_key_names_file_line_and_nearest_key() {
        let error = read("latent_step = 3\n").unwrap_err();
        assert!(
            error.starts_with("team.toml, line 1: unknown key `latent_step`; did you mean `latent_steps`?")
        );
        let error = read("feed = \"soft\"\n[[agents]]\nname = \"a\"\nusr = \"x\"\n").unwrap_err();
        assert!(error.starts_with("team.toml, line 4: unknown key `usr`; did you mean `user`?"), "{error}");
    }

    #[test]
    fn what_is_not_supported_yet_is_refused_in_a_sentence() {
        let agents = "[[agents]]\nname = \"a\"\n";
        let error = read(&format!("channel = \"vectors\"\n{agents}")).unwrap_err();
        assert_eq!(error, "team.toml: channel `vectors` is not supported yet; use `trace`");
        let error = read(&format!("topology = \"graph\"\n{agents}")).unwrap_err();
        assert!(error.contains("topology `graph` is not supported yet"));
    }

    #[test]
    fn names_must_be_present_different_and_safe_as_folders() {
        team(&["solver"]).validate().unwrap();
        for (names, part) in [
            (&[][..], "at least one agent"),
            (&["a", "b", "a"], "names must differ"),
            (&["a", "A"], "names must differ"),
            (&["a", ""], "agent 2 has an empty `name`"),
            (&["../a"], "folder names"),
            (&["a b"], "folder names"),
        ] {
            let error = team(names).validate().unwrap_err().to_string();
            assert!(error.contains(part), "{names:?}: {error}");
        }
    }

    #[test]
    fn latent_transmission_without_latent_steps_is_refused_upstream_only() {
        let mut config = team(&["a", "b"]);
        (config.transmit, config.latent_steps) = (Transmit::Latent, 0);
        assert!(config.validate().unwrap_err().to_string().starts_with("agent `a`: `transmit = \"latent\"`"));
        config.agents[0].latent_steps = Some(1);
        config.validate().unwrap();
        config.agents[1].latent_steps = Some(0);
        assert!(config.validate().unwrap_err().to_string().contains("no effect on the final agent"));
    }

    #[test]
    fn names_of_settings_are_parsed_and_displayed() {
        for name in Channel::NAMES {
            assert_eq!(name.parse::<Channel>().unwrap().to_string(), *name);
        }
        assert_eq!(format!("{:>9}", FeedKind::Learned), "  learned");
        let error = "latnt".parse::<Transmit>().unwrap_err().to_string();
        assert_eq!(error, "unknown transmit `latnt`; did you mean `latent`? (known: all, latent, prompt)");
    }
}
