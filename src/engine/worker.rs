//! The thread that owns the weights: one worker serves the requests of all handles, one after another.
//!
//! It is the one place where the name of a backend becomes a type. What comes in and goes out names none, so that everything above is
//! compiled once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use diffmas_backends::{Job, ModelBackend, check_device};

use super::answer::AnswerRequest;
use super::evaluate::EvaluateRequest;
use super::inspect::InspectRequest;
use super::loaded::LoadedTeam;
use super::request::Request;
use super::stream::{EventStream, Tell};
use super::train::TrainRequest;
use super::{Cancel, Session};
use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::guard;

/// The worker's stack: deep models and their autodiff graphs are walked by recursion.
const STACK: usize = 64 << 20;

/// A request of one team, and who waits for it.
pub(super) struct Call<R: Request> {
    slot: u64,
    request: R,
    tell: Tell<R::Event, R::Output>,
}

impl<R: Request> Call<R> {
    fn serve<B: ModelBackend>(self, teams: &mut BTreeMap<u64, LoadedTeam<B>>) {
        let Self { slot, request, tell } = self;
        let serve = || {
            tell.check()?;
            let team = teams.get_mut(&slot).expect("a team is loaded as long as somebody has a handle");
            request.serve(team, &tell)
        };
        tell.done(without_panic(serve));
    }
}

/// What is sent to the worker.
pub(super) enum Command {
    Answer(Call<AnswerRequest>),
    Evaluate(Call<EvaluateRequest>),
    Inspect(Call<InspectRequest>),
    Train(Box<Call<TrainRequest>>),
    Fingerprint(Call<Fingerprint>),
    #[cfg(test)]
    Panic(Call<tests::Panic>),
    /// Another team on the same weights.
    Load(u64, Arc<Session>, Sender<Result<()>>),
    /// The last handle of a team is gone.
    Close(u64),
}

macro_rules! from_call {
    ($($request:ident => $variant:expr),* $(,)?) => {
        $(impl From<Call<$request>> for Command {
            fn from(call: Call<$request>) -> Self {
                $variant(call)
            }
        })*
    };
}

from_call! {
    AnswerRequest => Self::Answer,
    EvaluateRequest => Self::Evaluate,
    InspectRequest => Self::Inspect,
    TrainRequest => |call| Self::Train(Box::new(call)),
    Fingerprint => Self::Fingerprint,
}

/// Asks for the SHA-256 of everything that a team has learned.
pub(super) struct Fingerprint;

impl Request for Fingerprint {
    type Event = ();
    type Output = String;

    fn serve<B: ModelBackend>(self, team: &mut LoadedTeam<B>, _tell: &Tell<(), String>) -> Result<String> {
        Ok(team.learned_sha256())
    }
}

/// The thread and the way to it.
pub(super) struct Worker {
    /// None once it is to end.
    sender: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    slots: AtomicU64,
}

impl Drop for Worker {
    /// Waits for the work in progress, so that nothing runs on a device while the program ends.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Worker {
    /// A worker with the weights that `session` names, and its team.
    ///
    /// # Errors
    /// If the device does not start, or the weights or what the team learned cannot be loaded.
    pub fn start(session: Arc<Session>) -> Result<Arc<Slot>> {
        let kind = session.config.backend()?;
        let (sender, receiver) = channel();
        let (opened, ready) = channel();
        let (index, failed, first) = (session.config.device, opened.clone(), session.clone());
        let run = move || {
            if let Err(e) = kind.run(index, Serve { session: first, opened, receiver }) {
                let _ = failed.send(Err(e.into()));
            }
        };
        let thread = Builder::new().name("diffmas-engine".into()).stack_size(STACK).spawn(run);
        let thread = thread.map_err(|e| Error::invalid(format!("the engine's thread cannot start: {e}")))?;
        let worker = Self { sender: Some(sender), thread: Some(thread), slots: AtomicU64::new(1) };
        wait(&ready)?;
        Ok(Arc::new(Slot { id: 0, session, worker: Arc::new(worker) }))
    }

    fn send(&self, command: Command) {
        // Where the worker has ended, whoever waits for an answer sees that none comes.
        if let Some(sender) = &self.sender {
            let _ = sender.send(command);
        }
    }
}

/// What the worker says of a team that it was to load.
fn wait(ready: &Receiver<Result<()>>) -> Result<()> {
    ready.recv().unwrap_or_else(|_| Err(Error::invalid("the engine has stopped working")))
}

/// A team that is loaded; the last handle closes it.
pub(super) struct Slot {
    id: u64,
    pub session: Arc<Session>,
    worker: Arc<Worker>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.worker.send(Command::Close(self.id));
    }
}

impl Slot {
    /// The team of `session` on the same weights.
    pub fn with(&self, session: Arc<Session>) -> Result<Arc<Self>> {
        let id = self.worker.slots.fetch_add(1, Ordering::Relaxed);
        let (opened, ready) = channel();
        self.worker.send(Command::Load(id, session.clone(), opened));
        wait(&ready)?;
        Ok(Arc::new(Self { id, session, worker: self.worker.clone() }))
    }

    /// Asks the worker for `request`.
    pub fn call<R: Request>(self: &Arc<Self>, request: R, cancel: &Cancel) -> EventStream<R::Event, R::Output>
    where
        Command: From<Call<R>>,
    {
        let (stream, tell) = EventStream::new(self.clone(), cancel.clone());
        self.worker.send(Call { slot: self.id, request, tell }.into());
        stream
    }
}

/// The worker's loop, on whatever backend.
struct Serve {
    session: Arc<Session>,
    opened: Sender<Result<()>>,
    receiver: Receiver<Command>,
}

impl Job for Serve {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut teams: BTreeMap<u64, LoadedTeam<B>> = BTreeMap::new();
        let first = without_panic(|| {
            let backbone = self.session.backbone::<B>(&device)?;
            Ok((LoadedTeam::open(self.session.clone(), backbone.clone())?, backbone))
        });
        let backbone: Backbone<B> = match first {
            Ok((team, backbone)) => {
                teams.insert(0, team);
                backbone
            }
            Err(e) => return drop(self.opened.send(Err(e))),
        };
        let _ = self.opened.send(Ok(()));
        for command in self.receiver {
            match command {
                Command::Answer(call) => call.serve(&mut teams),
                Command::Evaluate(call) => call.serve(&mut teams),
                Command::Inspect(call) => call.serve(&mut teams),
                Command::Train(call) => call.serve(&mut teams),
                Command::Fingerprint(call) => call.serve(&mut teams),
                #[cfg(test)]
                Command::Panic(call) => call.serve(&mut teams),
                Command::Load(id, session, opened) => {
                    // Another team beside the first has no adapter because none was asked for.
                    let open = || LoadedTeam::open(session, backbone.clone()).map(LoadedTeam::known_fresh);
                    let loaded = without_panic(open);
                    let _ = opened.send(loaded.map(|team| drop(teams.insert(id, team))));
                }
                Command::Close(id) => drop(teams.remove(&id)),
            }
        }
    }
}

/// What `work` returns; a panic in it, which would leave everybody waiting, as a sentence. That the device has failed stands for all that
/// comes of it.
fn without_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    check_device()?;
    outcome.unwrap_or_else(|panic| {
        let what = guard::message(panic.as_ref());
        Err(Error::invalid(format!(
            "the engine failed at this request, which is a mistake in the program: {what}"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineConfig};

    pub struct Panic;

    impl Request for Panic {
        type Event = ();
        type Output = ();

        fn serve<B: ModelBackend>(self, _team: &mut LoadedTeam<B>, _tell: &Tell<(), ()>) -> Result<()> {
            panic!("no {}", "reason")
        }
    }

    impl From<Call<Panic>> for Command {
        fn from(call: Call<Panic>) -> Self {
            Self::Panic(call)
        }
    }

    #[test]
    fn a_panic_in_the_worker_is_a_sentence_for_who_waits_and_the_next_request_is_served() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden/tiny-llama/model");
        let engine = Engine::open(EngineConfig::of_model(model)).unwrap();
        let said = engine.slot().call(Panic, &Cancel::new()).finish().unwrap_err().to_string();
        assert!(said.contains("no reason") && said.contains("mistake in the program"), "{said}");
        assert_eq!(engine.learned_sha256().unwrap().len(), 64);
    }
}
