//! Times as a reader says them.

use std::time::Duration;

const UNITS: [(f64, &str); 6] = [
    (365.0 * 86400.0, "year"),
    (7.0 * 86400.0, "week"),
    (86400.0, "day"),
    (3600.0, "hour"),
    (60.0, "minute"),
    (1.0, "second"),
];

/// The time in whole units, of which there are at least two unless they are seconds: `89 seconds`, `2 minutes`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    // From a unit and a half on, less half of the next smaller unit, its number rounds to two.
    let fits = |pair: &&[(f64, &str)]| seconds + pair[1].0 / 2.0 >= 1.5 * pair[0].0;
    let (unit, name) = UNITS.windows(2).find(fits).map_or(UNITS[UNITS.len() - 1], |pair| pair[0]);
    let least = if unit > 1.0 { 2.0 } else { 0.0 };
    match (seconds / unit).round().max(least) {
        1.0 => format!("1 {name}"),
        n => format!("{n} {name}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_a_unit_of_which_there_are_two() {
        let cases = [
            (0.4, "0 seconds"),
            (1.2, "1 second"),
            (89.4, "89 seconds"),
            (89.6, "2 minutes"),
            (149.0, "2 minutes"),
            (150.0, "3 minutes"),
            (89.0 * 60.0, "89 minutes"),
            (5400.0, "2 hours"),
            (35.0 * 3600.0, "35 hours"),
            (36.0 * 3600.0, "2 days"),
            (20.0 * 86400.0, "3 weeks"),
            (800.0 * 86400.0, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text, "{seconds}");
        }
    }
}
