//! Scores of a team on data with answers, with real messages and with controls.

use diffmas_backends::ModelBackend;

use super::Cancel;
use super::loaded::LoadedTeam;
use super::request::Request;
use super::stream::{EventStream, Tell};
use crate::error::Result;
use crate::evaluation::{
    Checking, Control, Evaluation, Gains, Paired, SampleScore, ScoredBatch, Scoring, evaluate_after,
};
use crate::text::TokenizedSample;

/// Samples to be scored.
#[derive(Clone, Debug, Default)]
pub struct EvaluateRequest {
    /// The samples, which all have a target.
    pub samples: Vec<TokenizedSample>,
    /// What the final agent reads: all samples are scored with one after another.
    pub controls: Vec<Control>,
    /// Seed of the controls.
    pub seed: u64,
    /// How the team's own answers are checked, if they are.
    pub checking: Option<Checking>,
    /// Batches that are scored already, the first of each control.
    pub done: Vec<(Control, ScoredBatch)>,
    /// Lines that run together, each with all its questions; the engine's own number where it is absent.
    pub batch_size: Option<usize>,
    /// Ends the work after the batch in progress.
    pub cancel: Cancel,
}

impl EvaluateRequest {
    /// Scores with real messages.
    pub fn new(samples: Vec<TokenizedSample>) -> Self {
        Self { samples, controls: vec![Control::Real], seed: 42, ..Self::default() }
    }
}

/// A batch that is scored.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluateEvent {
    /// What the final agent read.
    pub control: Control,
    /// The scores.
    pub batch: ScoredBatch,
}

/// The scores with one control.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// What the final agent read.
    pub control: Control,
    /// Over all samples; against the real messages, where those were scored, too.
    pub evaluation: Evaluation,
    /// By sample.
    pub scores: Vec<SampleScore>,
}

/// The events of a request for scores, and the scores by control.
pub type EvaluateStream = EventStream<EvaluateEvent, Vec<Scored>>;

impl Request for EvaluateRequest {
    type Event = EvaluateEvent;
    type Output = Vec<Scored>;

    fn serve<B: ModelBackend>(
        self,
        team: &mut LoadedTeam<B>,
        tell: &Tell<EvaluateEvent, Vec<Scored>>,
    ) -> Result<Vec<Scored>> {
        let writing = team.session.greedy_writing();
        let batch_size = self.batch_size.unwrap_or(team.session.config.batch_size());
        let processes = team.session.processes.clone();
        let mut all = Vec::with_capacity(self.controls.len());
        for control in &self.controls {
            let scoring = Scoring {
                batch_size,
                control,
                seed: self.seed,
                writing: writing.as_ref(),
                checking: self.checking.as_ref(),
                processes: &*processes,
            };
            let done = self.done.iter().filter(|(of, _)| of == control).map(|(_, batch)| batch.clone());
            tell.check()?;
            let scored = evaluate_after(team.team(), &self.samples, &scoring, done.collect(), |batch| {
                tell.event(EvaluateEvent { control: control.clone(), batch: batch.clone() });
                tell.check()
            });
            let (evaluation, scores) = scored?;
            all.push(Scored { control: control.clone(), evaluation, scores });
        }
        compare(&mut all);
        Ok(all)
    }
}

/// Compares all controls with the real messages, question by question, and says what real messages are better by.
fn compare(all: &mut [Scored]) {
    let Some(real) = all.iter().find(|scored| scored.control == Control::Real).map(|s| s.scores.clone())
    else {
        return;
    };
    for scored in all.iter_mut().filter(|scored| scored.control != Control::Real) {
        scored.evaluation.against_real = Some(Paired::new(&real, &scored.scores));
    }
    let gains = Gains::new(all.iter().map(|scored| {
        let score = &scored.evaluation;
        (&scored.control, score.against_real, score.accuracy)
    }));
    for scored in all.iter_mut().filter(|scored| scored.control == Control::Real) {
        scored.evaluation.gains = gains;
    }
}
