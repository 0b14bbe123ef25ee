//! PNG files as pixels of the size that an encoder takes.

use std::io::Cursor;

use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

/// Most pixels along a side.
const MOST_SIDE: u32 = 1 << 14;
/// Most bytes that an image unpacks to.
const MOST_UNPACKED: u64 = 256 << 20;
/// How often an image may be as wide for its height as the encoder takes it: beyond, squeezing leaves nothing to be read.
const SQUEEZED: usize = 4;

/// Pixels of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// `[height, width, 3]`: red, green and blue.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// The picture of the PNG file `bytes` in `height` rows; what is then wider than `width` is squeezed.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence that begins with its name goes on: it is damaged, too large, or too wide for its height.
    pub fn read(bytes: &[u8], height: usize, width: usize) -> Result<Self, String> {
        let picture = decoded(bytes)?;
        let [wide, high] = [picture.width(), picture.height()].map(|n| n as usize);
        if wide * height > SQUEEZED * width * high {
            return Err(format!(
                "is {wide} × {high} pixels: too wide for an encoder of {width} × {height}; cut it into several"
            ));
        }
        let columns = (wide * height).div_ceil(high).clamp(1, width);
        let picture = resize(&picture, columns as u32, height as u32, FilterType::Triangle);
        Ok(Self { width: columns, pixels: picture.into_raw() })
    }
}

/// The pixels of a PNG file; what is transparent is white.
fn decoded(bytes: &[u8]) -> Result<RgbImage, String> {
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
    limits.max_alloc = Some(MOST_UNPACKED);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| match e {
        image::ImageError::Limits(_) => {
            format!(
                "is too large: at most {MOST_SIDE} pixels a side and {} MiB unpacked",
                MOST_UNPACKED >> 20
            )
        }
        e => format!("cannot be read as PNG: {e}"),
    })?;
    if picture.width() == 0 || picture.height() == 0 {
        return Err("has no pixel".into());
    }
    if !picture.color().has_alpha() {
        return Ok(picture.into_rgb8());
    }
    Ok(on_white(picture))
}

fn on_white(picture: DynamicImage) -> RgbImage {
    let picture = picture.into_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, a] = picture.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|c| ((c * a + 255 * (255 - a)) / 255) as u8))
    })
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, ImageBuffer, Rgba};

    use super::*;

    fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn read(bytes: &[u8]) -> Result<Picture, String> {
        Picture::read(bytes, 48, 320)
    }

    #[test]
    fn pictures_get_the_height_that_is_taken_and_at_most_the_width() {
        for ([wide, high], width) in [([100, 24], 200), ([320, 48], 320), ([900, 60], 320), ([1, 500], 1)] {
            let picture = read(&png(RgbImage::from_pixel(wide, high, Rgb([7, 8, 9])))).unwrap();
            assert_eq!((picture.width, picture.pixels.len()), (width, 3 * 48 * width));
            assert!(picture.pixels.chunks(3).all(|pixel| pixel == [7, 8, 9]));
        }
    }

    #[test]
    fn what_is_transparent_is_white() {
        let clear: ImageBuffer<Rgba<u8>, Vec<u8>> = ImageBuffer::from_pixel(10, 48, Rgba([0, 0, 0, 0]));
        let white = RgbImage::from_pixel(10, 48, Rgb([255; 3]));
        assert_eq!(read(&png(clear)), read(&png(white)));
    }

    #[test]
    fn files_that_are_damaged_huge_or_of_another_form_are_a_sentence() {
        let whole = png(RgbImage::new(64, 48));
        // Its header says more than its pixels unpack to.
        let mut large = whole.clone();
        large[16..24].copy_from_slice(&[0, 0, 0x3f, 0xff, 0, 0, 0x3f, 0xff]);
        let crc = crc32(&large[12..29]);
        large[29..33].copy_from_slice(&crc.to_be_bytes());
        for (bytes, says) in [
            (&whole[..whole.len() / 2], "cannot be read as PNG"),
            (b"", "cannot be read as PNG"),
            (b"\xff\xd8\xff\xe0 no PNG", "cannot be read as PNG"),
            (&png(RgbImage::new(2000, 10)), "is 2000 × 10 pixels: too wide for an encoder of 320 × 48"),
            (&png(GrayImage::new(20_000, 1)), "is too large: at most 16384 pixels"),
            (&large, "is too large: at most 16384 pixels"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
    }

    /// The checksum of PNG's chunks, bit by bit.
    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
    }
}
