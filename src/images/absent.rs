//! What a build without the feature `vision` says.

use std::path::Path;
use std::sync::Arc;

use diffmas_backends::ModelBackend;
use rand_chacha::ChaCha8Rng;

use super::{EncoderKind, Image, ImageEncoder};
use crate::error::{Error, Result};

/// The one thing that it says.
fn refused() -> Error {
    Error::invalid("this program was built without encoders of images; build it with `--features vision`")
}

/// Refuses images.
pub(crate) fn check_built() -> Result<()> {
    Err(refused())
}

/// Draws nothing.
///
/// # Panics
/// Always: whoever draws has asked [`check_built`] first.
pub(crate) fn drawn_line(_text: &str, _rng: &mut ChaCha8Rng) -> Vec<u8> {
    unreachable!("images were refused")
}

/// Refuses to read an image.
///
/// # Errors
/// Always.
pub fn read_image(
    _source: &str,
    _folder: &Path,
    _kind: &'static EncoderKind,
) -> std::result::Result<Image, String> {
    Err(refused().to_string())
}

/// Refuses to open an encoder.
///
/// # Errors
/// Always.
pub fn open_encoder<B: ModelBackend>(
    _kind: &'static EncoderKind,
    _path: &Path,
    _on_cpu: bool,
    _device: &B::Device,
) -> Result<Arc<dyn ImageEncoder>> {
    Err(refused())
}
