//! Types of channels: what the rest of the library knows of one without tensors, and how one is made for a backend.

use diffmas_backends::ModelBackend;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ChannelPair, TeamSizes};
use crate::backbone::ParameterGroup;
use crate::error::{Error, Result};

/// A type of channel, which a team file names. [`register`](super::register) takes one from outside; those of the library are listed in
/// `communication/channel_kind.rs`.
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
    Ok(serde_json::from_value(Value::Object(settings.clone()))?)
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
                match serde_json::to_value(settings)? {
                    Value::Object(all) => Ok(all.into_iter().filter(|(_, value)| !value.is_null()).collect()),
                    _ => Err(Error::invalid(format!("the settings of channel `{}` are no table", C::NAME))),
                }
            },
            check: |settings, sizes| C::check(&typed::<C>(settings)?, sizes),
            vectors: |settings| C::vectors(&typed::<C>(settings).ok()?),
        }
    }

    /// What a team file may say of it in a table: all settings, those that `table` leaves out with their defaults.
    ///
    /// # Errors
    /// If the table has a key that is none of this kind's, or a value that cannot be.
    pub(super) fn complete(&self, table: Option<&ChannelSettings>) -> Result<ChannelSettings> {
        let name = self.name;
        match (self.keys, table) {
            (None, table) => (self.complete)(table),
            (Some(_), None) => Ok(ChannelSettings::new()),
            (Some(keys), Some(_)) => Err(Error::invalid(match keys {
                [] => {
                    format!("the channel `{name}` has no settings of its own; write `channel = \"{name}\"`")
                }
                _ => format!(
                    "the channel `{name}` has no table: write `channel = \"{name}\"`, and its settings as keys of the team: {}",
                    keys.join(", ")
                ),
            })),
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

/// Gives each type of channel a description that lives forever.
pub(super) trait Described: ChannelType {
    const DESCRIPTION: &'static ChannelDescription = &ChannelDescription::of::<Self>();
}

impl<C: ChannelType> Described for C {}
