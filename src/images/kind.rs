//! Which encoders there are, and what they take and give.

use crate::checkpoint::hub::Wheel;
use crate::error::{Error, Result};
use crate::files::nearest;

/// An encoder of images, without weights.
#[derive(Debug)]
pub struct EncoderKind {
    /// Its name in team files.
    pub name: &'static str,
    /// Rows of pixels that it takes.
    pub height: usize,
    /// Columns of pixels that it takes.
    pub width: usize,
    /// Which of red, green and blue each of its planes is.
    pub channels: [usize; 3],
    /// What is taken away from values between 0 and 1, by plane.
    pub mean: [f32; 3],
    /// What they are then divided by.
    pub std: [f32; 3],
    /// Feature vectors that it gives, left to right.
    pub frames: usize,
    /// Numbers of one of them.
    pub features: usize,
    /// How many neighbouring frames the projector makes one input embedding of.
    pub window: usize,
    /// Frames from one input embedding to the next.
    pub stride: usize,
    /// Where its weights are published, as an ONNX file.
    pub wheel: Wheel,
}

impl EncoderKind {
    /// Input embeddings that an image becomes.
    pub fn positions(&self) -> usize {
        self.frames / self.stride
    }

    /// Numbers that the projector makes an input embedding of.
    pub fn inputs(&self) -> usize {
        self.window * self.features
    }
}

/// Every encoder.
pub static ENCODERS: [EncoderKind; 1] = [
    // The backbone and neck of PaddleOCR's recogniser of text lines (Apache-2.0), without the head that makes letters of its features.
    EncoderKind {
        name: "text-line",
        height: 48,
        width: 320,
        channels: [2, 1, 0],
        mean: [0.5; 3],
        std: [0.5; 3],
        frames: 40,
        features: 120,
        window: 8,
        stride: 4,
        wheel: Wheel {
            package: "rapidocr",
            version: "3.10.0",
            member: "rapidocr/models/PP-OCRv6_rec_small.onnx",
            sha256: "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        },
    },
];

/// The encoder called `name`.
///
/// # Errors
/// If there is none.
pub fn encoder_kind(name: &str) -> Result<&'static EncoderKind> {
    ENCODERS.iter().find(|kind| kind.name == name).ok_or_else(|| {
        let known: Vec<&str> = ENCODERS.iter().map(|kind| kind.name).collect();
        let hint = nearest(name, &known).map_or(String::new(), |right| format!("; did you mean `{right}`?"));
        Error::invalid(format!("unknown encoder `{name}`{hint} (known: {})", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoders_are_known_by_name() {
        assert_eq!(encoder_kind("text-line").unwrap().positions(), 10);
        let error = encoder_kind("textline").unwrap_err().to_string();
        assert_eq!(error, "unknown encoder `textline`; did you mean `text-line`? (known: text-line)");
    }
}
