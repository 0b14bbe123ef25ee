//! Frozen encoders of images, generic over Burn's backends; reading images, and drawing lines of text.
//!
//! Each encoder is Rust that `encoders/generate` wrote from an ONNX file, without weights; these are read from the published file.
//! `docs/encoders.md` says how another one is added.

#![warn(missing_docs)]

mod draw;
mod fill;
pub mod onnx;
mod picture;
mod text_line;

use std::fmt::Debug;

use burn::prelude::*;

pub use draw::drawn_line;
pub use picture::Picture;
pub use text_line::TextLine;

/// An encoder with its weights.
pub trait Encoder<B: Backend>: Debug + Send + Sync {
    /// The features of an image.
    ///
    /// # Shapes
    /// `x [1, 3, height, width]` → `[1, frames, features]`
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 3>;
}

/// The encoder called `name`, with the weights of the ONNX file `bytes`.
///
/// # Errors
/// A sentence, if there is none of that name, or these are not its weights.
pub fn load<B: Backend>(name: &str, bytes: &[u8], device: &B::Device) -> Result<Box<dyn Encoder<B>>, String> {
    match name {
        "text-line" => Ok(Box::new(TextLine::load(bytes, device)?)),
        _ => Err(format!("there is no encoder `{name}`")),
    }
}
