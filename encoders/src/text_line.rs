//! Lines of text: the backbone and neck of PP-OCRv6's small recogniser (PaddleOCR, Apache-2.0), without the head that makes letters of its
//! features.

use burn::prelude::*;

use crate::Encoder;
use crate::fill::filled;

// Generated, and never edited.
#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
mod model;
mod weights;

/// The encoder of one line of text.
#[derive(Debug)]
pub struct TextLine<B: Backend>(model::Model<B>);

impl<B: Backend> TextLine<B> {
    /// The encoder with the weights of the ONNX file `bytes` (`PP-OCRv6_rec_small.onnx` of `rapidocr` 3.10.0).
    ///
    /// # Errors
    /// A sentence, if these are not its weights.
    pub fn load(bytes: &[u8], device: &B::Device) -> Result<Self, String> {
        filled(model::Model::new(device), bytes, weights::WEIGHTS, device).map(Self)
    }
}

impl<B: Backend> Encoder<B> for TextLine<B> {
    /// `[1, 3, 48, 320]`, blue, green and red from −1 to 1 → `[1, 40, 120]`, left to right.
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        self.0.forward(x)
    }
}
