//! What agents that see read: an image, then the tokens of a prompt.

use std::sync::Arc;

use super::PaddedIds;
use crate::images::{EncoderKind, Image};
use crate::rectangle::{Padding, real};

/// Images of `B` rows, and the token ids behind them, padded on the left: padding, the image, the row's own tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenImages {
    /// One a row, all for one encoder.
    pub images: Vec<Arc<Image>>,
    /// The tokens behind them, padded on the left; there may be none.
    pub ids: PaddedIds,
    valid: Vec<bool>,
}

impl SeenImages {
    /// Images with the tokens behind them.
    ///
    /// # Panics
    /// If there is no image, they are for different encoders, or there are more or fewer rows of tokens.
    pub fn new(images: Vec<Arc<Image>>, ids: PaddedIds) -> Self {
        let kind = images[0].kind();
        assert!(images.iter().all(|image| image.kind().name == kind.name), "images for one encoder");
        assert_eq!(images.len(), ids.batch, "tokens behind each image");
        let tokens =
            |row: usize| ids.valid[row * ids.len..(row + 1) * ids.len].iter().filter(|&&v| v).count();
        let valid = real((0..images.len()).map(|row| kind.positions() + tokens(row)), Padding::Left);
        Self { images, ids, valid }
    }

    /// The encoder that the images are for.
    pub fn kind(&self) -> &'static EncoderKind {
        self.images[0].kind()
    }

    /// Positions per row, padding included.
    pub fn len(&self) -> usize {
        self.kind().positions() + self.ids.len
    }

    /// Never: there is an image.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// `[B, n]`, false at padding.
    pub fn valid(&self) -> &[bool] {
        &self.valid
    }

    /// For each position, where it stands among rows of image and padded tokens.
    pub(super) fn sources(&self) -> Vec<usize> {
        let (width, seen) = (self.len(), self.kind().positions());
        let rows = self.valid.chunks_exact(width).enumerate();
        rows.flat_map(|(row, valid)| {
            let padded = seen + valid.iter().filter(|&&v| !v).count();
            let columns = (seen..padded).chain(0..seen).chain(padded..width);
            columns.map(move |column| row * width + column)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ENCODERS;

    #[test]
    fn padding_stands_before_the_image_and_tokens_behind_it() {
        let image = || Arc::new(Image::new(&ENCODERS[0], 1, vec![0; 48 * 3]));
        let seen = SeenImages::new(vec![image(), image()], PaddedIds::left(&[&[1, 2, 3], &[4]]));
        assert_eq!((seen.len(), seen.valid().iter().filter(|&&v| v).count()), (13, 24));
        assert_eq!(seen.valid()[13..16], [false, false, true]);
        let sources = seen.sources();
        assert_eq!(sources[..13], (0..13).collect::<Vec<_>>());
        // Padding, padding, the image, and the last of three places of tokens.
        assert_eq!(sources[13..16], [13 + 10, 13 + 11, 13]);
        assert_eq!(sources[24..], [13 + 9, 13 + 12]);
    }
}
