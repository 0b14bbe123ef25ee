//! The channel of a team as its file says it: a name, or a table that names the channel and holds its settings.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ChannelKind, ChannelSettings};

/// `channel = "NAME"`, or `[channel.NAME]` with settings of a channel that has a table of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelConfig {
    /// Which channel.
    pub kind: ChannelKind,
    /// The settings of its own table, all of them.
    settings: ChannelSettings,
}

impl ChannelConfig {
    /// The channel `kind` with the settings of its own `table`; what that leaves out has its default.
    ///
    /// # Errors
    /// If the table has a key or a value that is none of this channel's, or the channel has no table.
    pub fn new(kind: ChannelKind, table: &ChannelSettings) -> crate::Result<Self> {
        Ok(Self { kind, settings: kind.complete(Some(table))? })
    }

    /// The settings of its own table, all of them; empty where it has none.
    pub fn settings(&self) -> &ChannelSettings {
        &self.settings
    }
}

impl From<ChannelKind> for ChannelConfig {
    /// The channel with its defaults.
    fn from(kind: ChannelKind) -> Self {
        let settings = kind.complete(None).expect("defaults are plain data");
        Self { kind, settings }
    }
}

impl Default for ChannelConfig {
    fn default() -> Self {
        ChannelKind::default().into()
    }
}

impl fmt::Display for ChannelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl Serialize for ChannelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.settings.is_empty() {
            true => self.kind.serialize(serializer),
            false => serializer.collect_map([(self.kind.name(), &self.settings)]),
        }
    }
}

impl<'de> Deserialize<'de> for ChannelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrTable)
    }
}

struct NameOrTable;

impl<'de> Visitor<'de> for NameOrTable {
    type Value = ChannelConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a channel, or a table [channel.NAME]")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ChannelConfig, E> {
        Ok(name.parse::<ChannelKind>().map_err(E::custom)?.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ChannelConfig, A::Error> {
        let Some(kind) = map.next_key::<ChannelKind>()? else {
            return Err(A::Error::custom(
                "`channel` names no channel: write its name, or a table [channel.NAME]",
            ));
        };
        let config = map.next_value_seed(Table(kind))?;
        match map.next_key::<String>()? {
            Some(other) => Err(A::Error::custom(format!(
                "a team has one channel, but there are tables for `{kind}` and `{other}`"
            ))),
            None => Ok(config),
        }
    }
}

/// The table of one channel, checked where it stands, so that an error says where that is.
struct Table(ChannelKind);

impl<'de> DeserializeSeed<'de> for Table {
    type Value = ChannelConfig;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ChannelConfig, D::Error> {
        let table = ChannelSettings::deserialize(deserializer)?;
        ChannelConfig::new(self.0, &table).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use diffmas_backends::ModelBackend;

    use super::*;
    use crate::communication::{ChannelPair, ChannelType, TeamSizes, TraceChannel, register};

    struct Ring;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct RingSettings {
        width: usize,
        label: Option<String>,
    }

    impl Default for RingSettings {
        fn default() -> Self {
            Self { width: 3, label: None }
        }
    }

    impl ChannelType for Ring {
        const NAME: &'static str = "ring-of-a-test";
        const ABOUT: &'static str = "The trace, with settings.";
        const SEGMENTS: bool = true;
        type Settings = RingSettings;

        fn build<B: ModelBackend>(_settings: RingSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
            ChannelPair::new(TraceChannel)
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        channel: ChannelConfig,
        /// A plain key behind what may become a table.
        steps: usize,
    }

    fn read(text: &str) -> Result<File, String> {
        register::<Ring>().unwrap();
        toml::from_str(text).map_err(|e| e.message().to_string())
    }

    #[test]
    fn a_name_is_a_table_with_all_defaults_and_both_are_read_as_they_were_written() {
        let named = read("steps = 1\nchannel = \"ring-of-a-test\"").unwrap();
        assert_eq!(read("steps = 1\n[channel.ring-of-a-test]\nwidth = 3").unwrap(), named);
        let wide = read("steps = 1\n[channel.ring-of-a-test]\nwidth = 5\nlabel = \"x\"").unwrap();
        assert_ne!(wide, named);
        let trace = read("steps = 1\nchannel = \"trace\"").unwrap();
        for file in [named, wide, trace] {
            let text = toml::to_string(&file).unwrap();
            assert_eq!(read(&text).unwrap(), file, "{text}");
            let json = serde_json::to_value(&file).unwrap();
            assert_eq!(serde_json::from_value::<File>(json).unwrap(), file);
        }
    }

    #[test]
    fn tables_that_cannot_be_are_refused_in_a_sentence() {
        for (text, part) in [
            ("[channel.ring-of-a-test]\nwidht = 3", "unknown field `widht`"),
            ("[channel.ring-of-a-test]\nwidth = \"x\"", "expected usize"),
            (
                "[channel.rings-of-a-test]\nwidth = 3",
                "unknown channel `rings-of-a-test`; did you mean `ring-of-a-test`?",
            ),
            (
                "[channel.vectors]\nnum_vectors = 3",
                "the channel `vectors` has no table: write `channel = \"vectors\"`",
            ),
            ("[channel.vectors]", "num_vectors, vector_dim, vector_heads"),
            ("[channel.text]", "message_tokens"),
            ("[channel.trace]", "the channel `trace` has no settings of its own"),
            ("[channel.ring-of-a-test]\n[channel.trace]", "a team has one channel"),
            ("[channel]", "names no channel"),
            ("channel = 3", "the name of a channel, or a table"),
        ] {
            let (first, rest) = if text.starts_with("channel =") { (text, "") } else { ("", text) };
            let error = read(&format!("steps = 1\n{first}\n{rest}")).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
