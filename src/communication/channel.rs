//! What a sender's rollout becomes, and how a reader takes messages in.

use std::fmt::Debug;
use std::sync::Arc;

use diffmas_backends::{Autodiff, ModelBackend};
use serde_json::{Map, Value};

use super::{Initializer, Message, MessageLayout, ReceivedMessages, Rollout, RolloutLayout, TeamSizes};
use crate::backbone::{KeyValues, ParameterSpec, Parameters, ResidualHook};

/// A way of passing state between agents. Each method is a function of its arguments alone: training runs a stage twice and relies on
/// the same numbers.
///
/// What the channel learns lives in the team's parameters, under names of its own; the channel itself holds settings. The provided methods make
/// up the trace: the sender's keys and values, which the reader attends to beside its own.
pub trait Channel<B: ModelBackend>: Debug + Send + Sync {
    /// What the channel learns in a team of these sizes, and how each matrix begins. Values are drawn in this order.
    fn parameters(&self, _sizes: &TeamSizes) -> Vec<(ParameterSpec, Initializer)> {
        Vec::new()
    }

    /// What it was made with, where that is more than its own table says: it stands beside what was learned, and a team that reads that must
    /// have the same.
    fn config(&self) -> Map<String, Value> {
        Map::new()
    }

    /// The form of the message that a rollout becomes.
    fn layout(&self, rollout: &RolloutLayout) -> MessageLayout {
        MessageLayout { segment: Some(rollout.segment()), vectors: None }
    }

    /// Hides from its readers the rows of a message that communication dropout has `dropped`; `before` is the form of the last message that
    /// the sender read. A channel that passes on what its sender read says here that it stays, and heeds [`Rollout::dropped`] in
    /// [`Channel::send`].
    fn hide(&self, message: &mut MessageLayout, _before: Option<&MessageLayout>, dropped: &[bool]) {
        message.hide(dropped);
    }

    /// The message that `rollout` becomes; `received` is what its sender read.
    fn send(
        &self,
        _parameters: &Parameters<B>,
        rollout: &Rollout<B>,
        _trace: &ReceivedMessages<B>,
    ) -> Message<B> {
        Message { sender: rollout.sender, segment: Some(rollout.segment()), vectors: None }
    }

    /// What a reader's passes run on.
    fn read(&self, _parameters: &Parameters<B>, received: &ReceivedMessages<B>) -> Context<B> {
        Context { kv: received.segments().cloned().collect(), hook: None, start: received.start.clone() }
    }
}

/// A channel on `B` and, for training, on `Autodiff<B>`; every type that implements [`Channel`] for all backends makes one.
#[derive(Debug)]
pub struct ChannelPair<B: ModelBackend> {
    /// On the backend itself.
    pub inner: Arc<dyn Channel<B>>,
    /// Under autodiff; none where `B` is that already.
    outer: Option<Arc<dyn Channel<Autodiff<B>>>>,
}

impl<B: ModelBackend> Clone for ChannelPair<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), outer: self.outer.clone() }
    }
}

impl<B: ModelBackend> ChannelPair<B> {
    /// `channel` on both.
    pub fn new<C: Channel<B> + Channel<Autodiff<B>> + 'static>(channel: C) -> Self {
        let channel = Arc::new(channel);
        Self { inner: channel.clone(), outer: Some(channel) }
    }

    /// The channel for training.
    ///
    /// # Panics
    /// If this is it.
    pub fn to_autodiff(&self) -> ChannelPair<Autodiff<B>> {
        let inner = self.outer.clone().expect("one level of autodiff");
        ChannelPair { inner, outer: None }
    }
}

/// A hook of the rows of a context, some of which may go on without the others.
pub trait ContextHook<B: ModelBackend>: ResidualHook<B> {
    /// The hook of the rows with these indices, in this order.
    fn select(&self, rows: &[usize]) -> SharedHook<B>;
}

/// A hook that contexts share.
pub type SharedHook<B> = Arc<dyn ContextHook<B>>;

/// What the passes of a reader run on.
#[derive(Clone, Debug)]
pub struct Context<B: ModelBackend> {
    /// Keys and values that it attends to before its own, one after another.
    pub kv: Vec<KeyValues<B>>,
    /// What is added to its residual stream.
    pub hook: Option<SharedHook<B>>,
    /// Per row, the id of its first position.
    pub start: Vec<u32>,
}

impl<B: ModelBackend> Context<B> {
    /// A reader that finds nothing.
    pub fn empty(batch: usize) -> Self {
        Self { kv: Vec::new(), hook: None, start: vec![0; batch] }
    }

    /// Rows.
    pub fn batch(&self) -> usize {
        self.start.len()
    }

    /// What is added to the residual stream, for a pass.
    pub fn hook(&self) -> Option<&dyn ResidualHook<B>> {
        self.hook.as_deref().map(|hook| hook as &dyn ResidualHook<B>)
    }

    /// The rows with these indices, in this order; the context itself where they are all of its own.
    pub fn select(&self, rows: &[usize]) -> Self {
        if rows.iter().copied().eq(0..self.batch()) {
            return self.clone();
        }
        Self {
            kv: self.kv.iter().map(|kv| kv.select(rows)).collect(),
            hook: self.hook.as_ref().map(|hook| hook.select(rows)),
            start: rows.iter().map(|&b| self.start[b]).collect(),
        }
    }

    /// Several readers as one batch, one under the other. What each reads is copied beside what the others read.
    pub fn stack(parts: &[Context<B>]) -> Self {
        let rows: Vec<usize> = parts.iter().map(Context::batch).collect();
        let kv = KeyValues::stack(&parts.iter().map(|p| p.kv.as_slice()).collect::<Vec<_>>(), &rows);
        let hooks: Vec<_> = parts.iter().zip(&rows).map(|(p, &rows)| (p.hook.clone(), rows)).collect();
        let hook = parts.iter().any(|p| p.hook.is_some());
        Self {
            kv: kv.into_iter().collect(),
            hook: hook.then(|| Arc::new(Stacked(hooks)) as SharedHook<B>),
            start: parts.iter().flat_map(|p| p.start.iter().copied()).collect(),
        }
    }
}

/// The hooks of several readers that run as one batch, each on its own rows.
#[derive(Debug)]
struct Stacked<B: ModelBackend>(Vec<(Option<SharedHook<B>>, usize)>);

impl<B: ModelBackend> ResidualHook<B> for Stacked<B> {
    fn apply(&self, layer: usize, x: burn::Tensor<B, 2>, batch: usize) -> burn::Tensor<B, 2> {
        let len = x.dims()[0] / batch;
        let mut from = 0;
        let each = self.0.iter().map(|(hook, rows)| {
            let own = x.clone().narrow(0, from * len, rows * len);
            from += rows;
            match hook {
                Some(hook) => hook.apply(layer, own, *rows),
                None => own,
            }
        });
        burn::Tensor::cat(each.collect(), 0)
    }
}

impl<B: ModelBackend> ContextHook<B> for Stacked<B> {
    fn select(&self, rows: &[usize]) -> SharedHook<B> {
        // Where each row is found: in which part, and there as which. Neighbours of one part stay together.
        let owners =
            self.0.iter().enumerate().flat_map(|(part, &(_, rows))| (0..rows).map(move |b| (part, b)));
        let owners: Vec<(usize, usize)> = owners.collect();
        let parts = rows.chunk_by(|&a, &b| owners[a].0 == owners[b].0).map(|rows| {
            let (hook, _) = &self.0[owners[rows[0]].0];
            let own: Vec<usize> = rows.iter().map(|&b| owners[b].1).collect();
            (hook.as_ref().map(|hook| hook.select(&own)), own.len())
        });
        let parts: Vec<_> = parts.collect();
        match parts.as_slice() {
            // So that hooks do not pile up where rows come and go.
            [(Some(hook), _)] => hook.clone(),
            _ => Arc::new(Self(parts)),
        }
    }
}
