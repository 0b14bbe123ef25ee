//! The handle: what a program holds of an engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::answer::{AnswerOptions, AnswerRequest, AnswerStream};
use super::evaluate::{EvaluateRequest, EvaluateStream};
use super::inspect::InspectRequest;
use super::train::{TrainRequest, TrainStream};
use super::worker::{Fingerprint, Slot, Worker};
use super::{Cancel, EngineConfig, Session};
use crate::agents::{AdapterScope, TeamConfig};
use crate::error::{Error, Result};
use crate::evaluation::Inspection;
use crate::text::{Sample, TokenizedSample};

/// A team on a model and a device. Clones are handles of one team; the weights go with the last of them.
#[derive(Clone)]
pub struct Engine {
    slot: Arc<Slot>,
}

/// Another team on the weights of an engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeamChoice {
    /// The team; without one, that of the adapter, else the built-in one.
    pub team: Option<TeamConfig>,
    /// What the team learned: a folder, or a name on the Hugging Face hub.
    pub adapter: Option<PathBuf>,
    /// Which roles the adapter is active in; without it, those that it was trained in.
    pub adapter_scope: Option<AdapterScope>,
    /// Runs the adapter in `team`, although it was trained in another.
    pub override_team: Option<bool>,
}

impl Engine {
    /// Loads model, team and adapter, and starts the worker that owns them. Dropping the last handle waits for the work in progress.
    ///
    /// # Errors
    /// If something cannot be read, fetched or run together, or the device does not start.
    pub fn open(config: EngineConfig) -> Result<Self> {
        Self::start(Session::open(config)?)
    }

    /// The same for what has been read already.
    ///
    /// # Errors
    /// If weights or adapter cannot be loaded, or the device does not start.
    pub fn start(session: Session) -> Result<Self> {
        Ok(Self { slot: Worker::start(Arc::new(session))? })
    }

    /// Another team on the same weights, on the same worker. It is a team of its own: what one learns the other does not know.
    ///
    /// # Errors
    /// If team or adapter cannot be read, or do not fit the model.
    pub fn with_team(&self, choice: TeamChoice) -> Result<Self> {
        Ok(Self { slot: self.slot.with(Arc::new(self.session().with(choice)?))? })
    }

    /// What the team is, and how data becomes its prompts.
    pub fn session(&self) -> &Session {
        &self.slot.session
    }

    /// The team's answer to one question, with the best token always.
    ///
    /// # Errors
    /// If the question does not fit the model, the model has no tokenizer, or a score is not finite.
    pub fn ask(&self, question: &str) -> Result<String> {
        let options = AnswerOptions::default();
        let room = options.decode.max_new_tokens;
        let sample = self.session().tokenize(Path::new("question"), &Sample::question(question), room)?;
        let answers = self.answer(AnswerRequest::new(vec![sample], options))?.answers()?;
        let text = answers.into_iter().find_map(|answer| answer.text);
        let text =
            text.ok_or_else(|| Error::file(&self.session().model.path, "the model has no tokenizer"))?;
        Ok(text.trim().to_string())
    }

    /// Answers the rows of `request`, batch by batch.
    ///
    /// # Errors
    /// If a row does not fit the model, or its options make no sense for team or model.
    pub fn answer(&self, request: AnswerRequest) -> Result<AnswerStream> {
        request.check(self.session())?;
        let cancel = request.cancel.clone();
        Ok(self.slot.call(request, &cancel))
    }

    /// Scores the samples of `request`; what is wrong with them is said by the stream.
    pub fn evaluate(&self, request: EvaluateRequest) -> EvaluateStream {
        let cancel = request.cancel.clone();
        self.slot.call(request, &cancel)
    }

    /// What happens inside the team on the first few of `samples`, and on the first of them up to an answer of at most `max_new_tokens`; none
    /// where the model has no tokenizer, or there is no sample.
    ///
    /// # Errors
    /// If a prompt cannot be made of what was written, or a score is not finite.
    pub fn inspect(&self, samples: &[TokenizedSample], max_new_tokens: usize) -> Result<Option<Inspection>> {
        self.slot.call(InspectRequest::new(samples, max_new_tokens), &Cancel::new()).finish()
    }

    /// Trains the team. When the stream has ended, the engine answers with what was learned.
    ///
    /// # Errors
    /// If settings or data make no sense.
    pub fn train(&self, request: TrainRequest) -> Result<TrainStream> {
        request.check()?;
        let cancel = request.cancel.clone();
        Ok(self.slot.call(request, &cancel))
    }

    /// SHA-256 of everything that the team has learned.
    ///
    /// # Errors
    /// If the worker has ended.
    pub fn learned_sha256(&self) -> Result<String> {
        self.slot.call(Fingerprint, &Cancel::new()).finish()
    }

    #[cfg(test)]
    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}
