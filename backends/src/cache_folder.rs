//! Where the program keeps what it can make or fetch again.

use std::path::PathBuf;

/// `$DIFFMAS_CACHE`, else `$XDG_CACHE_HOME/diffmas`, else `~/.cache/diffmas`; none where not even a home folder is known.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DIFFMAS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("diffmas")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/diffmas")))
}
