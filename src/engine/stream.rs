//! What a request tells while the engine works on it, and what comes of it in the end.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use diffmas_backends::check_device;

use super::Cancel;
use crate::error::{Error, Result};

/// What goes from the worker to who waits.
enum Told<E, T> {
    Event(E),
    Done(Result<T>),
}

/// The events of one request as they come, and its result.
///
/// Dropping it cancels the request.
#[must_use = "dropping it cancels the request"]
pub struct EventStream<E, T> {
    receiver: Receiver<Told<E, T>>,
    result: Option<Result<T>>,
    dropped: Arc<AtomicBool>,
    /// The team answers as long as somebody waits for it.
    _team: Arc<dyn Any + Send + Sync>,
}

impl<E, T> EventStream<E, T> {
    /// A stream that keeps `team` loaded, and the other end of it.
    pub(super) fn new(team: Arc<dyn Any + Send + Sync>, cancel: Cancel) -> (Self, Tell<E, T>) {
        let (sender, receiver) = channel();
        let dropped = Arc::new(AtomicBool::new(false));
        let tell = Tell { sender, cancel, dropped: dropped.clone() };
        (Self { receiver, result: None, dropped, _team: team }, tell)
    }

    /// The result, once no event comes any more; events that nobody has taken are dropped.
    ///
    /// # Errors
    /// What went wrong; that the request was cancelled; that the worker ended.
    pub fn finish(mut self) -> Result<T> {
        self.by_ref().for_each(drop);
        self.result.take().unwrap_or_else(|| Err(Error::invalid("the engine has stopped working")))
    }

    /// Shows `on_event` every event, and returns the result.
    ///
    /// # Errors
    /// As [`EventStream::finish`]; what `on_event` says, which cancels the request.
    pub fn for_each_event(mut self, mut on_event: impl FnMut(E) -> Result<()>) -> Result<T> {
        self.by_ref().try_for_each(&mut on_event)?;
        self.finish()
    }
}

impl<E, T> Iterator for EventStream<E, T> {
    type Item = E;

    fn next(&mut self) -> Option<E> {
        if self.result.is_some() {
            return None;
        }
        match self.receiver.recv() {
            Ok(Told::Event(event)) => Some(event),
            Ok(Told::Done(result)) => {
                self.result = Some(result);
                None
            }
            Err(_) => None,
        }
    }
}

impl<E, T> Drop for EventStream<E, T> {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

/// The worker's end of a stream.
pub(super) struct Tell<E, T> {
    sender: Sender<Told<E, T>>,
    cancel: Cancel,
    /// Whether nobody waits any more.
    dropped: Arc<AtomicBool>,
}

impl<E, T> Tell<E, T> {
    /// Tells an event.
    pub fn event(&self, event: E) {
        if check_device().is_err() {
            return;
        }
        // Where nobody waits for it, the request is cancelled, and whoever works on it will see that.
        let _ = self.sender.send(Told::Event(event));
    }

    /// Tells the result.
    pub fn done(&self, result: Result<T>) {
        let result = check_device().map_err(Error::from).and(result);
        // Where nobody waits for it, it is of no use.
        let _ = self.sender.send(Told::Done(result));
    }

    /// Whether the request is not wanted any more, or nothing can come of it.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.dropped.load(Ordering::SeqCst) || check_device().is_err()
    }

    /// An error once the request is not wanted any more.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; that the device has failed.
    pub fn check(&self) -> Result<()> {
        check_device()?;
        if self.is_cancelled() { Err(Error::Interrupted("cancelled".into())) } else { Ok(()) }
    }
}
