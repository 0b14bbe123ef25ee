//! Learning a text as it stands.

use diffmas_backends::ModelBackend;

use crate::agents::{Loss, LossTerm, Objective};

/// `Σ −log p(token)`: the text is what should have been said.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropy;

impl<B: ModelBackend> Objective<B> for CrossEntropy {
    fn loss(&self, term: LossTerm<'_, B>) -> Loss<B> {
        B::sum(term.predictions.nll()).mul_scalar(term.weight).into()
    }
}
