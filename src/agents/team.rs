//! The team: who takes part, in which order, and how they communicate. One TOML file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SlotPlacement;
use crate::backbone::BackboneConfig;
use crate::communication::{
    ChannelConfig, ChannelSettings, MessageDtype, OverwriteUpdate, TeamSizes, Transmit, VectorsSettings,
};
use crate::error::{Error, Result};
use crate::files::read_toml;
use crate::images::{EncoderKind, encoder_kind};

/// Most agents of a team: the plan of positions grows with the cube of their number.
const MOST_AGENTS: usize = 256;

named_enum! {
    /// Which agents' messages an agent reads.
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
        /// No hidden state: all latent positions are trainable input embeddings of the role, read in one pass.
        Slots = "slots",
    }
}

/// The team file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeamConfig {
    /// What agents pass to each other.
    pub channel: ChannelConfig,
    /// Which agents' messages an agent reads.
    pub topology: Topology,
    /// Latent steps of every upstream agent that does not set its own.
    pub latent_steps: usize,
    /// What every upstream agent that does not set its own leaves in the trace.
    pub transmit: Transmit,
    /// The feed of every upstream agent that does not set its own.
    pub feed: FeedKind,
    /// What the numbers of all messages are rounded to.
    pub message_dtype: MessageDtype,
    /// Vectors that an agent sends, `M` (`vectors`, `hybrid`, `overwrite`).
    pub num_vectors: usize,
    /// Width of a vector, `c`.
    pub vector_dim: usize,
    /// Heads of communication encoder and cross-agent attention.
    pub vector_heads: usize,
    /// Layers in which a reader attends to vectors; every fourth, from the first on, where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_attention_layers: Option<Vec<usize>>,
    /// Whether query `m` of the communication encoder prefers the `m`-th part of the rollout.
    pub encoder_position_prior: bool,
    /// How an agent replaces the state of `overwrite`.
    pub overwrite_update: OverwriteUpdate,
    /// Most tokens that an upstream agent writes on the channel `text`, where it does not set its own.
    pub message_tokens: usize,
    /// Where the slots of `feed = "slots"` stand in a prompt.
    pub slot_placement: SlotPlacement,
    /// What a teacher reads as the user's turn, a template over the fields of a data line, in place of the agents' own prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_user: Option<String>,
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
    /// Most tokens that this agent writes on the channel `text`, in place of the team's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_tokens: Option<usize>,
    /// What makes features of the image that this agent sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// The image that it sees before its prompt: a template over the fields of a data line that gives the path of a PNG file, or its bytes in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The agents that this one reads, in this order (topology `graph`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Vec<String>>,
}

impl AgentConfig {
    /// An agent with a name and nothing else set.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            system: None,
            user: None,
            latent_steps: None,
            transmit: None,
            feed: None,
            message_tokens: None,
            encoder: None,
            image: None,
            reads: None,
        }
    }
}

impl Default for TeamConfig {
    /// The defaults of the team file, without any agent.
    fn default() -> Self {
        let vectors = VectorsSettings::default();
        Self {
            channel: ChannelConfig::default(),
            topology: Topology::default(),
            latent_steps: 10,
            transmit: Transmit::default(),
            feed: FeedKind::default(),
            message_dtype: MessageDtype::default(),
            num_vectors: vectors.num_vectors,
            vector_dim: vectors.vector_dim,
            vector_heads: vectors.vector_heads,
            cross_attention_layers: vectors.cross_attention_layers,
            encoder_position_prior: vectors.encoder_position_prior,
            overwrite_update: OverwriteUpdate::default(),
            message_tokens: 128,
            slot_placement: SlotPlacement::default(),
            teacher_user: None,
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
        team.ordered().map_err(|e| Error::file(path, e))
    }

    /// Refuses what does not make sense. To be called again when settings have changed.
    ///
    /// # Errors
    /// One sentence that names the setting and the agent.
    pub fn validate(&self) -> Result<()> {
        let Some(last) = self.agents.last() else {
            return Err(Error::invalid(
                "a team needs at least one agent: add an [[agents]] table with a `name`",
            ));
        };
        self.check_count()?;
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
            (last.message_tokens.is_some(), "message_tokens"),
            (last.encoder.is_some(), "encoder"),
            (last.image.is_some(), "image"),
        ] {
            if set {
                return Err(Error::invalid(format!(
                    "agent `{}`: `{field}` has no effect on the final agent, which answers; remove it",
                    last.name
                )));
            }
        }
        for (index, agent) in self.upstream().iter().enumerate() {
            let of_agent = |why: &dyn Display| Error::invalid(format!("agent `{}`: {why}", agent.name));
            match (&agent.encoder, &agent.image) {
                (Some(name), Some(_)) => drop(encoder_kind(name).map_err(|e| of_agent(&e))?),
                (Some(_), None) => {
                    return Err(of_agent(&"an `encoder` without an `image` has nothing to see"));
                }
                (None, Some(_)) => {
                    return Err(of_agent(&"an `image` without an `encoder` is seen by nobody"));
                }
                (None, None) => {}
            }
            if self.channel.kind.text && self.message_tokens(index) == 0 {
                return Err(Error::invalid(format!(
                    "agent `{}`: with `message_tokens = 0` it would write nothing",
                    agent.name
                )));
            }
            if !self.channel.kind.text && self.transmit(index) == Transmit::Latent && self.steps(index) == 0 {
                return Err(Error::invalid(format!(
                    "agent `{}`: `transmit = \"latent\"` with `latent_steps = 0` would transmit nothing",
                    agent.name
                )));
            }
        }
        self.check_topology()?;
        self.channel.kind.check(&self.channel_settings(), None)
    }

    /// Refuses settings of the channel, and numbers of slots, that make no sense on a model of the sizes `config`.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub(crate) fn check_model(&self, config: &BackboneConfig) -> Result<()> {
        let most = config.max_position_embeddings;
        if let Some(j) = (0..self.agents.len().saturating_sub(1)).find(|&j| self.slots(j) > most) {
            return Err(Error::invalid(format!(
                "agent `{}` has {} slots, but the model has {most} positions (max_position_embeddings); lower latent_steps",
                self.agents[j].name,
                self.slots(j)
            )));
        }
        self.channel.kind.check(&self.channel_settings(), Some(&self.sizes(config)))
    }

    /// Refuses more agents than can work together.
    pub(super) fn check_count(&self) -> Result<()> {
        match self.agents.len() {
            count if count > MOST_AGENTS => Err(Error::invalid(format!(
                "the team has {count} agents; at most {MOST_AGENTS} can work together"
            ))),
            _ => Ok(()),
        }
    }

    /// The settings of the channel: its own table, or those keys of this file that are its.
    pub fn channel_settings(&self) -> ChannelSettings {
        let Some(keys) = self.channel.kind.keys else { return self.channel.settings().clone() };
        let all = serde_json::to_value(self).expect("settings are plain data");
        keys.iter().filter_map(|&key| Some((key.to_string(), all.get(key)?.clone()))).collect()
    }

    /// How many vectors an agent sends, and their width, where the channel has some.
    pub fn vectors(&self) -> Option<[usize; 2]> {
        self.channel.kind.vectors(&self.channel_settings())
    }

    /// What shapes depend on in this team, on a model of the sizes `config`.
    pub fn sizes(&self, config: &BackboneConfig) -> TeamSizes {
        TeamSizes::new(config, self.agents.iter().map(|agent| agent.name.clone()).collect())
    }

    /// All agents but the final one.
    pub fn upstream(&self) -> &[AgentConfig] {
        self.agents.split_last().map_or(&[], |(_, upstream)| upstream)
    }

    /// The name of the final agent.
    pub(crate) fn final_name(&self) -> &str {
        self.agents.last().map_or("", |agent| &agent.name)
    }

    /// Latent steps of agent `j`: its own or the team's; 0 for the final agent, and where agents write text.
    pub fn steps(&self, j: usize) -> usize {
        if self.channel.kind.text {
            return 0;
        }
        self.upstream().get(j).map_or(0, |agent| agent.latent_steps.unwrap_or(self.latent_steps))
    }

    /// The encoder of the image that agent `j` sees, if it sees one.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn encoder(&self, j: usize) -> Option<&'static EncoderKind> {
        let name = self.agents.get(j)?.encoder.as_deref()?;
        Some(encoder_kind(name).expect("a valid configuration"))
    }

    /// The encoders of what agents see by name, each once.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn encoders(&self) -> BTreeMap<&'static str, &'static EncoderKind> {
        let upstream = 0..self.upstream().len();
        upstream.filter_map(|j| self.encoder(j)).map(|kind| (kind.name, kind)).collect()
    }

    /// How many slots agent `j` has: its latent positions, where its feed is `slots`.
    pub fn slots(&self, j: usize) -> usize {
        if self.feed(j) == FeedKind::Slots { self.steps(j) } else { 0 }
    }

    /// Latent steps of all agents together.
    pub fn total_steps(&self) -> usize {
        (0..self.agents.len()).map(|j| self.steps(j)).sum()
    }

    /// Most tokens that agent `j` writes: its own setting or the team's.
    pub fn message_tokens(&self, j: usize) -> usize {
        self.agents.get(j).and_then(|agent| agent.message_tokens).unwrap_or(self.message_tokens)
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
    use crate::communication::ChannelKind;

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
        assert_eq!((team.channel.kind, team.topology), (ChannelKind::TRACE, Topology::Sequential));
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
    fn sizes_of_the_learned_channel_must_make_sense() {
        let agents = "[[agents]]\nname = \"a\"\n[[agents]]\nname = \"b\"\n";
        for (settings, part) in [
            ("num_vectors = 0", "num_vectors must be at least 1"),
            ("vector_dim = 0", "vector_dim must be at least 1"),
            ("vector_dim = 10", "vector_dim = 10 cannot be divided among vector_heads = 4 heads"),
            ("cross_attention_layers = []", "nobody would read the vectors"),
        ] {
            let error = read(&format!("channel = \"vectors\"\n{settings}\n{agents}")).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
        let mut config = team(&["a", "b"]);
        (config.channel, config.cross_attention_layers) = (ChannelKind::HYBRID.into(), Some(vec![1, 4]));
        let sizes = TeamSizes {
            hidden_size: 8,
            num_hidden_layers: 4,
            num_key_value_heads: 1,
            head_dim: 8,
            agents: vec!["a".into(), "b".into()],
        };
        let check = |sizes| config.channel.kind.check(&config.channel_settings(), sizes);
        check(None).unwrap();
        let error = check(Some(&sizes)).unwrap_err().to_string();
        assert_eq!(error, "cross_attention_layers names layer 4, but the model's layers are 0 to 3");
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
    fn a_team_may_have_so_many_agents_and_no_more() {
        let names: Vec<String> = (0..=MOST_AGENTS).map(|i| format!("a{i}")).collect();
        let mut many = team(&names.iter().map(String::as_str).collect::<Vec<_>>());
        many.topology = Topology::Graph;
        let error = many.clone().ordered().unwrap_err().to_string();
        assert!(error.contains("257 agents") && error.contains("at most 256"), "{error}");
        many.agents.pop();
        many.topology = Topology::Sequential;
        many.validate().unwrap();
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
        for kind in ChannelKind::all() {
            assert_eq!(kind.to_string().parse::<ChannelKind>().unwrap(), kind);
        }
        assert_eq!(format!("{:>9}", FeedKind::Learned), "  learned");
        let error = "latnt".parse::<Transmit>().unwrap_err().to_string();
        assert_eq!(error, "unknown transmit `latnt`; did you mean `latent`? (known: all, latent, prompt)");
    }
}
