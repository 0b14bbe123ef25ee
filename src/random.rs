//! Seeded generators, one stream for each sample, epoch, step, role or purpose.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The stream of what a channel learns: none that a role's adapter draws from under the same seed.
pub(crate) const CHANNEL: u64 = 1 << 62;

/// The generator of `stream` under `seed`; streams of one seed are independent of each other.
pub(crate) fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// What separates the numbers of one stream in splitmix64 (Steele et al., OOPSLA 2014).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of splitmix64.
fn scrambled(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Number `i` of the stream of splitmix64 that begins at `key`: any of them can be had without those before.
pub(crate) fn splitmix(key: u64, i: u64) -> u64 {
    scrambled(key.wrapping_add(i.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// FNV-1a of a name.
pub(crate) fn hash_of(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3))
}

/// Numbers in `[0, 1)` that a name stands for, from the `from`-th on: the stream of splitmix64 that begins at
/// `fnv1a64(name)`, top 24 bits of each. Any part of them can be had without those before, and a few lines of another language make
/// the same.
pub(crate) fn uniform(name: &str, from: u64) -> impl Iterator<Item = f64> + use<> {
    let key = hash_of(name);
    (from..).map(move |i| (splitmix(key, i) >> 40) as f64 / f64::from(1u32 << 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_a_name_stands_for_is_the_same_without_the_rest() {
        let all: Vec<f64> = uniform("a", 0).take(100).collect();
        assert_eq!(all[37..], uniform("a", 37).take(63).collect::<Vec<_>>());
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
        assert_ne!(all, uniform("b", 0).take(100).collect::<Vec<_>>());
    }
}
