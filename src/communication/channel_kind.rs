//! Which channels there are: those of the library, listed here, and the registered ones.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use diffmas_backends::ModelBackend;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::channel_type::{Build, Described, build};
use super::registry::{add, registered, registered_build};
use super::{
    ChannelDescription, ChannelPair, ChannelSettings, ChannelType, HybridChannel, NoChannel,
    OverwriteChannel, TeamSizes, TraceChannel, VectorsChannel,
};
use crate::error::{Error, Result};
use crate::files::unknown_name;

/// A type of channel that the library or [`register`](super::register) knows; its description by dereference.
#[derive(Clone, Copy)]
pub struct ChannelKind(&'static ChannelDescription);

macro_rules! channels_of_the_library {
    ($($constant:ident = $channel:ty),+ $(,)?) => {
        impl ChannelKind {
            $(
                #[doc = concat!("The kind of [`", stringify!($channel), "`].")]
                pub const $constant: Self = Self(<$channel as Described>::DESCRIPTION);
            )+

            /// The kinds of the library's channels.
            pub const LIBRARY: &'static [Self] = &[$(Self::$constant),+];

            /// How a channel of the library is made, on any backend.
            fn library_build<B: ModelBackend>(self) -> Option<Build<B>> {
                $(if self.name() == <$channel>::NAME {
                    return Some(build::<$channel, B>);
                })+
                None
            }
        }
    };
}

channels_of_the_library! {
    TRACE = TraceChannel,
    VECTORS = VectorsChannel,
    HYBRID = HybridChannel,
    OVERWRITE = OverwriteChannel,
    TEXT = NoChannel,
}

/// Lets team files and `--channel` name the channel `C`, on every backend that is compiled in. The same type may be registered again.
///
/// # Errors
/// If another channel has its name, or the name is none that a file can hold as a key.
pub fn register<C: ChannelType>() -> Result<ChannelKind> {
    let kind = ChannelKind(<C as Described>::DESCRIPTION);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if C::NAME.is_empty() || !C::NAME.chars().all(plain) {
        return Err(Error::invalid(format!(
            "channel name `{}`: names may hold ASCII letters, digits, `_` and `-` only",
            C::NAME
        )));
    }
    if ChannelKind::LIBRARY.contains(&kind) || !add::<C>() {
        return Err(Error::invalid(format!("there is a channel `{kind}` already; give yours another name")));
    }
    Ok(kind)
}

impl ChannelKind {
    /// Every kind that is known: the library's, then the registered ones.
    pub fn all() -> Vec<Self> {
        Self::LIBRARY.iter().copied().chain(registered().into_iter().map(Self)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::communication::NoSettings;

    struct Silence;

    impl ChannelType for Silence {
        const NAME: &'static str = "silence-of-a-test";
        const ABOUT: &'static str = "Nothing.";
        const SEGMENTS: bool = false;
        type Settings = NoSettings;

        fn build<B: ModelBackend>(_settings: NoSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
            ChannelPair::new(NoChannel)
        }
    }

    struct Twin<const NAMED: usize>;

    impl<const NAMED: usize> ChannelType for Twin<NAMED> {
        const NAME: &'static str = [Silence::NAME, "trace", "two words", ""][NAMED];
        const ABOUT: &'static str = "Nothing.";
        const SEGMENTS: bool = false;
        type Settings = NoSettings;

        fn build<B: ModelBackend>(settings: NoSettings, sizes: &TeamSizes) -> ChannelPair<B> {
            Silence::build(settings, sizes)
        }
    }

    #[test]
    fn a_registered_channel_is_known_by_name_and_no_other_takes_its_name() {
        let kind = register::<Silence>().unwrap();
        assert_eq!(register::<Silence>().unwrap(), kind);
        assert_eq!(Silence::NAME.parse::<ChannelKind>().unwrap(), kind);
        assert_eq!(ChannelKind::all().iter().filter(|other| **other == kind).count(), 1);
        for (twin, part) in [
            (register::<Twin<0>>(), "already"),
            (register::<Twin<1>>(), "there is a channel `trace` already"),
            (register::<Twin<2>>(), "`two words`: names may hold"),
            (register::<Twin<3>>(), "names may hold"),
        ] {
            let error = twin.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_all_known_ones() {
        register::<Silence>().unwrap();
        let error = "vecters".parse::<ChannelKind>().unwrap_err().to_string();
        assert!(
            error.starts_with("unknown channel `vecters`; did you mean `vectors`? (known: trace, "),
            "{error}"
        );
        assert!(error.contains(Silence::NAME), "{error}");
    }
}
