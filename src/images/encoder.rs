//! What makes features of an image.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::EncoderKind;

/// A frozen encoder on some device.
pub trait ImageEncoder: Debug + Send + Sync {
    /// Which one it is.
    fn kind(&self) -> &'static EncoderKind;

    /// The features of an image.
    ///
    /// # Shapes
    /// `pixels [3, height, width]`, planes and numbers as the kind says → `[frames, features]`, both row-major
    fn features(&self, pixels: &[f32]) -> Vec<f32>;

    /// Whether several threads may encode at once.
    fn is_parallel(&self) -> bool {
        false
    }
}

/// The encoders of a team, by name.
#[derive(Clone, Debug, Default)]
pub struct Encoders(BTreeMap<&'static str, Arc<dyn ImageEncoder>>);

impl Encoders {
    /// The encoder of this kind.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, kind: &EncoderKind) -> &dyn ImageEncoder {
        let found = self.0.get(kind.name).map(Arc::as_ref);
        found.unwrap_or_else(|| panic!("the team was made without its encoder `{}`", kind.name))
    }
}

impl FromIterator<Arc<dyn ImageEncoder>> for Encoders {
    fn from_iter<I: IntoIterator<Item = Arc<dyn ImageEncoder>>>(encoders: I) -> Self {
        Self(encoders.into_iter().map(|encoder| (encoder.kind().name, encoder)).collect())
    }
}
