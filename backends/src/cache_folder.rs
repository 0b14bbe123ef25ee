//! Where the program keeps what it can make or fetch again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

static KEEPS_KERNELS: AtomicBool = AtomicBool::new(true);

/// `$DIFFMAS_CACHE`, else `$XDG_CACHE_HOME/diffmas`, else `~/.cache/diffmas`; none where not even a home folder is known.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DIFFMAS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("diffmas")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/diffmas")))
}

/// Devices that start from now on compile all kernels, whatever was compiled before, and keep none: what that costs can be measured.
pub fn keep_no_kernels() {
    KEEPS_KERNELS.store(false, Ordering::Relaxed);
}

/// Where compiled kernels are kept, if they are.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) fn kernel_folder() -> Option<PathBuf> {
    KEEPS_KERNELS.load(Ordering::Relaxed).then(|| Some(cache_folder()?.join("kernels")))?
}
