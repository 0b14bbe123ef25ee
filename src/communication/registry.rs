//! Channels from outside: registered once, then named in files like the library's own.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use diffmas_backends::{BackendVisitor, ModelBackend, for_each_backend};

use super::channel_type::{Build, build};
use super::{ChannelKind, ChannelType};
use crate::error::{Error, Result};

static REGISTRY: RwLock<Registry> = RwLock::new(Registry { kinds: Vec::new(), builds: BTreeMap::new() });

struct Registry {
    /// With the type that each describes.
    kinds: Vec<(TypeId, ChannelKind)>,
    /// By backend type and name, the [`Build`] for that backend.
    builds: BTreeMap<(TypeId, &'static str), Box<dyn Any + Send + Sync>>,
}

/// Lets team files and `--channel` name the channel `C`, on every backend that is compiled in. The same type may be registered again.
///
/// # Errors
/// If another channel has its name, or the name is none that a file can hold as a key.
pub fn register<C: ChannelType>() -> Result<ChannelKind> {
    let kind = ChannelKind::of::<C>();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if C::NAME.is_empty() || !C::NAME.chars().all(plain) {
        return Err(Error::invalid(format!(
            "channel name `{}`: names may hold ASCII letters, digits, `_` and `-` only",
            C::NAME
        )));
    }
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    let twin = registry.kinds.iter().find(|(_, other)| *other == kind);
    match twin {
        Some((owner, _)) if *owner == TypeId::of::<C>() => return Ok(kind),
        None if !ChannelKind::LIBRARY.contains(&kind) => {}
        _ => {
            return Err(Error::invalid(format!(
                "there is a channel `{kind}` already; give yours another name"
            )));
        }
    }
    for_each_backend(&mut Builds::<C>(&mut registry, std::marker::PhantomData));
    registry.kinds.push((TypeId::of::<C>(), kind));
    Ok(kind)
}

/// Adds the [`Build`] of `C` for each backend.
struct Builds<'a, C>(&'a mut Registry, std::marker::PhantomData<C>);

impl<C: ChannelType> BackendVisitor for Builds<'_, C> {
    fn visit<B: ModelBackend>(&mut self) {
        let build: Build<B> = build::<C, B>;
        self.0.builds.insert((TypeId::of::<B>(), C::NAME), Box::new(build));
    }
}

/// The registered kinds, in the order in which they came.
pub(super) fn registered() -> Vec<ChannelKind> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.kinds.iter().map(|(_, kind)| *kind).collect()
}

/// How the registered channel `name` is made on `B`.
pub(super) fn registered_build<B: ModelBackend>(name: &'static str) -> Option<Build<B>> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.builds.get(&(TypeId::of::<B>(), name))?.downcast_ref().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::communication::{ChannelPair, NoChannel, NoSettings, TeamSizes};

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
        assert_eq!(registered().iter().filter(|other| **other == kind).count(), 1);
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
