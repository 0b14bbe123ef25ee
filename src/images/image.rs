//! One image, and what an encoder made of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{EncoderKind, ImageEncoder};

/// An image in the form that an encoder takes.
pub struct Image {
    kind: &'static EncoderKind,
    sha256: [u8; 32],
    /// Columns of pixels that are the image's; what the encoder takes beyond is empty.
    width: usize,
    /// `[height, width, 3]`: red, green and blue.
    pixels: Vec<u8>,
    features: OnceLock<Vec<f32>>,
}

impl Image {
    /// The image of so many columns for an encoder of this kind.
    ///
    /// # Shapes
    /// `pixels [height, width, 3]`, row-major: red, green and blue
    ///
    /// # Panics
    /// If the pixels are fewer or more, or the encoder takes fewer columns.
    pub fn new(kind: &'static EncoderKind, width: usize, pixels: Vec<u8>) -> Self {
        assert!(width <= kind.width && pixels.len() == kind.height * width * 3, "pixels of another size");
        let mut hash = Sha256::new();
        hash.update(kind.name);
        hash.update(&pixels);
        Self { kind, sha256: hash.finalize().into(), width, pixels, features: OnceLock::new() }
    }

    /// The encoder that it is for.
    pub fn kind(&self) -> &'static EncoderKind {
        self.kind
    }

    /// What a projector makes input embeddings of, computed by `encoder` at the first call: around every `stride`-th frame a window of frames,
    /// each brought to mean 0 and variance 1; beyond the first and the last frame there are zeros.
    ///
    /// # Shapes
    /// `[positions, window · features]`, row-major
    pub fn features(&self, encoder: &dyn ImageEncoder) -> &[f32] {
        if let Some(known) = self.features.get() {
            return known;
        }
        // Outside of `get_or_init`: the encoder may work on other images of the same thread meanwhile, this one among them.
        let mut frames = encoder.features(&self.planes());
        frames.chunks_exact_mut(self.kind.features).for_each(normalize);
        self.features.get_or_init(|| windows(&frames, self.kind))
    }

    /// Whether it was encoded.
    fn is_encoded(&self) -> bool {
        self.features.get().is_some()
    }

    /// `[3, height, width]`: the planes that the encoder takes, in its numbers, and 0 where there is no image.
    fn planes(&self) -> Vec<f32> {
        let EncoderKind { height, width, channels, mean, std, .. } = *self.kind;
        let mut planes = vec![0.0; 3 * height * width];
        for (i, pixel) in self.pixels.chunks_exact(3).enumerate() {
            let at = i / self.width * width + i % self.width;
            for (plane, channel) in channels.into_iter().enumerate() {
                let value = f32::from(pixel[channel]) / 255.0;
                planes[plane * height * width + at] = (value - mean[plane]) / std[plane];
            }
        }
        planes
    }
}

/// Brings numbers to mean 0 and variance 1.
fn normalize(x: &mut [f32]) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
    x.iter_mut().for_each(|x| *x = (*x - mean) / (variance + 1e-6).sqrt());
}

/// The windows of `frames`, `[frames, features]`, side by side.
fn windows(frames: &[f32], kind: &EncoderKind) -> Vec<f32> {
    let EncoderKind { window, stride, features, .. } = *kind;
    let before = (window - stride) / 2;
    let mut all = vec![0.0; kind.positions() * kind.inputs()];
    for (i, to) in all.chunks_exact_mut(features).enumerate() {
        let frame = (i / window * stride + i % window).checked_sub(before);
        if let Some(from) = frame.and_then(|frame| frames.chunks_exact(features).nth(frame)) {
            to.copy_from_slice(from);
        }
    }
    all
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}, {} columns, {:02x?})", self.kind.name, self.width, &self.sha256[..4])
    }
}

/// Encodes those of `images` that were not yet, each once, on all threads where the encoder may.
pub(crate) fn encode(images: &[Arc<Image>], encoder: &dyn ImageEncoder) {
    let open: BTreeMap<*const Image, &Image> = images
        .iter()
        .filter(|image| !image.is_encoded())
        .map(|image| (Arc::as_ptr(image), &**image))
        .collect();
    let encode = |image: &Image| {
        image.features(encoder);
    };
    match encoder.is_parallel() {
        true => open.into_values().collect::<Vec<_>>().into_par_iter().for_each(encode),
        false => open.into_values().for_each(encode),
    }
}

/// Images that are in use, by hash: the same one is there, and is encoded, once.
#[derive(Debug, Default)]
pub struct Images(Mutex<HashMap<[u8; 32], Weak<Image>>>);

impl Images {
    /// `image`, or the same one that is in use already.
    pub fn share(&self, image: Image) -> Arc<Image> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(&image.sha256).and_then(Weak::upgrade) {
            return same;
        }
        let image = Arc::new(image);
        known.insert(image.sha256, Arc::downgrade(&image));
        image
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::ENCODERS;
    use super::*;

    fn image(shade: u8) -> Image {
        Image::new(&ENCODERS[0], 2, [shade, 0, 255].repeat(48 * 2))
    }

    #[test]
    fn pixels_become_planes_of_blue_green_and_red_with_nothing_beside() {
        let planes = image(51).planes();
        let at = |plane: usize, x: usize| planes[(plane * 48 + 47) * 320 + x];
        assert_eq!([at(0, 1), at(1, 1)], [1.0, -1.0]);
        assert!((at(2, 0) + 0.6).abs() < 1e-6);
        assert_eq!([at(0, 2), at(2, 319)], [0.0, 0.0]);
    }

    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl ImageEncoder for Counting {
        fn kind(&self) -> &'static EncoderKind {
            &ENCODERS[0]
        }

        fn features(&self, _pixels: &[f32]) -> Vec<f32> {
            let first = self.0.fetch_add(1, Ordering::Relaxed);
            (0..40 * 120).map(|i| (i % 120 * (first + 1) + i / 120) as f32).collect()
        }
    }

    #[test]
    fn a_projector_takes_windows_of_normal_frames() {
        let image = image(9);
        let seen = image.features(&Counting::default());
        assert_eq!(seen.len(), 10 * 8 * 120);
        let frame = |position: usize, i: usize| &seen[(position * 8 + i) * 120..][..120];
        // Two frames stand before the first, which all others look like once their mean is taken away.
        assert!(frame(0, 0).iter().chain(frame(0, 1)).chain(frame(9, 6)).all(|x| *x == 0.0));
        let mean: f32 = frame(0, 2).iter().sum::<f32>() / 120.0;
        let variance = frame(9, 5).iter().map(|x| x * x).sum::<f32>() / 120.0;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
        // The sixth of a window is the second of the next.
        assert_eq!((frame(3, 4), frame(3, 7)), (frame(4, 0), frame(4, 3)));
    }

    #[test]
    fn the_same_image_is_encoded_once() {
        let (images, encoder) = (Images::default(), Counting::default());
        let [a, b, c] = [1, 1, 2].map(|shade| images.share(image(shade)));
        assert!(Arc::ptr_eq(&a, &b) && a != c);
        for image in [&a, &b, &c] {
            image.features(&encoder);
        }
        assert_eq!(encoder.0.into_inner(), 2);
    }
}
