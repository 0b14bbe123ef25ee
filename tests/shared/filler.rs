//! Numbers that Python and Rust make alike from a name.

/// The reference's portable filler: splitmix64 of `fnv1a64(name) + (i + 1)·golden`, top 24 bits, scaled to `±bound`.
pub fn det_fill(name: &str, n: usize, bound: f64) -> Vec<f32> {
    det_uniform(name, n).map(|u| (bound * (2.0 * u - 1.0)) as f32).collect()
}

/// `n` values in `[0, 1)` of the portable generator.
pub fn det_uniform(name: &str, n: usize) -> impl Iterator<Item = f64> {
    let start =
        name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    (1..=n as u64).map(move |i| {
        let mut z = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1u32 << 24)
    })
}
