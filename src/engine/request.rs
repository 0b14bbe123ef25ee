//! One kind of work that the engine does with a loaded team.

use diffmas_backends::ModelBackend;

use super::loaded::LoadedTeam;
use super::stream::Tell;
use crate::error::Result;

/// A request: what the worker does with the team.
pub(super) trait Request: Send + 'static {
    /// What is reported while it goes on.
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
