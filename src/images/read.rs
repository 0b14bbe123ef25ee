//! From what a data line says to an image that an encoder takes.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diffmas_encoders::Picture;

use super::{EncoderKind, Image};
use crate::files::{open_file, read};

/// Most bytes of an image file.
const MOST_BYTES: u64 = 32 << 20;
/// How a PNG file begins, in base64.
const PNG: &str = "iVBORw0KGgo";

/// The image of `source`: a PNG file, from `folder` on; or its bytes in base64, as they are or behind `data:image/png;base64,`.
///
/// It gets the encoder's height; what is then wider than the encoder takes is squeezed, and what is narrower stands at the left.
///
/// # Errors
/// A sentence, if it is missing, damaged, too large, or not the form of what the encoder reads.
pub fn read_image(source: &str, folder: &Path, kind: &'static EncoderKind) -> Result<Image, String> {
    let encoded = source.strip_prefix("data:image/png;base64,");
    let encoded = encoded.or_else(|| Some(source).filter(|s| s.starts_with(PNG)));
    let (name, bytes) = match encoded {
        Some(encoded) => {
            let bytes = BASE64_STANDARD.decode(encoded.trim());
            ("the image".to_string(), bytes.map_err(|e| format!("the image is no base64: {e}"))?)
        }
        None if source.trim().is_empty() => {
            return Err("the image is empty: neither a path nor base64".into());
        }
        None if source.starts_with("data:") => {
            return Err("the image is no `data:image/png;base64,`".into());
        }
        None => {
            let path = folder.join(source);
            let name = format!("the image {}", path.display());
            let bytes = open_file(&path).and_then(|_| read(&path, MOST_BYTES));
            let bytes = bytes.map_err(|e| format!("{name}: {e}"))?;
            (name, bytes)
        }
    };
    let picture = Picture::read(&bytes, kind.height, kind.width).map_err(|e| format!("{name} {e}"))?;
    Ok(Image::new(kind, picture.width, picture.pixels))
}
