//! Types of channels: what the rest of the library knows of one without tensors, and how one is made for a backend.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use diffmas_backends::ModelBackend;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::ChannelPair;
use super::registry::{registered, registered_build};
use crate::backbone::{BackboneConfig, ParameterGroup};
use crate::error::{Error, Result};
use crate::named_enum::unknown_name;

/// A type of channel, which a team file names. [`register`](super::register) takes one from outside; those of the library are listed in
/// `communication/channels/mod.rs`.
pub trait ChannelType: Sized + 'static {
    /// Its name in files and on the command line.
    const NAME: &'static str;
    /// One line: what agents pass to each other.
    const ABOUT: &'static str;
    /// Whether messages hold keys and values.
    const SEGMENTS: bool;
    /// Whether agents write text, which stands in the prompts of those that read them, instead of thinking.
    const TEXT: bool = false;
    /// Whether an agent's message replaces the one before it: agents stand one after another, and each reads only the one before.
    const REPLACES: bool = false;
    /// The groups of what it learns, as `train` of a phase names them.
    const GROUPS: &'static [ParameterGroup] = &[ParameterGroup::CHANNEL];
    /// The keys of the team file that are its settings; `None` where it has a table of its own, `[channel.NAME]`.
    const KEYS: Option<&'static [&'static str]> = None;

    /// Its settings. `#[serde(deny_unknown_fields, default)]` lets a file leave some out and refuses misspelt ones.
    type Settings: Default + Serialize + DeserializeOwned;

    /// How many vectors a message holds, and their width, where it holds some.
    fn vectors(_settings: &Self::Settings) -> Option<[usize; 2]> {
        None
    }

    /// Refuses settings that make no sense: in any team, or, where `sizes` are known already, in this one.
    ///
    /// # Errors
    /// One sentence that names the setting.
    fn check(_settings: &Self::Settings, _sizes: Option<&TeamSizes>) -> Result<()> {
        Ok(())
    }

    /// The channel of a team, with settings that [`ChannelType::check`] lets pass.
    fn build<B: ModelBackend>(settings: Self::Settings, sizes: &TeamSizes) -> ChannelPair<B>;
}

/// Settings of a channel that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// What of a team the shapes of messages and of what a channel learns depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamSizes {
    /// Width of a hidden state, `D`.
    pub hidden_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// KV heads, `G`.
    pub num_key_value_heads: usize,
    /// Width of a head, `d`.
    pub head_dim: usize,
    /// The agents' names in order; all but the last send.
    pub agents: Vec<String>,
}

impl TeamSizes {
    /// Those of a team of `agents` on a model of the sizes `config`.
    pub fn new(config: &BackboneConfig, agents: Vec<String>) -> Self {
        Self {
            hidden_size: config.hidden_size,
            num_hidden_layers: config.num_hidden_layers,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            agents,
        }
    }
}

/// Settings of a channel by name: of its own table, or the keys of the team file that are its.
pub type ChannelSettings = Map<String, Value>;

/// Makes a channel of one type on `B`.
pub(super) type Build<B> = fn(&ChannelSettings, &TeamSizes) -> Result<ChannelPair<B>>;

/// The [`Build`] of `C`.
pub(super) fn build<C: ChannelType, B: ModelBackend>(
    settings: &ChannelSettings,
    sizes: &TeamSizes,
) -> Result<ChannelPair<B>> {
    Ok(C::build(typed::<C>(settings)?, sizes))
}

fn typed<C: ChannelType>(settings: &ChannelSettings) -> Result<C::Settings> {
    serde_json::from_value(Value::Object(settings.clone())).map_err(Error::invalid)
}

/// All that is known of a type of channel without a backend.
#[derive(Debug)]
pub struct ChannelDescription {
    /// [`ChannelType::NAME`]
    pub name: &'static str,
    /// [`ChannelType::ABOUT`]
    pub about: &'static str,
    /// [`ChannelType::SEGMENTS`]
    pub segments: bool,
    /// [`ChannelType::TEXT`]
    pub text: bool,
    /// [`ChannelType::REPLACES`]
    pub replaces: bool,
    /// [`ChannelType::GROUPS`]
    pub groups: &'static [ParameterGroup],
    /// [`ChannelType::KEYS`]
    pub keys: Option<&'static [&'static str]>,
    /// A table as it was read, or none, with all defaults written out.
    complete: fn(Option<&ChannelSettings>) -> Result<ChannelSettings>,
    check: fn(&ChannelSettings, Option<&TeamSizes>) -> Result<()>,
    vectors: fn(&ChannelSettings) -> Option<[usize; 2]>,
}

impl ChannelDescription {
    const fn of<C: ChannelType>() -> Self {
        Self {
            name: C::NAME,
            about: C::ABOUT,
            segments: C::SEGMENTS,
            text: C::TEXT,
            replaces: C::REPLACES,
            groups: C::GROUPS,
            keys: C::KEYS,
            complete: |table| {
                let settings = table.map_or_else(|| Ok(C::Settings::default()), typed::<C>)?;
                match serde_json::to_value(settings).map_err(Error::invalid)? {
                    Value::Object(all) => Ok(all.into_iter().filter(|(_, value)| !value.is_null()).collect()),
                    _ => Err(Error::invalid(format!("the settings of channel `{}` are no table", C::NAME))),
                }
            },
            check: |settings, sizes| C::check(&typed::<C>(settings)?, sizes),
            vectors: |settings| C::vectors(&typed::<C>(settings).ok()?),
        }
    }

    /// Refuses `settings` as [`ChannelType::check`] does.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn check(&self, settings: &ChannelSettings, sizes: Option<&TeamSizes>) -> Result<()> {
        (self.check)(settings, sizes)
    }

    /// [`ChannelType::vectors`]
    pub fn vectors(&self, settings: &ChannelSettings) -> Option<[usize; 2]> {
        (self.vectors)(settings)
    }
}

/// A type of channel that the library or [`register`](super::register) knows; its description by dereference.
#[derive(Clone, Copy)]
pub struct ChannelKind(&'static ChannelDescription);

/// Gives each type of channel a description that lives forever.
trait Described: ChannelType {
    const DESCRIPTION: &'static ChannelDescription = &ChannelDescription::of::<Self>();
}

impl<C: ChannelType> Described for C {}

impl ChannelKind {
    /// The kind of `C`, known or not.
    pub(super) const fn of<C: ChannelType>() -> Self {
        Self(<C as Described>::DESCRIPTION)
    }

    /// Every kind that is known: the library's, then the registered ones.
    pub fn all() -> Vec<Self> {
        Self::LIBRARY.iter().copied().chain(registered()).collect()
    }

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// A channel of this kind for a team of `sizes`.
    ///
    /// # Errors
    /// If `settings` are not this kind's, or it was registered in a binary without the backend `B`.
    pub fn build<B: ModelBackend>(
        self,
        settings: &ChannelSettings,
        sizes: &TeamSizes,
    ) -> Result<ChannelPair<B>> {
        let build = self.library_build().or_else(|| registered_build(self.name()));
        let build: Build<B> = build.ok_or_else(|| {
            Error::invalid(format!("the channel `{self}` was not registered for this backend"))
        })?;
        build(settings, sizes)
    }

    /// What a team file may say of it in a table: all settings, those that `table` leaves out with their defaults.
    ///
    /// # Errors
    /// If the table has a key that is none of this kind's, or a value that cannot be.
    pub(super) fn complete(self, table: Option<&ChannelSettings>) -> Result<ChannelSettings> {
        match (self.keys, table) {
            (None, table) => (self.0.complete)(table),
            (Some(_), None) => Ok(ChannelSettings::new()),
            (Some(keys), Some(_)) => Err(Error::invalid(match keys {
                [] => {
                    format!("the channel `{self}` has no settings of its own; write `channel = \"{self}\"`")
                }
                _ => format!(
                    "the channel `{self}` has no table: write `channel = \"{self}\"`, and its settings as keys of the team: {}",
                    keys.join(", ")
                ),
            })),
        }
    }
}

impl Deref for ChannelKind {
    type Target = ChannelDescription;

    fn deref(&self) -> &ChannelDescription {
        self.0
    }
}

impl Default for ChannelKind {
    /// The trace.
    fn default() -> Self {
        Self::TRACE
    }
}

impl PartialEq for ChannelKind {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ChannelKind {}

impl fmt::Debug for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelKind({})", self.0.name)
    }
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

impl FromStr for ChannelKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = Self::all();
        let names: Vec<&str> = all.iter().map(|kind| kind.0.name).collect();
        let found = all.iter().find(|kind| kind.0.name == name);
        found.copied().ok_or_else(|| unknown_name("channel", name, &names))
    }
}

impl Serialize for ChannelKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name)
    }
}

impl<'de> Deserialize<'de> for ChannelKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
