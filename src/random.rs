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
