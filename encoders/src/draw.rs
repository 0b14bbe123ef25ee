//! Lines of text as images: fonts, places and noise by chance.

use std::io::Cursor;

use ab_glyph::{Font, FontRef, ScaleFont, point};
use epaint_default_fonts::{HACK_REGULAR, UBUNTU_LIGHT};
use image::{GrayImage, ImageFormat, Luma};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// Pixels of an image: what the encoder of lines takes.
const SIZE: [u32; 2] = [320, 48];
/// Pixels that stay free at the right.
const MARGIN: f32 = 4.0;

/// `text` as a PNG file of 320 × 48 pixels, dark on light: in one of two fonts, 24 to 36 pixels high or as much lower as it takes to fit,
/// somewhere in the image, under Gaussian noise.
pub fn drawn_line(text: &str, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let font = [HACK_REGULAR, UBUNTU_LIGHT][usize::from(rng.random::<bool>())];
    let font = FontRef::try_from_slice(font).expect("a font of this program");
    let [width, height] = SIZE.map(|n| n as f32);
    let mut size: f32 = rng.random_range(24.0..36.0);
    let length = |size: f32| {
        let font = font.as_scaled(size);
        text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum::<f32>()
    };
    size *= ((width - 2.0 * MARGIN) / length(size)).min(1.0);
    let scaled = font.as_scaled(size);
    let room = (width - MARGIN - length(size)).max(0.0);
    let mut x = rng.random_range(0.0..=room.min(24.0));
    let middle = (height + scaled.ascent() + scaled.descent()) / 2.0;
    let baseline = middle + rng.random_range(-3.0..3.0);
    let (paper, ink) = (rng.random_range(190.0..250.0), rng.random_range(0.0..70.0));
    let mut cover = vec![0f32; (SIZE[0] * SIZE[1]) as usize];
    for c in text.chars() {
        let id = scaled.glyph_id(c);
        let glyph = id.with_scale_and_position(size, point(x, baseline));
        x += scaled.h_advance(id);
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let corner = outline.px_bounds().min;
        outline.draw(|dx, dy, covered| {
            let (x, y) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
            if (0..i64::from(SIZE[0])).contains(&x) && (0..i64::from(SIZE[1])).contains(&y) {
                let pixel = &mut cover[y as usize * SIZE[0] as usize + x as usize];
                *pixel = pixel.max(covered);
            }
        });
    }
    let noise = Normal::new(0.0, rng.random_range(4.0..16.0f32)).expect("a finite deviation");
    let image = GrayImage::from_fn(SIZE[0], SIZE[1], |x, y| {
        let covered = cover[(y * SIZE[0] + x) as usize];
        Luma([(paper + covered * (ink - paper) + noise.sample(rng)).clamp(0.0, 255.0) as u8])
    });
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).expect("memory takes it");
    png.into_inner()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;
    use crate::Picture;

    #[test]
    fn a_line_is_drawn_in_many_ways_that_all_can_be_read() {
        let drawn = |stream| drawn_line("has abel whistle .", &mut ChaCha8Rng::seed_from_u64(stream));
        let all: BTreeSet<Vec<u8>> = (0..8).map(drawn).collect();
        assert_eq!(all.len(), 8);
        assert_eq!(drawn(3), drawn(3));
        for png in &all {
            assert_eq!(Picture::read(png, 48, 320).unwrap().width, 320);
            let dark =
                image::load_from_memory(png).unwrap().into_luma8().pixels().filter(|p| p.0[0] < 120).count();
            assert!((400..6000).contains(&dark), "{dark} dark pixels");
        }
    }
}
