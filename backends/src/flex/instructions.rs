//! Which vector instructions the kernels use: the widest that the processor has, or those that `DIFFMAS_CPU` names.

use std::sync::OnceLock;

use pulp::Arch;

use super::widen::Widen;

/// The environment variable that names the instructions to use, so that each kind can be tested on a processor that has several.
const VARIABLE: &str = "DIFFMAS_CPU";

/// The instructions that this processor has, widest first.
fn available() -> Vec<(&'static str, Arch)> {
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        // 16-bit numbers are widened by instructions that are no part of pulp's level.
        let half = std::arch::is_x86_feature_detected!("f16c");
        all.extend(V4::try_new().map(|simd| ("avx512", Arch::V4(simd))));
        all.extend(V3::try_new().filter(|_| half).map(|simd| ("avx2", Arch::V3(simd))));
    }
    #[cfg(target_arch = "aarch64")]
    all.extend(pulp::aarch64::Neon::try_new().map(|simd| ("neon", Arch::Neon(simd))));
    all.push(("portable", Arch::Scalar));
    all
}

/// The instructions to use.
///
/// # Errors
/// A sentence where the environment names some that this processor does not have.
fn chosen() -> Result<Arch, String> {
    let all = available();
    match std::env::var(VARIABLE) {
        Ok(name) => match all.iter().find(|(known, _)| *known == name) {
            Some((_, arch)) => Ok(*arch),
            None => Err(format!(
                "{VARIABLE} is `{name}`, but this processor has {}",
                cpu_instructions().join(", ")
            )),
        },
        Err(_) => Ok(all[0].1),
    }
}

/// The names that `DIFFMAS_CPU` may have here: the kinds of vector instructions that `flex` uses and this processor has, widest first.
pub fn cpu_instructions() -> Vec<&'static str> {
    available().into_iter().map(|(name, _)| name).collect()
}

/// Refuses a choice of instructions that this processor does not have.
///
/// # Errors
/// A sentence.
pub(crate) fn check() -> Result<(), String> {
    chosen().map(drop)
}

/// The instructions that all kernels use; chosen once. A wrong choice, which [`check`] refuses, counts as none.
pub(super) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| chosen().unwrap_or_else(|_| available()[0].1))
}

/// A computation that reads numbers narrower than f32.
pub(super) trait Kernel {
    /// What it returns.
    type Output;

    /// Computes with the instructions of `S`. To be inlined always.
    fn run<S: Widen>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the instructions that [`arch`] chose.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    match arch() {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => simd.vectorize(
            #[inline(always)]
            || kernel.run(simd),
        ),
        // SAFETY: `available` has found the instructions beyond pulp's level.
        #[cfg(target_arch = "x86_64")]
        Arch::V3(simd) => unsafe { with_f16c(simd, kernel) },
        #[cfg(target_arch = "aarch64")]
        Arch::Neon(simd) => simd.vectorize(
            #[inline(always)]
            || kernel.run(simd),
        ),
        _ => kernel.run(pulp::Scalar),
    }
}

/// What [`pulp::Simd::vectorize`] does, with `f16c` beside the instructions of [`pulp::x86::V3`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,avx2,bmi1,bmi2,f16c,fma,lzcnt,popcnt,sse3,sse4.1,sse4.2,ssse3")]
fn with_f16c<K: Kernel>(simd: pulp::x86::V3, kernel: K) -> K::Output {
    kernel.run(simd)
}
