//! What each command prints, whole: its help, a run and an error.
//!
//! `tests/snapshots/COMMAND/CASE.toml` has the arguments and the exit code, `.stdout` and `.stderr` beside it what is printed.

/// Environment variables that the text depends on; a case inherits none.
const ENVIRONMENT: [(&str, &str); 3] = [("COLUMNS", "100"), ("HF_HOME", "hf"), ("DIFFMAS_CACHE", "cache")];

#[test]
fn every_command_prints_what_its_snapshot_says() {
    let cases = trycmd::TestCases::new();
    cases.default_bin_name("diffmas");
    for (name, value) in ENVIRONMENT {
        cases.env(name, value);
    }
    cases.case("tests/snapshots/*/*.toml");
}
