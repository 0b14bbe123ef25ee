//! The product as a library: settings in, a team that answers, learns and is measured out. No signature names a backend type.
//!
//! [`Engine::open`] reads what an [`EngineConfig`] names and starts one worker thread, which owns the weights. Handles are cloned and sent
//! to other threads at will; requests queue up. Each request is a plain struct, and what comes of it is an [`EventStream`]: events as they
//! come, then a result. What the data and the prompts are is a matter of the [`Session`], which needs no device.

mod answer;
mod cancel;
mod compatibility;
mod config;
mod describe;
mod devices;
mod evaluate;
mod handle;
mod inspect;
mod loaded;
mod output_lock;
mod part;
mod request;
mod run_folder;
mod run_log;
mod session;
mod stream;
mod trace;
mod train;
mod worker;

pub use answer::{
    AnswerEvent, AnswerOptions, AnswerRequest, AnswerRow, AnswerStream, MessageSize, Received, RolledOut,
    RowAnswer, Written,
};
pub use cancel::Cancel;
pub use compatibility::compare_base;
pub use config::{EngineConfig, TeamChoice};
pub use devices::{Abilities, BackendState, DeviceState, devices};
pub use evaluate::{EvaluateEvent, EvaluateRequest, EvaluateStream, Scored};
pub use handle::Engine;
pub use output_lock::{OutputLock, RunState};
pub use part::Part;
pub use run_folder::{RunFolder, learned, run_of};
pub use session::{Conditions, Resolve, Session};
pub use stream::EventStream;
pub use trace::TraceFile;
pub use train::{TrainEvent, TrainRequest, TrainStart, TrainStream, Trained};
