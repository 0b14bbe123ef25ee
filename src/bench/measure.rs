//! All works on one backend in numbers of one precision.

use std::thread::{Builder, scope};

use diffmas_backends::{
    BackendKind, DeviceError, Job, ModelBackend, check_device, keep_no_kernels, software_wanted,
};
use serde::{Deserialize, Serialize};

use super::column::ColumnEvent;
use super::config::BenchConfig;
use super::loaded::{Loaded, positions};
use super::measurement::Measurement;
use super::model::BenchModel;
use super::work::Work;
use crate::backbone::{ComputeDtype, Precision, WeightDtype};
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::training::peak_memory_bytes;

/// The thread's stack: deep models and their autodiff graphs are walked by recursion.
const STACK: usize = 64 << 20;

/// What is measured where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnRequest {
    /// The model.
    pub model: BenchModel,
    /// The backend.
    pub backend: String,
    /// Which of the backend's devices; the first where it is absent.
    pub device: Option<usize>,
    /// How weights are stored.
    pub dtype: WeightDtype,
    /// What products with them are computed in.
    pub precision: ComputeDtype,
    /// The works.
    pub config: BenchConfig,
    /// Whether the backend was asked for by name: else it is left out where it has no device, or only a program on the CPU in place of a GPU.
    pub named: bool,
}

impl ColumnRequest {
    /// What is stored and computed in.
    pub fn numbers(&self) -> Precision {
        Precision { weights: self.dtype, compute: self.precision }
    }
}

/// Does the works of `request` and tells what comes of them; between two runs, `cancelled` may end it. What the first token costs the first
/// time, and the process's memory, are what they are called only where the process does nothing else.
///
/// # Errors
/// What `on_event` returns; everything else is told.
pub fn measure(
    request: &ColumnRequest,
    cancelled: &(dyn Fn() -> bool + Sync),
    on_event: &mut (dyn FnMut(ColumnEvent) -> Result<()> + Send),
) -> Result<()> {
    scope(|scope| {
        let work = || on_backend(request, cancelled, on_event);
        let thread = Builder::new().name("diffmas-bench".into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::invalid(format!("a thread cannot start: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::invalid("the bench has stopped working")))
    })
}

fn on_backend(
    request: &ColumnRequest,
    cancelled: &(dyn Fn() -> bool + Sync),
    on_event: &mut (dyn FnMut(ColumnEvent) -> Result<()> + Send),
) -> Result<()> {
    let kind: BackendKind = match request.backend.parse() {
        Ok(kind) => kind,
        Err(e) => return on_event(ColumnEvent::Failed { reason: DeviceError::to_string(&e) }),
    };
    let info = match kind.device(request.device) {
        Ok(info) => info,
        Err(e) => return tell_missing(request, &e, on_event),
    };
    if info.software && !request.named && !software_wanted() {
        let reason = format!("{} is a program on the CPU; name the backend to measure it", info.name);
        return on_event(ColumnEvent::LeftOut { reason });
    }
    // Of the CPU the machine tells.
    let adapter = (!kind.is_cpu()).then(|| format!("{}, {}", info.name, info.api));
    keep_no_kernels();
    match kind.run(request.device, Bench { request, kind, adapter, cancelled, tell: on_event }) {
        Ok(told) => told,
        Err(e) => tell_missing(request, &e, on_event),
    }
}

/// A backend without a device is no failure where nobody named it.
fn tell_missing(
    request: &ColumnRequest,
    error: &DeviceError,
    on_event: &mut (dyn FnMut(ColumnEvent) -> Result<()> + Send),
) -> Result<()> {
    let (reason, failed) = (error.to_string(), matches!(error, DeviceError::Failed { .. }));
    on_event(match request.named || failed {
        true => ColumnEvent::Failed { reason },
        false => ColumnEvent::LeftOut { reason },
    })
}

/// The works of a request on a backend.
struct Bench<'a> {
    request: &'a ColumnRequest,
    kind: BackendKind,
    /// What the device is called, where it is not the CPU.
    adapter: Option<String>,
    cancelled: &'a (dyn Fn() -> bool + Sync),
    tell: &'a mut (dyn FnMut(ColumnEvent) -> Result<()> + Send),
}

/// Why no work follows.
enum Stop {
    /// Nobody takes what is told.
    Untold(Error),
    /// A work went wrong.
    Failed(String),
    /// It was asked for.
    Cancelled,
}

/// What becomes of works.
type Outcome = std::result::Result<(), Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Job for Bench<'_> {
    type Output = Result<()>;

    fn run<B: ModelBackend>(mut self, device: B::Device) -> Result<()> {
        let request = self.request;
        if let Err(e) = request.numbers().check::<B>(&device) {
            return (self.tell)(ColumnEvent::LeftOut { reason: e.to_string() });
        }
        let device_name = format!("{} on {device:?}", B::name(&device));
        (self.tell)(ColumnEvent::Started { device: device_name, adapter: self.adapter.take() })?;
        let mut device_peak = None;
        // A backend panics where it cannot go on.
        let done = guarded(|| self.all::<B>(&device, &mut device_peak))
            .unwrap_or_else(|said| Err(Stop::Failed(said)));
        match done.and_then(|()| check_device().map_err(|e| Stop::Failed(e.to_string()))) {
            Ok(()) => {}
            Err(Stop::Cancelled) => return Ok(()),
            Err(Stop::Untold(e)) => return Err(e),
            Err(Stop::Failed(said)) => {
                let reason = check_device().map_or_else(|e| e.to_string(), |()| said);
                (self.tell)(ColumnEvent::Failed { reason })?;
            }
        }
        (self.tell)(ColumnEvent::Finished {
            peak_memory_bytes: peak_memory_bytes(),
            peak_device_memory_bytes: device_peak,
        })
    }
}

impl Bench<'_> {
    fn all<B: ModelBackend>(&mut self, device: &B::Device, peak: &mut Option<u64>) -> Outcome {
        let ColumnRequest { model, config, .. } = self.request;
        let (files, precision) = (model.open()?, self.request.numbers());
        let mut state = Loaded::<B>::default();
        for work in config.list(model.is_random()) {
            let (needs, has) = (positions(work), files.config.max_position_embeddings);
            if needs > has {
                let reason = format!("it needs {needs} positions, but the model has {has}");
                self.event(ColumnEvent::Skipped { work, reason })?;
                continue;
            }
            self.event(ColumnEvent::Begins { work })?;
            // The first call is what it is once.
            let cold = work == Work::FirstTokenCold;
            let (warmup, runs) = if cold { (0, 1) } else { (config.warmup, config.runs) };
            let mut kept = Vec::with_capacity(runs);
            let free = self.kind.free_memory(self.request.device, B::device_memory(device));
            state.prepare(work, free)?;
            for i in 0..warmup + runs {
                if (self.cancelled)() {
                    return Err(Stop::Cancelled);
                }
                let run = state.run(work, &files, precision, device)?;
                check_device().map_err(Error::from)?;
                kept.extend((i >= warmup).then_some(run));
            }
            *peak = (*peak).max(B::device_memory(device).map(|memory| memory.reserved));
            state.finish();
            self.event(ColumnEvent::Measured { measurement: Measurement::new(work, &kept) })?;
        }
        Ok(())
    }

    fn event(&mut self, event: ColumnEvent) -> Outcome {
        (self.tell)(event).map_err(Stop::Untold)
    }
}
