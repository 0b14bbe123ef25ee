//! Channels from outside, on every backend that is compiled in.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{PoisonError, RwLock};

use diffmas_backends::{BackendVisitor, ModelBackend, for_each_backend};

use super::channel_type::{Build, Described, build};
use super::{ChannelDescription, ChannelType};

static REGISTRY: RwLock<Registry> = RwLock::new(Registry { types: Vec::new(), builds: BTreeMap::new() });

struct Registry {
    /// Each type with what it says of itself, in the order in which they came.
    types: Vec<(TypeId, &'static ChannelDescription)>,
    /// By backend type and name, the [`Build`] for that backend.
    builds: BTreeMap<(TypeId, &'static str), Box<dyn Any + Send + Sync>>,
}

/// Adds `C`, unless it is there; false where another has its name.
pub(super) fn add<C: ChannelType>() -> bool {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    if let Some((owner, _)) = registry.types.iter().find(|(_, other)| other.name == C::NAME) {
        return *owner == TypeId::of::<C>();
    }
    for_each_backend(&mut Builds::<C>(&mut registry, PhantomData));
    registry.types.push((TypeId::of::<C>(), C::DESCRIPTION));
    true
}

/// Adds the [`Build`] of `C` for each backend.
struct Builds<'a, C>(&'a mut Registry, PhantomData<C>);

impl<C: ChannelType> BackendVisitor for Builds<'_, C> {
    fn visit<B: ModelBackend>(&mut self) {
        let build: Build<B> = build::<C, B>;
        self.0.builds.insert((TypeId::of::<B>(), C::NAME), Box::new(build));
    }
}

/// What the registered types say of themselves.
pub(super) fn registered() -> Vec<&'static ChannelDescription> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.types.iter().map(|(_, description)| *description).collect()
}

/// How the registered channel `name` is made on `B`.
pub(super) fn registered_build<B: ModelBackend>(name: &'static str) -> Option<Build<B>> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.builds.get(&(TypeId::of::<B>(), name))?.downcast_ref().copied()
}
