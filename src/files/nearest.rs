//! The name that was probably meant.

/// The candidate that `key` is most likely a misspelling of, if one is near enough.
///
/// Distance is counted in inserted, deleted, replaced or swapped letters; case does not count, nor does `-`
/// in place of `_`. Up to a third of the letters may differ.
pub fn nearest<'a>(key: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', ' '], "_");
    let key = plain(key);
    let limit = (key.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|&candidate| (strsim::damerau_levenshtein(&key, &plain(candidate)), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_ignores_case_and_dashes_and_gives_up_on_strangers() {
        assert_eq!(nearest("Latent-Steps", &["transmit", "latent_steps"]), Some("latent_steps"));
        assert_eq!(nearest("fed", &["feed"]), Some("feed"));
        assert_eq!(nearest("zebra", &["feed", "transmit"]), None);
        assert_eq!(nearest("", &[]), None);
    }
}
