//! What the worker can be asked for, on whatever backend.

use diffmas_backends::ModelBackend;

use super::loaded::LoadedTeam;
use super::stream::Tell;
use crate::error::Result;

/// What a worker can be asked for.
pub(super) trait Request: Send + 'static {
    /// What it tells while it goes on.
    type Event: Send + 'static;
    /// What comes of it.
    type Output: Send + 'static;

    /// Does the work with `team`.
    fn serve<B: ModelBackend>(
        self,
        team: &mut LoadedTeam<B>,
        tell: &Tell<Self::Event, Self::Output>,
    ) -> Result<Self::Output>;
}
