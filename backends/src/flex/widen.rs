//! Numbers narrower than f32 to f32, 32 at a time, in the registers of each kind of instructions. All of it is exact, except that a block
//! with a least number is rounded once, as where it is dequantised.

use half::f16;
use pulp::{Scalar, Simd, bytemuck};

/// Numbers that are widened at once: a block of GGUF's older formats.
pub(super) const UNIT: usize = 32;

/// Vector instructions that widen numbers.
pub(super) trait Widen: Simd {
    /// [`UNIT`] numbers in order.
    type Unit: Copy + AsRef<[Self::f32s]>;

    /// bf16.
    fn bf16(self, words: &[u8; 2 * UNIT]) -> Self::Unit;

    /// f16.
    fn f16(self, words: &[u8; 2 * UNIT]) -> Self::Unit;

    /// `scale · q` for signed bytes `q`.
    fn bytes(self, scale: [u8; 2], q: &[u8; UNIT]) -> Self::Unit;

    /// `scale · q + least` for 4-bit numbers `q` from 0 to 15: the lower halves of all bytes, then the upper ones.
    fn nibbles(self, scale: [u8; 2], least: Least, q: &[u8; UNIT / 2]) -> Self::Unit;
}

/// What is added to the numbers of a block.
#[derive(Clone, Copy)]
pub(super) enum Least {
    /// The scale so many times.
    Scales(f32),
    /// An f16.
    Stored([u8; 2]),
}

/// A format that is widened in registers, of which `BYTES` bytes are [`UNIT`] numbers.
pub(super) trait Format<const BYTES: usize>: Copy + Send + Sync {
    /// The numbers of `bytes`.
    fn widen<S: Widen>(simd: S, bytes: &[u8; BYTES]) -> S::Unit;
}

/// bf16.
#[derive(Clone, Copy)]
pub(super) struct Bf16;

impl Format<64> for Bf16 {
    #[inline(always)]
    fn widen<S: Widen>(simd: S, bytes: &[u8; 64]) -> S::Unit {
        simd.bf16(bytes)
    }
}

/// f16.
#[derive(Clone, Copy)]
pub(super) struct F16;

impl Format<64> for F16 {
    #[inline(always)]
    fn widen<S: Widen>(simd: S, bytes: &[u8; 64]) -> S::Unit {
        simd.f16(bytes)
    }
}

/// GGUF's Q8_0: an f16 scale, and 32 signed bytes.
#[derive(Clone, Copy)]
pub(super) struct Q8_0;

impl Format<34> for Q8_0 {
    #[inline(always)]
    fn widen<S: Widen>(simd: S, bytes: &[u8; 34]) -> S::Unit {
        let (scale, q) = bytes.split_first_chunk::<2>().expect("a scale");
        simd.bytes(*scale, q.try_into().expect("32 bytes"))
    }
}

/// GGUF's Q4_0: an f16 scale, and 32 numbers from −8 to 7.
#[derive(Clone, Copy)]
pub(super) struct Q4_0;

impl Format<18> for Q4_0 {
    #[inline(always)]
    fn widen<S: Widen>(simd: S, bytes: &[u8; 18]) -> S::Unit {
        let (scale, q) = bytes.split_first_chunk::<2>().expect("a scale");
        simd.nibbles(*scale, Least::Scales(-8.0), q.try_into().expect("16 bytes"))
    }
}

/// GGUF's Q4_1: an f16 scale, the least number as f16, and 32 numbers from 0 to 15.
#[derive(Clone, Copy)]
pub(super) struct Q4_1;

impl Format<20> for Q4_1 {
    #[inline(always)]
    fn widen<S: Widen>(simd: S, bytes: &[u8; 20]) -> S::Unit {
        let (scale, rest) = bytes.split_first_chunk::<2>().expect("a scale");
        let (least, q) = rest.split_first_chunk::<2>().expect("the least number");
        simd.nibbles(*scale, Least::Stored(*least), q.try_into().expect("16 bytes"))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    // No `array::map`: where that is not inlined, neither are the instructions.
    use std::arch::x86_64::{__m128i, __m256, __m256i, __m512, __m512i, _mm256_cvtph_ps};

    use pulp::bytemuck::cast;
    use pulp::x86::{V3, V4};
    use pulp::{f32x8, f32x16};

    use super::{Least, UNIT, Widen};

    #[inline(always)]
    fn half_8(words: __m128i) -> __m256 {
        // SAFETY: kernels get these instructions only from `run`, which compiles them with `f16c`.
        unsafe { _mm256_cvtph_ps(words) }
    }

    /// The number on all lanes.
    #[inline(always)]
    fn splat_8(simd: V3, number: [u8; 2]) -> __m256 {
        half_8(simd.sse2._mm_set1_epi16(i16::from_le_bytes(number)))
    }

    #[inline(always)]
    fn bf16_8(simd: V3, words: __m128i) -> f32x8 {
        cast(simd.avx2._mm256_slli_epi32::<16>(simd.avx2._mm256_cvtepu16_epi32(words)))
    }

    #[inline(always)]
    fn bytes_8(simd: V3, scale: __m256, q: i64) -> f32x8 {
        let q = simd.avx._mm256_cvtepi32_ps(simd.avx2._mm256_cvtepi8_epi32(cast([q, 0])));
        cast(simd.avx._mm256_mul_ps(q, scale))
    }

    #[inline(always)]
    fn scaled_8(simd: V3, scale: __m256, least: __m256, q: __m256i) -> f32x8 {
        cast(simd.fma._mm256_fmadd_ps(scale, simd.avx._mm256_cvtepi32_ps(q), least))
    }

    impl Widen for V3 {
        type Unit = [f32x8; 4];

        #[inline(always)]
        fn bf16(self, words: &[u8; 2 * UNIT]) -> Self::Unit {
            let [a, b, c, d] = cast::<_, [__m128i; 4]>(*words);
            [bf16_8(self, a), bf16_8(self, b), bf16_8(self, c), bf16_8(self, d)]
        }

        #[inline(always)]
        fn f16(self, words: &[u8; 2 * UNIT]) -> Self::Unit {
            let [a, b, c, d] = cast::<_, [__m128i; 4]>(*words);
            [cast(half_8(a)), cast(half_8(b)), cast(half_8(c)), cast(half_8(d))]
        }

        #[inline(always)]
        fn bytes(self, scale: [u8; 2], q: &[u8; UNIT]) -> Self::Unit {
            let ([a, b, c, d], scale) = (cast::<_, [i64; 4]>(*q), splat_8(self, scale));
            [
                bytes_8(self, scale, a),
                bytes_8(self, scale, b),
                bytes_8(self, scale, c),
                bytes_8(self, scale, d),
            ]
        }

        #[inline(always)]
        fn nibbles(self, scale: [u8; 2], least: Least, q: &[u8; UNIT / 2]) -> Self::Unit {
            let scale = splat_8(self, scale);
            let least = match least {
                Least::Scales(n) => self.avx._mm256_mul_ps(scale, self.avx._mm256_set1_ps(n)),
                Least::Stored(least) => splat_8(self, least),
            };
            let ([a, b], ones) = (cast::<_, [i64; 2]>(*q), self.avx._mm256_set1_epi32(15));
            let a = self.avx2._mm256_cvtepu8_epi32(cast([a, 0]));
            let b = self.avx2._mm256_cvtepu8_epi32(cast([b, 0]));
            [
                scaled_8(self, scale, least, self.avx2._mm256_and_si256(a, ones)),
                scaled_8(self, scale, least, self.avx2._mm256_and_si256(b, ones)),
                scaled_8(self, scale, least, self.avx2._mm256_srli_epi32::<4>(a)),
                scaled_8(self, scale, least, self.avx2._mm256_srli_epi32::<4>(b)),
            ]
        }
    }

    /// The number on all lanes.
    #[inline(always)]
    fn splat_16(simd: V4, number: [u8; 2]) -> __m512 {
        simd.avx512f._mm512_cvtph_ps(simd.avx._mm256_set1_epi16(i16::from_le_bytes(number)))
    }

    #[inline(always)]
    fn bf16_16(simd: V4, words: __m256i) -> f32x16 {
        cast(simd.avx512f._mm512_slli_epi32::<16>(simd.avx512f._mm512_cvtepu16_epi32(words)))
    }

    #[inline(always)]
    fn bytes_16(simd: V4, scale: __m512, q: __m128i) -> f32x16 {
        let q = simd.avx512f._mm512_cvtepi32_ps(simd.avx512f._mm512_cvtepi8_epi32(q));
        cast(simd.avx512f._mm512_mul_ps(q, scale))
    }

    #[inline(always)]
    fn scaled_16(simd: V4, scale: __m512, least: __m512, q: __m512i) -> f32x16 {
        cast(simd.avx512f._mm512_fmadd_ps(scale, simd.avx512f._mm512_cvtepi32_ps(q), least))
    }

    impl Widen for V4 {
        type Unit = [f32x16; 2];

        #[inline(always)]
        fn bf16(self, words: &[u8; 2 * UNIT]) -> Self::Unit {
            let [a, b] = cast::<_, [__m256i; 2]>(*words);
            [bf16_16(self, a), bf16_16(self, b)]
        }

        #[inline(always)]
        fn f16(self, words: &[u8; 2 * UNIT]) -> Self::Unit {
            let [a, b] = cast::<_, [__m256i; 2]>(*words);
            [cast(self.avx512f._mm512_cvtph_ps(a)), cast(self.avx512f._mm512_cvtph_ps(b))]
        }

        #[inline(always)]
        fn bytes(self, scale: [u8; 2], q: &[u8; UNIT]) -> Self::Unit {
            let ([a, b], scale) = (cast::<_, [__m128i; 2]>(*q), splat_16(self, scale));
            [bytes_16(self, scale, a), bytes_16(self, scale, b)]
        }

        #[inline(always)]
        fn nibbles(self, scale: [u8; 2], least: Least, q: &[u8; UNIT / 2]) -> Self::Unit {
            let scale = splat_16(self, scale);
            let least = match least {
                Least::Scales(n) => self.avx512f._mm512_mul_ps(scale, self.avx512f._mm512_set1_ps(n)),
                Least::Stored(least) => splat_16(self, least),
            };
            let q = self.avx512f._mm512_cvtepu8_epi32(cast(*q));
            let lower = self.avx512f._mm512_and_si512(q, self.avx512f._mm512_set1_epi32(15));
            let upper = self.avx512f._mm512_srli_epi32::<4>(q);
            [scaled_16(self, scale, least, lower), scaled_16(self, scale, least, upper)]
        }
    }
}

/// Loops over single numbers, of which the compiler makes vector instructions where the target always has some, as NEON is on AArch64.
macro_rules! widen_by_loops {
    ($simd:ty, $unit:ty) => {
        impl Widen for $simd {
            type Unit = $unit;

            #[inline(always)]
            fn bf16(self, words: &[u8; 2 * UNIT]) -> Self::Unit {
                let word = |i: usize| u16::from_ne_bytes([words[2 * i], words[2 * i + 1]]);
                unit(|i| f32::from_bits(u32::from(word(i)) << 16))
            }

            #[inline(always)]
            fn f16(self, words: &[u8; 2 * UNIT]) -> Self::Unit {
                unit(|i| f16::from_ne_bytes([words[2 * i], words[2 * i + 1]]).to_f32())
            }

            #[inline(always)]
            fn bytes(self, scale: [u8; 2], q: &[u8; UNIT]) -> Self::Unit {
                let scale = f16::from_le_bytes(scale).to_f32();
                unit(|i| scale * f32::from(q[i] as i8))
            }

            #[inline(always)]
            fn nibbles(self, scale: [u8; 2], least: Least, q: &[u8; UNIT / 2]) -> Self::Unit {
                let scale = f16::from_le_bytes(scale).to_f32();
                let least = match least {
                    Least::Scales(n) => scale * n,
                    Least::Stored(least) => f16::from_le_bytes(least).to_f32(),
                };
                let half = UNIT / 2;
                unit(|i| scale * f32::from(if i < half { q[i] & 15 } else { q[i - half] >> 4 }) + least)
            }
        }
    };
}

widen_by_loops!(Scalar, [f32; UNIT]);
#[cfg(target_arch = "aarch64")]
widen_by_loops!(pulp::aarch64::Neon, [pulp::f32x4; UNIT / 4]);

/// The numbers `f(i)`.
#[inline(always)]
fn unit<U: bytemuck::Pod>(f: impl FnMut(usize) -> f32) -> U {
    bytemuck::cast::<[f32; UNIT], U>(std::array::from_fn(f))
}
