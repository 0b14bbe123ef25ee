//! What each trainable matrix is, apart from its values: name, shape, the group it learns in, how weight decay treats it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// Matrices that learn together; `train` of a `[[phases]]` table names them. Channels from outside may have groups of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParameterGroup(Cow<'static, str>);

impl ParameterGroup {
    /// The LoRA factors of all adapters.
    pub const LORA: Self = Self::named("lora");
    /// The communication encoder, and the update of `overwrite`.
    pub const ENCODER: Self = Self::named("encoder");
    /// Cross-agent attention with its gates and the senders' embeddings.
    pub const CROSS_ATTENTION: Self = Self::named("cross_attention");
    /// The learned feed.
    pub const FEED: Self = Self::named("feed");
    /// The input embeddings of `feed = "slots"`.
    pub const SLOTS: Self = Self::named("slots");
    /// What makes input embeddings of an encoder's features.
    pub const PROJECTOR: Self = Self::named("projector");
    /// What a channel learns that has no groups.
    pub const CHANNEL: Self = Self::named("channel");

    /// The groups that files may name whatever the team, in which some of them may be empty.
    pub const ALWAYS: &'static [Self] = &[
        Self::LORA,
        Self::ENCODER,
        Self::CROSS_ATTENTION,
        Self::FEED,
        Self::SLOTS,
        Self::PROJECTOR,
        Self::CHANNEL,
    ];

    /// A group of this name.
    pub const fn named(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ParameterGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where weight decay pulls a matrix to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pull {
    /// Towards zero.
    #[default]
    Zero,
    /// Towards the identity, where it began.
    Identity,
    /// It is spared: zero would make it silent.
    Nowhere,
}

/// One trainable matrix without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Its name among the parameters and in files.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// What it learns together with.
    pub group: ParameterGroup,
    /// Where weight decay pulls it to, where biases, norms and their like are spared (`--decay hf`).
    pub pull: Pull,
    /// Whether it is a gate that the channel's output is multiplied by: while all gates are 0, nothing else of the channel learns.
    pub gate: bool,
    /// Whether it learns nothing while agents do not read each other.
    pub needs_channel: bool,
}

impl ParameterSpec {
    /// A matrix that weight decay pulls to zero and that learns with or without a channel.
    pub fn new(name: impl Into<String>, shape: [usize; 2], group: ParameterGroup) -> Self {
        Self { name: name.into(), shape, group, pull: Pull::Zero, gate: false, needs_channel: false }
    }

    /// The same, pulled elsewhere.
    pub fn pulled(self, pull: Pull) -> Self {
        Self { pull, ..self }
    }

    /// The same, spared by weight decay: a bias, a norm, an embedding, a query.
    pub fn spared(self) -> Self {
        self.pulled(Pull::Nowhere)
    }

    /// The same as a gate, which weight decay spares.
    pub fn gate(self) -> Self {
        Self { gate: true, ..self.spared() }
    }
}

/// Everything that learns, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParameterSpecs(BTreeMap<String, ParameterSpec>);

impl ParameterSpecs {
    /// The matrix called `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&ParameterSpec> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &ParameterSpec> {
        self.0.values()
    }

    /// The groups that there are.
    pub fn groups(&self) -> BTreeSet<&ParameterGroup> {
        self.iter().map(|spec| &spec.group).collect()
    }
}

impl FromIterator<ParameterSpec> for ParameterSpecs {
    fn from_iter<I: IntoIterator<Item = ParameterSpec>>(specs: I) -> Self {
        Self(specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect())
    }
}
