//! Sizes as a reader says them.

use unit_prefix::NumberPrefix;

/// `15 B`, `1.46 KiB`.
pub fn human_bytes(bytes: u64) -> String {
    match NumberPrefix::binary(bytes as f64) {
        NumberPrefix::Standalone(number) => format!("{number:.0} B"),
        NumberPrefix::Prefixed(prefix, number) => format!("{number:.2} {prefix}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit_that_fits() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1500, "1.46 KiB"), (1 << 20, "1.00 MiB"), (3 << 29, "1.50 GiB")];
        for (n, text) in cases {
            assert_eq!(human_bytes(n), text);
        }
    }
}
